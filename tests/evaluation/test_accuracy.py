"""measure_accuracy: exact counts for any batch sizes, ranks and precisions."""

import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sprout_fast.errors import UserError
from sprout_fast.evaluation import Accuracy, measure_accuracy

CPU = torch.device("cpu")


def test_accuracy_as_text():
    assert (
        str(Accuracy(174, 200, "clean"))
        == "clean 87.0 % (174 of 200; 95 % interval 81.6 to 91.0 %)"
    )
    assert str(Accuracy(1, 2)).startswith("50.0 % (1 of 2;")


@pytest.mark.parametrize(("correct", "total"), [(1, 3), (174, 200), (50, 50000), (49999, 50000)])
def test_wilson_interval_solves_its_equation(correct, total):
    # At both bounds p, the observed fraction is 1.96 standard errors of p away.
    accuracy = Accuracy(correct, total)
    low, high = accuracy.interval
    assert low < accuracy.top1 < high
    for p in (low, high):
        z = abs(accuracy.top1 - p) / math.sqrt(p * (1 - p) / total)
        assert z == pytest.approx(1.959964, rel=1e-5)


def test_wilson_interval_with_none_and_all_correct():
    assert Accuracy(0, 10).interval == (0.0, pytest.approx(0.27753, abs=1e-5))
    assert Accuracy(10, 10).interval == (pytest.approx(0.72247, abs=1e-5), 1.0)
    for correct, total in [(0, 0), (3, 2), (-1, 2)]:
        with pytest.raises(ValueError, match="expected 0 <= correct"):
            Accuracy(correct, total)


def make_batches(sizes=(8, 8, 5), num_classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            # NHWC memory, as from the loaders
            torch.randint(256, (size, 6, 6, 3), generator=generator, dtype=torch.uint8).permute(
                0, 3, 1, 2
            ),
            torch.randint(num_classes, (size,), generator=generator),
        )
        for size in sizes
    ]


def make_model(num_classes=7):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(128, num_classes),
    )


def by_hand(model, batches):
    """Count image by image, with sorting instead of topk and float64 instead of float32."""
    model.eval()
    correct = correct5 = 0
    loss = 0.0
    for images, labels in batches:
        for image, label in zip(images, labels.tolist(), strict=True):
            with torch.no_grad():
                logits = model(image[None].float() / 255)[0].double()
            ranking = logits.argsort(descending=True).tolist()
            correct += ranking[0] == label
            correct5 += label in ranking[:5]
            loss -= logits.log_softmax(0)[label].item()
    model.train()
    total = sum(len(labels) for _, labels in batches)
    return correct, correct5, total, loss / total


def test_counts_equal_a_plain_loop():
    model, batches = make_model(), make_batches()
    correct, correct5, total, loss = by_hand(model, batches)
    result = measure_accuracy(model, batches, device=CPU)
    assert (result.clean.correct, result.top5.correct) == (correct, correct5)
    assert result.clean.total == result.top5.total == total == 21
    assert 0 < correct < correct5 < total  # else the test could not tell them apart
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.attacked is None and result.attacked_loss is None
    assert str(result) == str(result.clean)


def test_floating_point_images_are_not_rescaled():
    model, batches = make_model(), make_batches()
    floats = [(images.float() / 255, labels) for images, labels in batches]
    assert measure_accuracy(model, floats, device=CPU) == measure_accuracy(
        model, batches, device=CPU
    )


def test_modes_are_restored_and_batch_norm_is_not_updated():
    model = make_model()
    model[2].eval()
    running = model[1].running_mean.clone()
    with_dropout = [measure_accuracy(model, make_batches(), device=CPU) for _ in range(2)]
    assert with_dropout[0] == with_dropout[1]
    assert torch.equal(model[1].running_mean, running)
    assert model.training and model[1].training and not model[2].training
    with pytest.raises(RuntimeError):
        measure_accuracy(model, [(torch.zeros(2, 4, 6, 6), torch.zeros(2).long())], device=CPU)
    assert model.training and not model[2].training


def test_attack_receives_images_in_01_and_its_images_are_classified():
    model, batches = make_model(), make_batches()
    calls = []

    def attack(images, labels):
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        assert not torch.is_autocast_enabled("cpu")
        calls.append(len(labels))
        return 1 - images

    flipped = [(255 - images, labels) for images, labels in batches]
    clean = measure_accuracy(model, batches, device=CPU)
    expected = measure_accuracy(model, flipped, device=CPU)
    result = measure_accuracy(model, batches, device=CPU, attack=attack)
    assert calls == [8, 8, 5]
    assert (result.clean, result.top5, result.loss) == (clean.clean, clean.top5, clean.loss)
    assert result.attacked.correct == expected.clean.correct != result.clean.correct
    assert result.attacked_loss == pytest.approx(expected.loss, rel=1e-5)
    assert str(result) == f"{result.clean}; {result.attacked}"
    assert "under attack" in str(result)
    measure_accuracy(model, batches, device=CPU, attack=attack, amp_dtype=torch.bfloat16)


def test_rows_with_nan_are_misclassified():
    class Constant(nn.Module):
        def forward(self, images):
            logits = torch.zeros(len(images), 3)
            logits[:, 0] = 1
            logits[0] = float("nan")  # argmax returns 0
            logits[1, 2] = float("nan")
            return logits

    labels = torch.tensor([0, 2, 0, 1])
    result = measure_accuracy(Constant(), [(torch.zeros(4, 3, 2, 2), labels)], device=CPU)
    assert (result.clean.correct, result.top5.correct, result.clean.total) == (1, 2, 4)
    assert math.isnan(result.loss)


def test_fewer_than_five_classes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    batch = (torch.rand(6, 3, 2, 2), torch.tensor([0, 1] * 3))
    result = measure_accuracy(model, [batch], device=CPU)
    assert result.top5.correct == 6


def test_amp_runs_the_model_in_the_given_dtype():
    seen = []
    model = make_model()
    model[4].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    result = measure_accuracy(model, make_batches(), device=CPU, amp_dtype=torch.bfloat16)
    exact = measure_accuracy(model, make_batches(), device=CPU)
    assert set(seen[:3]) == {torch.bfloat16} and set(seen[3:]) == {torch.float32}
    assert result.loss == pytest.approx(exact.loss, rel=2e-2) and result.loss != exact.loss


def test_results_are_read_back_only_at_the_end():
    class CountReads(TorchDispatchMode):
        reads = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.reads += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    with CountReads() as few:
        measure_accuracy(make_model(), make_batches((4,) * 2), device=CPU)
    with CountReads() as many:
        measure_accuracy(make_model(), make_batches((4,) * 12), device=CPU)
        at_work = many.reads
        torch.ones(()).item()
    assert few.reads == at_work
    assert many.reads == at_work + 1  # the counter works


def test_empty_loader_is_an_error():
    with pytest.raises(UserError, match="no images"):
        measure_accuracy(make_model(), [], device=CPU)


def test_counts_are_summed_over_ranks(tmp_path):
    code = f"""
        import sys, torch, torch.distributed as dist
        from copy_of_this_file import make_batches, make_model
        from sprout_fast.evaluation import measure_accuracy
        rank = int(sys.argv[1])
        dist.init_process_group("gloo", init_method="file://{tmp_path}/store",
                                rank=rank, world_size=2)
        shard = make_batches()[rank::2]  # 13 images and 8
        r = measure_accuracy(make_model(), shard, device="cpu", attack=lambda x, y: 1 - x)
        print(r.clean.correct, r.clean.total, r.top5.correct, r.attacked.correct,
              f"{{r.loss:.6f}} {{r.attacked_loss:.6f}}")
        dist.destroy_process_group()
    """
    # Both processes import this file's batches and model from a copy.
    (tmp_path / "copy_of_this_file.py").write_bytes(Path(__file__).read_bytes())
    program = "import sys; sys.path[:0] = ['', " + repr(str(tmp_path)) + "]\n"
    program += textwrap.dedent(code)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]

    r = measure_accuracy(make_model(), make_batches(), device=CPU, attack=lambda x, y: 1 - x)
    found = outputs[0][0].split()
    expected = [r.clean.correct, r.clean.total, r.top5.correct, r.attacked.correct]
    assert found[:4] == [str(n) for n in expected]
    losses = [float(text) for text in found[4:]]
    assert losses == pytest.approx([r.loss, r.attacked_loss], abs=2e-6)


def test_loss_is_the_mean_over_images_not_batches():
    model = make_model().eval()
    images, labels = zip(*make_batches((7, 1)), strict=True)
    with torch.no_grad():
        logits = model(torch.cat(images).float() / 255)
    result = measure_accuracy(model, make_batches((7, 1)), device=CPU)
    assert result.loss == pytest.approx(F.cross_entropy(logits, torch.cat(labels)).item(), rel=1e-5)
