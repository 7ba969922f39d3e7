from __future__ import annotations

import base64
import functools
import importlib.util
import io
import itertools
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report_browser import CHROMIUM, look

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.synthetic import generate
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.content_hash import KEY
from cfp_cli.foundation.errors import CfpError, DataError, RunError
from cfp_cli.measuring.metrics import ClassMetrics, Metrics, compute_metrics
from cfp_cli.models.registry import create
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.plan import Plan
from cfp_cli.report import page, text
from cfp_cli.report.page_data import MistakeImage, PageData
from cfp_cli.runs import report as report_module
from cfp_cli.runs.bench import run_bench
from cfp_cli.runs.directory import Run
from cfp_cli.runs.finetune import run_finetune
from cfp_cli.runs.inputs import DataInput, ModelInput
from cfp_cli.runs.prune import run_prune
from cfp_cli.runs.records import BenchRecord, FinetuneRecord
from cfp_cli.runs.report import run_report
from cfp_cli.runs.score import ScoreOptions, run_score
from cfp_cli.scoring.scores import Scores
from cfp_cli.training.options import TrainOptions

CPU = torch.device("cpu")
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.inner = nn.Conv2d(12, 16, 3, 1, 1)
        self.outer = nn.Conv2d(16, 12, 3, 1, 1)
        self.last = nn.Conv2d(12, 24, 3, 2, 1)
        self.head = nn.Linear(24, num_classes)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))

def net(num_classes):
    return Net(num_classes)
"""
SECTIONS = (
    "verdict",
    "summary",
    "channels",
    "layers",
    "curves",
    "confusion",
    "recall",
    "mistakes",
    "latency",
    "provenance",
)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """All elements of a page in order, each with the text inside it."""

    elements: list[Element] = field(default_factory=list)
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def section(self, name: str) -> str:
        return next(e.text for e in self.elements if e.tag == "section" and e.attributes["id"] == name)


def parsed(content: str | bytes) -> Page:
    found = Page()
    found.feed(content if isinstance(content, str) else content.decode())
    found.close()
    assert not found._open
    return found


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, built_in: Callable[[str, str, str], str]) -> Path:
    """A run that is only scored; beside it its images and its model."""
    folder = tmp_path_factory.mktemp("report")
    images = generate(folder / "data", per_class=8, test_per_class=3, size=64)
    classes = tuple(sorted(each.name for each in (images / "train").iterdir()))
    torch.manual_seed(0)
    arch = built_in("net", NET, "net")
    save(folder / "model.pt", describe(create(arch, len(classes)), ModelSpec(arch, classes, input_size=(32, 32))))
    model, data = ModelInput(folder / "model.pt"), DataInput(images)
    run_score(Run.open(folder / "run"), model, data, ScoreOptions(images=24), device=CPU)
    return folder / "run"


@pytest.fixture(scope="module")
def tuned(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is scored, pruned, fine-tuned and timed."""
    run = Run.open(shutil.copytree(scored, tmp_path_factory.mktemp("tuned") / "run"))
    run_prune(run, None, PruneOptions(ratio=0.6), device=CPU)
    teacher = ModelInput(scored.parent / "model.pt")
    options = TrainOptions.preset("paper", epochs=3, batch_size=16, views=2)
    run_finetune(run, None, None, [teacher, teacher], options, device=CPU)
    models = [teacher, ModelInput(run.finetuned)]
    run_bench(run, models, batches=(1, 2), seconds=0.01, onnx=False, openvino=False, device=CPU)
    return run.folder


@pytest.fixture(scope="module")
def contents(tuned: Path) -> PageData:
    """What the page of that run is laid out from."""
    seen: list[PageData] = []

    def keep(given: PageData) -> bytes:
        seen.append(given)
        return b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "render_page", keep)
        run_report(Run.open(tuned), out=tuned / "empty.html", device=CPU)
    return seen[0]


@pytest.fixture(scope="module")
def html(tuned: Path) -> Path:
    done = run_report(Run.open(tuned), device=CPU)
    assert done.out == tuned / "report.html"
    assert done.left_out == {}
    assert done.bytes == done.out.stat().st_size < 3_000_000
    return done.out


def test_the_page_is_self_contained_and_well_formed(html: Path) -> None:
    found = parsed(html.read_text(encoding="utf-8"))
    for element in found.elements:
        for name in ("src", "href", "srcset", "poster", "action"):
            value = element.attributes.get(name, "data:")
            assert value.startswith(("data:", "#")), f"<{element.tag} {name}={value}>"
        assert not any(name.startswith("on") for name in element.attributes)
    assert "url(" not in html.read_text()
    ids = Counter(e.attributes["id"] for e in found.elements if "id" in e.attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    for element in found.elements:
        for name in ("aria-labelledby", "aria-controls", "for"):
            assert element.attributes.get(name, next(iter(ids))) in ids
        if element.tag == "a":
            assert element.attributes["href"].removeprefix("#") in ids
        if element.tag == "img":
            assert element.attributes["alt"]
        if element.tag == "svg":
            assert element.attributes.get("aria-hidden") or element.attributes["aria-label"]
        if element.tag in ("button", "select"):
            assert element.attributes.get("aria-label") or any(
                e.attributes.get("for") == element.attributes["id"] for e in found.elements
            )
    levels = [int(e.tag[1]) for e in found.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert {e.attributes["id"] for e in found.elements if e.tag == "section"} == set(SECTIONS)


def test_every_figure_comes_from_the_run(html: Path, tuned: Path, scored: Path) -> None:
    found = parsed(html.read_text(encoding="utf-8"))
    plan = Plan.load(tuned / "plan.json")
    summary = found.section("summary")
    assert f"{plan.params_before:,}" in summary
    assert f"{plan.params_after:,}" in summary
    record = Run.open(tuned).require(FinetuneRecord)
    for metrics in (record.metrics.test, record.metrics.teachers[0]):
        assert text.percent(metrics.accuracy) in summary
        assert text.percent(metrics.macro_f1) in summary
    channels = " ".join(found.section("channels").split())
    for group in plan.sets:
        share = f"{100 * len(group.kept) / group.channels:.0f} %"
        assert re.search(rf"{re.escape(group.name)}.*? ?{share} ?{group.channels} ?{len(group.kept)}", channels)
    provenance = found.section("provenance")
    assert len(record.inputs.by_name) == 4
    for entry in record.inputs.by_name.values():
        assert entry.sha256 in provenance
    assert record.outputs["finetuned"].sha256 in provenance
    assert record.versions["torch"] in provenance
    timed = Run.open(tuned).require(BenchRecord).metrics.models
    for model in timed:
        for each in model.latency_ms:
            assert f"{each.median:.2f} ms" in found.section("latency")


def test_confusion_and_recall_are_those_of_teacher_and_student(html: Path, tuned: Path) -> None:
    found = parsed(html.read_text(encoding="utf-8"))
    metrics = Run.open(tuned).require(FinetuneRecord).metrics
    kinds = ("right", "wrong", "none")
    cells = [int(e.text) for e in found.elements if e.tag == "td" and e.attributes.get("class", "").startswith(kinds)]
    expected = [*np.ravel(metrics.teachers[0].confusion), *np.ravel(metrics.test.confusion)]
    assert cells == expected
    recall = found.section("recall")
    for name, student in metrics.test.per_class.items():
        change = student.recall - metrics.teachers[0].per_class[name].recall
        assert re.search(rf"{name}.*?{re.escape(text.points(change))}", recall, re.DOTALL)


def test_the_page_begins_with_a_verdict_and_shows_the_worst_mistakes(html: Path, tuned: Path, scored: Path) -> None:
    found = parsed(html.read_text(encoding="utf-8"))
    assert next(e.attributes["id"] for e in found.elements if e.tag == "section") == "verdict"
    verdict = " ".join(found.section("verdict").split())
    assert re.search(r"Test accuracy: [\d.]+.% \([\d.]+ to [\d.]+\), change", verdict)
    assert "Macro-F1: " in verdict
    assert "Worst class: " in verdict
    student = Run.open(tuned).require(FinetuneRecord).metrics.test
    assert ("has collapsed" in verdict) == (student.collapse is not None)
    wrong = student.images - sum(student.confusion[index][index] for index in range(6))
    assert f"classifies {wrong} of {student.images} test images wrongly" in found.section("mistakes")
    photos = [e for e in found.elements if e.attributes.get("class") == "photo"]
    assert len(photos) == sum(min(4, sum(row) - row[index]) for index, row in enumerate(student.confusion))
    done = run_report(Run.open(tuned), out=tuned / "few.html", worst=0, bench=False, device=CPU)
    assert "as asked by --worst 0" in parsed(done.out.read_text(encoding="utf-8")).section("mistakes")
    assert done.to_json()["final"]["intervals"]["accuracy"][0] < student.accuracy


def test_the_page_has_no_json_and_readable_dates(html: Path) -> None:
    found = parsed(html.read_text(encoding="utf-8"))
    provenance = found.section("provenance")
    assert not re.search(r'[{\[]"|": |null|true|false', provenance)
    assert not re.search(r"\d{4}-\d\d-\d\dT", " ".join(e.text for e in found.elements if e.tag == "body"))
    assert re.search(
        r"written \d+ \w+ \d{4}, \d\d:\d\d UTC", " ".join(e.text for e in found.elements if e.tag == "header")
    )
    cells = [e for e in found.elements if e.tag == "td" and "data-name" in e.attributes]
    # On a narrow screen each cell carries the name of its column, so that no column is out of sight.
    assert {"original", "pruned", "fine-tuned", "change"} <= {e.attributes["data-name"] for e in cells}


def test_the_picker_lists_every_module_and_layers_are_ordered_by_cluster(html: Path, contents: PageData) -> None:
    found = parsed(html.read_text(encoding="utf-8"))
    options = [(int(e.attributes["data-panel"]), e.text.split(":")[0]) for e in found.elements if e.tag == "option"]
    assert options == [(place, m) for place, layer in enumerate(contents.layers) for m in layer.modules]
    assert {"stem", "inner", "outer", "last"} == {name for _, name in options}
    coupled = next(layer for layer in contents.layers if layer.name == "stem")
    assert coupled.modules == ("stem", "outer")
    for layer in contents.layers:
        assert sorted(layer.order) == list(range(layer.channels))
        assert (np.diff(layer.clusters[layer.order]) >= 0).all()
        for cluster in np.unique(layer.clusters):
            members = layer.order[layer.clusters[layer.order] == cluster]
            assert layer.kept is not None
            assert (np.diff(layer.kept[members].astype(int)) <= 0).all()


def test_layers_hold_the_plan_the_scores_and_the_networks_own_maps(
    contents: PageData, tuned: Path, scored: Path
) -> None:
    plan, scores = Plan.load(tuned / "plan.json"), Scores.load(tuned / "scores.safetensors").by_set()
    network = load(scored.parent / "model.pt")
    preprocessing = Preprocessing.of(spec_of(network))
    dataset = open_dataset(scored.parent / "data")
    path = next(item.path for item in dataset.split("train") if item.path.name == contents.example.name)
    image = preprocessing.normalise(torch.from_numpy(preprocessing.pixels(path))[None])
    with torch.inference_mode():
        stem = torch.relu(network.stem(image))
        inner = torch.relu(network.inner(stem))
        outer = torch.relu(stem + network.outer(inner))
        last = torch.relu(network.last(outer))
    for layer in contents.layers:
        assert layer.kept is not None
        planned = next(group for group in plan.sets if group.name == layer.name)
        assert np.flatnonzero(layer.kept).tolist() == list(planned.kept)
        assert layer.clusters.tolist() == list(planned.clusters)
        np.testing.assert_array_equal(layer.richness, scores[layer.name].richness)
        expected = {"stem": (stem, outer), "inner": (inner,), "last": (last,)}[layer.name]
        assert any(np.allclose(layer.maps, maps[0].numpy(), atol=1e-5) for maps in expected)


def test_a_run_without_fine_tuning_says_what_is_left_out(scored: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(scored, tmp_path / "run"))
    done = run_report(run, bench=False, device=CPU)
    assert set(done.left_out) == {"channels", "curves", "confusion", "recall", "latency"}
    found = parsed(done.out.read_text(encoding="utf-8"))
    for name in done.left_out:
        assert "Left out. The run is not pruned yet." in found.section(name)
    assert "Cluster 1" in found.section("layers")
    run_prune(run, None, PruneOptions(ratio=0.5), device=CPU)
    done = run_report(run, bench=False, device=CPU)
    assert done.left_out == {"curves": report_module.NOT_TUNED, "latency": "Latency was not measured."}
    found = parsed(done.out.read_text(encoding="utf-8"))
    assert "Left out. The run is not fine-tuned yet." in found.section("curves")
    assert "Pruned:" in found.section("confusion")
    assert [each.command for each in run.records] == ["score", "report", "prune", "report"]


def test_latency_that_no_bench_measured_is_measured(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(shutil.copytree(scored, tmp_path / "run"))
    run_prune(run, None, PruneOptions(ratio=0.5), device=CPU)
    monkeypatch.setattr(report_module, "BATCHES", (1,))
    torch_only = functools.partial(report_module.benchmark, onnx=False, openvino=False)
    monkeypatch.setattr(report_module, "benchmark", torch_only)
    done = run_report(run, device=CPU)
    assert "batch 1, " in parsed(done.out.read_text(encoding="utf-8")).section("latency")


def test_a_changed_file_is_refused(tuned: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(tuned, tmp_path / "run"))
    changed = tmp_path / "changed.pt"
    changed.write_bytes(run.finetuned.read_bytes() + b" ")
    outputs = run.latest(FinetuneRecord).outputs
    outputs["finetuned"] = replace(outputs["finetuned"], path=changed)
    with pytest.raises(RunError, match="is not what `cfp finetune` wrote"):
        run_report(run, device=CPU)
    with pytest.raises(RunError, match="no score record yet"):
        run_report(Run.open(tmp_path / "nothing"), device=CPU)


@pytest.mark.parametrize(("seed", "recorded"), [(0, True), (1, False)])
def test_figures_of_other_splits_are_measured_anew(tuned: Path, tmp_path: Path, seed: int, recorded: bool) -> None:
    """Another seed makes other splits of the same images."""
    folder = shutil.copytree(tuned, tmp_path / "run")
    content = json.loads((folder / "run.json").read_text())
    del content[KEY]
    (record,) = (each for each in content["records"] if each["command"] == "finetune")
    record["inputs"]["data"]["seed"] += seed
    record["metrics"]["test"]["accuracy"] = 0.1234
    (folder / "run.json").write_text(json.dumps(content))
    shown = run_report(Run.open(folder), bench=False, device=CPU).out.read_text(encoding="utf-8")
    assert ("Fine-tuned: 12.3\N{NO-BREAK SPACE}% of" in shown) == recorded


def test_another_image_can_be_shown(tuned: Path, scored: Path, tmp_path: Path) -> None:
    image = next((scored.parent / "data" / "test" / "pits").iterdir())
    done = run_report(Run.open(tuned), out=tmp_path / "page.html", image=image, device=CPU)
    layers = parsed(done.out.read_text(encoding="utf-8")).section("layers")
    assert image.name in layers
    with pytest.raises(DataError, match="pass another --image"):
        run_report(Run.open(tuned), image=scored / "run.json", device=CPU)


def test_names_are_text_not_html(contents: PageData) -> None:
    evil = "<script>alert(1)</script>\"'&"
    layer = replace(contents.layers[0], name=evil, modules=(evil,))
    found = page.render_page(replace(contents, arch=evil, data=evil, layers=(layer,))).decode()
    assert "<script>alert" not in found
    assert sum(e.tag == "script" for e in parsed(found).elements) == 1
    assert evil in parsed(found).section("layers")


def test_names_that_are_not_utf_8_do_not_stop_the_page(contents: PageData) -> None:
    mistake = MistakeImage("ok/pr\udcfcfung.png", "ok", "crack", 0.9, contents.example.pixels)
    found = page.render_page(replace(contents, mistakes=(mistake,))).decode()
    assert "pr?fung.png" in parsed(found).section("mistakes")


def test_a_page_too_large_loses_detail_before_it_fails(contents: PageData) -> None:
    full = page.render_page(contents)
    smaller = page.render_page(contents, len(full))
    assert len(smaller) < len(full)
    assert parsed(smaller).section("summary") == parsed(full).section("summary")
    with pytest.raises(CfpError, match="is larger than 1,000 bytes"):
        page.render_page(contents, 1000)


def test_a_fine_tuning_that_kept_the_start_is_shown(contents: PageData) -> None:
    shown = parsed(page.render_page(replace(contents, best_epoch=None))).section("curves")
    assert "The weights from before the fine-tuning were kept" in shown


def test_the_rule_that_chose_the_epoch_is_shown(contents: PageData) -> None:
    by_loss, by_score = (
        parsed(page.render_page(replace(contents, best_epoch=1, chosen_by_loss=chosen))).section("curves")
        for chosen in (True, False)
    )
    assert "within one standard error" in by_score
    assert "within one standard error" not in by_loss


def test_a_hundred_classes_fit(contents: PageData) -> None:
    names = [f"class {index}" for index in range(100)]
    each = ClassMetrics(1.0, 1.0, 1.0, 7, 7)
    row = tuple(tuple(7 if a == b else 0 for b in range(100)) for a in range(100))
    metrics = Metrics(1.0, 1.0, 1.0, 1.0, 1.0, dict.fromkeys(names, each), row, 700)
    models = tuple(replace(model, metrics=metrics) for model in contents.models)
    assert len(page.render_page(replace(contents, models=models))) < 1_500_000


def test_of_thousands_of_classes_the_page_shows_some(contents: PageData) -> None:
    labels = torch.arange(5000)
    metrics = compute_metrics(labels.clamp(min=3), labels, [f"class {index}" for index in range(5000)])
    models = tuple(replace(model, metrics=metrics) for model in contents.models)
    html = page.render_page(replace(contents, models=models)).decode()
    assert len(html) < 2_000_000
    assert html.count("4900 classes with fewer errors are left out") == 2
    assert "4900 classes that lost less are left out" in html


def test_a_large_network_stays_under_three_megabytes(contents: PageData) -> None:
    generator = np.random.default_rng(0)
    channels = 1024
    layer = replace(
        contents.layers[0],
        clusters=generator.integers(1, 5, channels).astype(np.int32),
        order=np.arange(channels),
        richness=generator.uniform(0, 30, channels),
        distance=generator.uniform(0, 1, channels * (channels - 1) // 2).astype(np.float32),
        kept=generator.uniform(size=channels) < 0.2,
        maps=generator.normal(size=(channels, 14, 14)).astype(np.float32),
    )
    layer = replace(layer, order=np.argsort(layer.clusters, kind="stable"))
    content = page.render_page(replace(contents, layers=(layer,) * 24))
    assert 500_000 < len(content) < 3_000_000


def test_the_missing_extra_is_named_in_one_line(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "jinja2" else real(name, *rest)
    )
    with pytest.raises(CfpError, match="run pip install jinja2"):
        run_report(Run.open(tuned), device=CPU)


def test_images_in_the_page_decode(html: Path) -> None:
    images = [e for e in parsed(html.read_text(encoding="utf-8")).elements if e.tag == "img"]
    assert len(images) > 20
    for image in images:
        Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].partition(",")[2]))).verify()


def test_the_report_is_recorded(html: Path, tuned: Path) -> None:
    records = [each for each in json.loads((tuned / "run.json").read_text())["records"] if each["command"] == "report"]
    assert records[0]["metrics"]["left_out"] == {}
    assert str(html) in [each["outputs"]["report"]["path"] for each in records]


SCRIPT = """
const box = (e) => e.getBoundingClientRect();
const drawn = (e) => box(e).width > 2 && box(e).height > 2;
const unseen = [...page.querySelectorAll("section > *, section .pair > *")]
  .flatMap((part) => [...part.querySelectorAll(".plot")]).filter((e) => !e.closest(".layer") && !e.closest("td.bar"))
  .filter((e) => !drawn(e)).map((e) => e.outerHTML.slice(0, 90));
const unpainted = [...page.querySelectorAll(".chart path, .bars path")].filter((e) =>
  view.getComputedStyle(e).stroke === "none").length;
const select = page.getElementById("layer"), panels = [...page.querySelectorAll(".layer")];
const visible = () => panels.flatMap((panel, place) => (panel.hidden ? [] : [place]));
const start = visible();
const picks = [];
for (const option of select.options) {
  select.value = option.value;
  select.dispatchEvent(new view.Event("change"));
  const panel = Number(option.dataset.panel);
  picks.push(String(visible()) === String(panel) && panels[panel].querySelectorAll(".plot, .map, .rail").length > 5);
  for (const plot of panels[panel].querySelectorAll(".plot, .map, .rail")) {
    if (!drawn(plot)) unseen.push(plot.outerHTML.slice(0, 90));
  }
}
const previous = page.getElementById("previous"), next = page.getElementById("next");
const walk = [[visible()[0], next.disabled]];
while (!previous.disabled) { previous.click(); walk.push([visible()[0], next.disabled]); }
const selected = select.selectedOptions[0].dataset.panel;
const focusable = [select, next].map((e) => { e.focus(); return page.activeElement === e; });
const colour = (e) => view.getComputedStyle(e).backgroundColor;
return {
  unseen, unpainted, start, picks, walk, selected, focusable,
  images: page.images.length,
  broken: [...page.images].filter((image) => !image.complete || image.naturalWidth === 0).length,
  overflow: page.documentElement.scrollWidth - view.innerWidth,
  paper: colour(page.body),
};
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(
    ("width", "dark", "paper"), [(1100, False, "rgb(255, 255, 255)"), (360, True, "rgb(17, 22, 28)")]
)
def test_in_a_browser(html: Path, tmp_path: Path, contents: PageData, width: int, dark: bool, paper: str) -> None:
    found = look(html, SCRIPT, tmp_path, width, dark)
    seen = found.seen
    assert "error" not in seen, seen
    assert found.console == []
    assert seen["unseen"] == []
    assert seen["unpainted"] == 0
    assert seen["broken"] == 0
    assert seen["images"] > 20
    assert seen["start"] == [0]
    assert all(seen["picks"])
    assert len(seen["picks"]) == sum(len(layer.modules) for layer in contents.layers)
    last = len(contents.layers) - 1
    assert seen["walk"] == [[place, place == last] for place in range(last, -1, -1)]
    assert seen["selected"] == "0"
    assert seen["focusable"] == [True, True]
    assert seen["overflow"] <= 0
    assert seen["paper"] == paper


def test_figures_are_formatted_for_people() -> None:
    assert text.percent(0.9876) == "98.8\N{NO-BREAK SPACE}%"
    assert [text.points(value) for value in (0.0123, -0.0123, 0.0004, -0.0004)] == ["+1.2", "−1.2", "±0.0", "±0.0"]
    assert [text.times(100, after) for after in (5, 0.5, 100)] == ["20.0×", "200×", "1.0×"]
    assert [text.speed(2, after) for after in (1, 2, 4)] == ["2.0× faster", "1.0× faster", "2.0× slower"]
