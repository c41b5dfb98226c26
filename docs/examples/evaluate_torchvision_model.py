# %% [markdown]
# How robust is a torchvision model? Run as a script, or cell by cell in an editor that knows cells.

# %% A model that accepts images in [0, 1], here with random weights. A real evaluation would load,
# for example, torchvision.models.ResNet18_Weights.DEFAULT.
import tempfile

import torch
import torchvision

import sprout_fast
from sprout_fast.evaluation import write_report
from sprout_fast.models import Normalized

torch.manual_seed(0)
network = torchvision.models.resnet18(weights=None, num_classes=10)
model = Normalized(network, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).eval()

# %% Images and labels: made up here. uint8, or floating-point in [0, 1].
images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
with torch.no_grad():
    labels = model(images / 255).argmax(1)  # so that clean accuracy is 100 %

# %% Evaluate. scale=0.02 runs 2 % of the attacks' budgets: a trial, for seconds instead of minutes.
results = sprout_fast.evaluate(
    model,
    images,
    labels,
    protocol="strong",
    norm="linf",
    eps=4 / 255,
    scale=0.02,
    progress=lambda record, done, total: print(f"{record.name}: {done} of {total}"),
)
print(results)

# %% Accuracy under each attack, on samples still correctly classified after the ones before.
for name, record in results.attacks.items():
    print(f"{name:<8} {int(record.misclassified.sum())} of {len(labels)} misclassified")

# %% Can the numbers be believed? The audit looks for signs of gradient masking.
audited = sprout_fast.evaluate(model, images, labels, protocol="audit", eps=4 / 255, scale=0.02)
for check in audited.audit.checks:
    print(f"{check.status:<8} {check.name}: {check.reason}")

# %% Save results.json, and a report that needs no other file.
folder = tempfile.mkdtemp()
results.save(folder)
print(write_report(results, folder))
