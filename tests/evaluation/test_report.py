"""write_report: one well-formed file with the numbers of results.json."""

import dataclasses
import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from sprout_fast.evaluation import PROTOCOLS, Subject, evaluate, write_report
from sprout_fast.evaluation.audit import run_audit
from sprout_fast.evaluation.protocols import Setting
from sprout_fast.evaluation.recorder import AccuracyRecord
from sprout_fast.evaluation.report.comparison import measured
from sprout_fast.evaluation.report.plots import base
from sprout_fast.evaluation.report.plots.base import plots
from sprout_fast.paper import TABLES, VGG, WRN, published

CLASSES, SIDE, IMAGES = 10, 8, 12
SHOWN = ("all", "strong", "audit", "paper")
VOID = {"meta", "img", "br", "link", "hr", "input"}


@pytest.fixture(autouse=True, scope="module")
def coarse_figures():
    """Draw at a low resolution, since drawing takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "DPI", 50)
        yield


def linear_model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))


@pytest.fixture(scope="module")
def everything():
    """Evaluate a linear model with all protocols; it classifies ten of twelve images correctly."""
    model = linear_model(0)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (IMAGES, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        labels = model(images / 255).argmax(1)
    labels[:2] = (labels[:2] + 1) % CLASSES
    subject = Subject(
        model,
        "<script>alert('name')</script>",
        CLASSES,
        surrogate=linear_model(2),
        surrogate_name="another",
        beta=torch.linspace(0.1, 1, CLASSES),
        config={"arch": "cifar_vgg16"},
        class_names=[f"<i>{k}</i>" for k in range(CLASSES)],
    )
    results = evaluate(subject, images, labels, protocol="all", scale=0.02, eps=0.012)
    results.images_available = 1000
    return results


def changed(results, **changes):
    """Return the results with changes, audited again."""
    results = dataclasses.replace(results, **changes)
    audit = run_audit(results.subject, results.records, results.protocol)
    return dataclasses.replace(results, audit=audit)


def part(results, protocol):
    """Return the results of an evaluation with ``protocol`` alone."""
    setting = Setting(results.norm, results.eps, CLASSES, SIDE, results.scale)
    names = {measurement.name for measurement in PROTOCOLS[protocol](setting)}
    records = {name: record for name, record in results.records.items() if name in names}
    return changed(results, protocol=protocol, records=records)


@pytest.fixture(scope="module")
def saved(everything, tmp_path_factory):
    """Return a function: protocol -> (results, folder, page), which are made once each."""
    made = {}

    def save(protocol):
        if protocol not in made:
            results = part(everything, protocol)
            folder = tmp_path_factory.mktemp(protocol)
            results.save(folder)
            made[protocol] = results, folder, Page(write_report(results, folder))
        return made[protocol]

    return save


class Page(HTMLParser):
    """The elements of an HTML file, their text, and what they load."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.tags, self.text = [], [], ""
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"
        self.text += " " if tag in ("td", "th", "li", "p") else ""

    def handle_data(self, data):
        self.text += data if not {"style"} & set(self.open) else ""

    @property
    def words(self):
        return re.sub(r"\s+", " ", self.text)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def values_after(self, marker):
        """Return the <data> values from ``marker`` to the end of its table row or <strong>."""
        block = re.split(r"</tr>|</strong>", self.source[self.source.index(marker) :])[0]
        return [float(value) for value in re.findall(r'<data value="([^"]+)">', block)]


@pytest.mark.parametrize("protocol", SHOWN)
def test_the_file_is_self_contained(saved, protocol):
    _, folder, page = saved(protocol)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            address = attributes.get(name, "#")
            assert address.startswith(("#", "data:image/png;base64,")), (tag, address[:80])
    assert not page.all("script") and not page.all("link")
    assert "url(" not in page.source and "@import" not in page.source
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)
    assert all(image["alt"].strip() for image in page.all("img"))
    assert {path.stem for path in (folder / "figures").iterdir()} == set(ids) & {
        plot.name for plot in plots()
    }


def test_figures_are_drawn_if_their_measurements_exist(saved):
    def drawn(protocol):
        return {path.stem for path in (saved(protocol)[1] / "figures").iterdir()}

    assert drawn("all") == {plot.name for plot in plots()}
    assert "accuracy_against_eps" in drawn("audit") & drawn("paper")
    assert "accuracy_against_steps" in drawn("paper") - drawn("audit") - drawn("strong")
    # beta is part of the subject. Figures of a previous evaluation are removed.
    assert drawn("strong") <= {"accuracy_by_attack", "beta_matrix", "perturbation_sizes"}
    results, folder, _ = saved("strong")
    (folder / "figures" / "radar.png").write_bytes(b"")
    write_report(results, folder)
    assert "radar" not in drawn("strong")


@pytest.mark.parametrize("protocol", ["all", "strong"])
def test_the_numbers_are_those_of_results_json(saved, protocol):
    _, folder, page = saved(protocol)
    content = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    verdict = content["verdict"]
    assert page.values_after('id="clean-accuracy"') == [verdict["clean_accuracy"]]
    assert page.values_after('id="robust-accuracy"') == [verdict["robust_accuracy"]]
    attacks = [one for one in content["measurements"] if "attack" in one["parameters"]]
    assert len(attacks) == {"all": 40, "strong": 4}[protocol]
    for one in attacks:
        marker = f'data-attack="{html.escape(one["name"])}"'
        assert page.values_after(marker) == [one["accuracy"]], one["name"]
    for check in content["audit"]["checks"]:
        source = html.unescape(page.source)
        block = source[source.index(f"{check['name']}; {check['source']}") :].split("</li>")[0]
        assert re.findall(r'<data value="([^"]+)">', block) == [
            str(value) for value in check["numbers"].values()
        ]


def test_results_json_has_every_parameter(saved):
    results, folder, _ = saved("all")
    content = json.loads((folder / "results.json").read_text())
    assert [one["name"] for one in content["measurements"]] == list(results.records)
    pgd = next(one for one in content["measurements"] if one["name"] == "audit: one step")
    assert pgd["parameters"]["options"]["steps"] == 1
    assert pgd["parameters"]["defaults"]["loss"] == "ce"
    assert content["parameters"].keys() >= {"seed", "batch_size", "scale", "protocol", "training"}
    assert content["versions"].keys() >= {"sprout_fast", "torch", "python"}
    assert content["per_image"]["misclassified"] == results.misclassified.tolist()


def test_save_writes_results_json_only(everything, tmp_path):
    path = everything.save(tmp_path / "new" / "folder")
    assert [one.name for one in path.parent.iterdir()] == ["results.json"] == [path.name]


def test_names_are_escaped(saved):
    _, _, page = saved("all")
    assert "<script>alert('name')</script>" in page.text
    assert "alert" not in page.source.replace("&lt;script&gt;alert(&#39;name&#39;)", "")
    assert not page.all("i") and "<i>3</i>" in page.text


def test_the_verdict_states_the_limits_of_the_protocol(saved):
    today = "no attack that is used to benchmark robustness today was run"
    assert today in saved("paper")[2].words
    assert "No attack was run in this ball" in saved("paper")[2].words
    assert "No attack was run in this ball" not in saved("strong")[2].words
    assert "AutoAttack's four attacks are included" in saved("strong")[2].words
    assert (
        "APGD-T, FAB-T, Square ran in a cascade, each on samples still correctly classified"
        in saved("strong")[2].words
    )
    assert (
        "in a cascade, each on samples still correctly classified, so"
        not in saved("paper")[2].words
    )
    assert "FAB-T was not run in this ball" in saved("audit")[2].words
    words = saved("all")[2].words
    assert today not in words
    assert "Measured on 12 of 1,000 available images" in words
    assert (
        "Trial run: the steps, restarts and queries of all attacks were multiplied by 0.02" in words
    )


def sentence(page, start):
    return page.words[page.words.index(start) :].split(". ")[0]


def test_doubts_are_in_the_same_sentence_as_the_number(saved, everything, tmp_path):
    strong = part(everything, "strong")
    clean = dataclasses.replace(everything.records["clean"])
    clean.columns = clean.columns | {"change": clean.columns["margin"]}  # random outputs
    doubtful = changed(strong, records=strong.records | {"clean": clean})
    assert doubtful.robust.correct > 0
    text = sentence(Page(write_report(doubtful, tmp_path)), "Robust accuracy is")
    assert f"{100 * doubtful.robust_accuracy:.1f}" in text
    assert "but this number is doubtful" in text


@pytest.mark.parametrize("misclassified", [True, False])
def test_all_wrong_and_all_robust(everything, tmp_path, misclassified):
    records = {}
    for name, record in everything.records.items():
        record = records[name] = dataclasses.replace(record)
        if isinstance(record, AccuracyRecord):
            record.misclassified = torch.full_like(record.misclassified, misclassified)
        if "misclassified" in record.columns:
            keep = slice(0, 0) if misclassified and name != "clean" else slice(None)
            record.rows = record.rows[keep]
            record.columns = {key: column[keep] for key, column in record.columns.items()}
            record.columns["misclassified"] = torch.full_like(
                record.columns["misclassified"], misclassified
            )
            if record.adversarial is not None:
                record.gallery, record.adversarial = record.gallery[keep], record.adversarial[keep]
    results = changed(everything, records=records)
    page = Page(write_report(results, tmp_path))
    assert page.values_after('id="robust-accuracy"') == [0.0 if misclassified else 1.0]
    assert ("robust accuracy is zero regardless" in page.words) == (
        misclassified and bool(results.audit.failed)
    )
    assert ('id="gallery"' in page.source) == (not misclassified)


def test_columns_without_numbers(everything, tmp_path):
    records = {}
    for name, record in everything.records.items():
        records[name] = dataclasses.replace(
            record,
            columns={
                key: column * math.nan if column.is_floating_point() else column
                for key, column in record.columns.items()
            },
        )
    results = changed(everything, records=records)
    results.save(tmp_path)
    page = Page(write_report(results, tmp_path))
    json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert 'id="loss_landscape"' not in page.source and 'id="diversity"' not in page.source


def test_clean_accuracy_alone_and_attacks_that_could_not_be_run(everything, tmp_path):
    clean = changed(everything, records={"clean": everything.records["clean"]})
    words = Page(write_report(clean, tmp_path)).words
    assert "nothing can be said about robustness" in words
    transfer = dataclasses.replace(
        everything.records["audit: transfer"], unavailable="no surrogate"
    )
    audit = part(everything, "audit")
    without = changed(audit, records=audit.records | {"audit: transfer": transfer})
    page = Page(write_report(without, tmp_path))
    assert "audit: transfer: no surrogate" in page.words
    assert 'data-attack="audit: transfer"' not in page.source


def test_the_gallery_shows_the_first_correctly_classified_images(saved):
    results, _, page = saved("strong")
    assert results.records["APGD-CE"].gallery.tolist() == list(range(2, 10))
    block = page.source[page.source.index('id="gallery"') :].split("</section>")[0]
    numbers = re.findall(r'alt="Image (\d+), [^"]*, clean"', block)
    assert [int(number) for number in numbers] == list(range(2, 10))
    found = results.records["APGD-CE"].misclassified[2:10]
    assert len(re.findall(r"✗", block)) >= int(found.sum()) > 0
    assert len(re.findall("already misclassified", block)) >= int(found.sum())


def test_the_papers_tables_have_a_row_for_the_model(saved):
    results, _, page = saved("all")
    table = published(2, VGG)
    for heading, source in table.columns.items():
        ours = measured(results, source)
        assert ours.value == results.records[source].accuracy.top1, heading
    words = page.words
    for value in ("62.24", "66.23", "85.21", "86.28", "88.26", "61.0", "0.1023"):
        assert f" {value} " in words, value
    assert "62.64 in the paper's Table 7" in words
    assert "Table 4" not in words.split("Figures")[0]  # ImageNet's
    none = saved("strong")[2].words
    assert "62.24" not in none and "The measurements of the paper's tables" in none


def test_every_column_of_the_papers_tables_names_a_measurement():
    setting = Setting("linf", 8 / 255, 1000, 224)
    names = {measurement.name for measurement in PROTOCOLS["paper"](setting)}
    for table in TABLES:
        for source in table.columns.values():
            assert source is None or source.partition(": ")[0] in names, source
        assert {len(values) for values in table.rows.values()} == {len(table.columns)}
    assert published(9, WRN).column("10 starts")["sprout"] == 61.0


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_in_a_browser(saved, tmp_path):
    _, _, page = saved("all")
    frame = '<iframe style="border:0;height:800px;width:{}px" srcdoc="{}"></iframe>'
    frames = "".join(frame.format(width, html.escape(page.source)) for width in (400, 1400))
    script = """<script>onload = () => {
      const seen = [...document.querySelectorAll("iframe")].map(one => {
        const page = one.contentDocument, root = page.documentElement;
        const broken = [...page.images].filter(image => image.naturalWidth === 0).length;
        return [root.clientWidth, root.scrollWidth, page.images.length, broken];
      });
      document.body.textContent = JSON.stringify(seen);
    };</script>"""
    wrapper = tmp_path / "frames.html"
    wrapper.write_text(f"<!DOCTYPE html><meta charset=utf-8>{script}<body>{frames}", "utf-8")
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        "--v=0", "--dump-dom", wrapper.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    seen = json.loads(re.search(r"\[\[.*\]\]", done.stdout).group())
    for width, (inner, scrolled, images, broken) in zip((400, 1400), seen, strict=True):
        assert width - 20 <= inner <= width  # less a scroll bar
        assert scrolled <= inner, f"{scrolled - inner} pixels too wide at {width}"
        assert images > 10 and broken == 0
