"""The model card: a short Markdown file that goes with the network to the people who use it.

The sections follow Mitchell et al., Model cards for model reporting, FAT* 2019, as far as a run knows the facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.measuring.metrics import ClassMetrics, Metrics
from cfp_cli.report.lineage import entry_facts
from cfp_cli.report.page_data import ModelFacts, PageData
from cfp_cli.report.text import date, percent, plain, points, range_of, times
from cfp_cli.report.verdict import give_verdict, repeated_images

# Classes in the table of classes.
_LISTED = 100
# Of fewer test images than this, recall is hardly known: Wilson's interval is wider than 25 points.
_FEW = 30
# Parts of a spec that are no preprocessing, and the input size, which the sentence above the table has.
_NOT_PREPROCESSING = ("arch", "arch_kwargs", "classes", "plan", "lineage", "input_size")


@dataclass(frozen=True)
class DataFacts:
    """The images of a run.

    Attributes:
        path: folder or list file.
        sha256: hash of the list of images: relative paths, sizes and classes.
        counts: number of images by split.
        origin: where each split comes from.
    """

    path: str
    sha256: str
    counts: Mapping[str, int]
    origin: Mapping[str, str]


def render_card(data: PageData, spec: ModelSpec, images: DataFacts) -> str:
    """Return the card of the last network of a run as Markdown.

    Args:
        data: the data of the report.
        spec: spec of the last network.
        images: the images of the run.
    """
    verdict = give_verdict(data.original, data.final, data.change, data.latency, data.repeated)
    parts = [
        f"# Model card: {_text(data.arch)}, {data.shown.role}",
        f"Written {date(data.written)} by cfp {_text(data.versions.get('cfp', ''))}. {_text(verdict.headline)}",
        "## Network",
        _network(data, spec),
        "## Preprocessing",
        _preprocessing(spec),
        "## Data",
        _data(images),
        "## Figures on the test images",
        *_figures(data),
        "## Limits",
        _list(_limits(data, images)),
        "## Lineage",
        _list(_entry(each) for each in data.lineage) if data.lineage else "The checkpoint has no lineage.",
        "Files of the run, by SHA-256:",
        _files(data),
    ]
    return "\n\n".join(parts) + "\n"


def _network(data: PageData, spec: ModelSpec) -> str:
    shown, original = data.shown, data.original
    facts = {
        "file": _file(shown.path),
        "SHA-256": f"`{shown.sha256}`",
        "architecture": _text(data.arch),
        "classes, in the order of the logits": _text(", ".join(spec.classes)),
        "parameters": _compared(shown, original, f"{shown.params:,}", times(original.params, shown.params)),
        "multiply-adds of one image": _compared(shown, original, f"{shown.macs:,}", times(original.macs, shown.macs)),
        "file size": _size(shown, original),
    }
    if data.max_abs_logit_error is not None:
        facts["rebuild"] = f"logits equal to 1e-4 of the largest; largest difference {data.max_abs_logit_error:.1e}"
    return _table(("fact", "value"), facts.items())


def _size(shown: ModelFacts, original: ModelFacts) -> str:
    size = f"{shown.bytes:,} bytes in {shown.stored}"
    if shown is original:
        return size
    ratio = times(original.bytes, shown.bytes)
    return f"{size} ({ratio} smaller than the original, {original.bytes:,} bytes in {original.stored})"


def _compared(shown: ModelFacts, original: ModelFacts, value: str, ratio: str) -> str:
    return value if shown is original else f"{value} ({ratio} fewer than the original)"


def _preprocessing(spec: ModelSpec) -> str:
    height, width = spec.input_size
    values = {name: value for name, value in spec.to_json().items() if name not in _NOT_PREPROCESSING}
    if spec.bit_depth is None:
        values["bit_depth"] = 8
    steps = (
        f"Resize to {height} x {width} pixels (height x width) with an antialiased bilinear filter, scale to [0, 1], "
        "subtract the mean and divide by the standard deviation of each channel."
    )
    rows = ((name.replace("_", " "), _text(plain(value))) for name, value in values.items())
    return f"{steps}\n\n{_table(('parameter', 'value'), rows)}"


def _data(images: DataFacts) -> str:
    facts = {"folder or list": _file(images.path), "SHA-256 of the list of images": f"`{images.sha256}`"}
    for split, count in images.counts.items():
        facts[f"{split} images"] = f"{count:,} ({_text(images.origin.get(split, ''))})"
    return _table(("fact", "value"), facts.items())


def _figures(data: PageData) -> list[str]:
    after = data.shown.metrics
    if after is None:
        return ["Not measured: the data have no test split."]
    before = data.original.metrics if data.final is not None else None
    names = {
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "macro_precision": "macro precision",
        "macro_recall": "macro recall",
        "balanced_accuracy": "balanced accuracy",
    }
    head = ("figure", data.shown.role, "95 % interval", *(("original", "change, points") if before else ()))
    rows = []
    for key, name in names.items():
        value = getattr(after, key)
        row = [name, percent(value), range_of(after.intervals[key])]
        if before is not None:
            row += [percent(getattr(before, key)), points(value - getattr(before, key))]
        rows.append(row)
    change = ""
    if data.change is not None:
        change = (
            f"The change of accuracy has the 95 % interval {points(data.change.low)} to {points(data.change.high)} "
            "points. "
        )
    return [
        _table(head, rows),
        f"Measured once on {after.images:,} test images. {change}Intervals allow for the choice of the test images "
        "alone.",
        _class_table(after),
    ]


def _class_table(metrics: Metrics) -> str:
    shown = metrics.lowest_recall(_LISTED)
    rows = [
        (
            _text(name),
            f"{each.images:,}",
            *(
                f"{percent(getattr(each, metric))} ({range_of(metrics.class_intervals[name][metric])})"
                if each.defines(metric)
                else "-"
                for metric in ("recall", "precision", "f1")
            ),
        )
        for name, each in shown.items()
    ]
    left_out = len(metrics.per_class) - len(shown)
    more = f"\n\n{left_out} classes with a higher recall are left out." if left_out else ""
    return _table(("class", "test images", "recall", "precision", "F1"), rows) + more


def _limits(data: PageData, images: DataFacts) -> list[str]:
    """Return what this network cannot do, or what is not known about it."""
    limits = [
        "It names one of its classes for every image, also for an image of something else, such as a new kind of "
        "defect.",
        "Its confidence is the softmax of the logits and is not calibrated.",
        "The figures hold for images like the test images. Other cameras, lighting, materials and preprocessing were "
        "not tested.",
    ]
    metrics = data.shown.metrics
    if metrics is None:
        return [*limits, "It was not measured: the data have no test split."]
    if metrics.collapse is not None:
        collapse = metrics.collapse
        limits.insert(
            0,
            f"It has collapsed: it names '{_text(collapse.name)}' for {collapse.images} of {metrics.images} test "
            "images. Do not use it.",
        )
    few = {name: each for name, each in metrics.per_class.items() if each.images < _FEW}
    if few:
        limits.append(f"Few test images, so little is known about these classes: {_some(few)}.")
    worst = metrics.worst_class
    if len(worst.names) == 1:
        limits.append(
            f"The worst class is {_text(worst.name)}: {percent(1 - worst.recall)} of its {worst.images} test images "
            "were classified wrongly."
        )
    else:
        listed = _some({name: metrics.per_class[name] for name in worst.names})
        limits.append(
            f"{worst.label} have the lowest recall, {percent(worst.recall)} (number of test images in brackets): "
            f"{listed}."
        )
    if data.repeated:
        limits.append(repeated_images(data.repeated))
    # The figures are those on the test images. A validation split that was made does not change them.
    if images.origin.get("test", "").startswith("made"):
        limits.append(
            "The test images were chosen at random from the training images. Images of the same part or coil may be on "
            "both sides, and make the figures too good."
        )
    return limits


def _some(classes: Mapping[str, ClassMetrics]) -> str:
    names = [f"{_text(name)} ({each.images})" for name, each in classes.items()]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _entry(entry: Mapping[str, object]) -> str:
    facts = "; ".join(f"{name}: {value}" for name, value in entry_facts(entry))
    return f"**{_text(plain(entry.get('stage', '')))}**" + (f": {_text(facts)}" if facts else "")


def _files(data: PageData) -> str:
    rows = []
    for record in data.records:
        for kind, files in (("read", record.inputs), ("wrote", record.outputs)):
            rows += [
                (record.command, date(record.finished), kind, _text(name), _file(path), f"`{digest}`")
                for name, (path, digest) in files.items()
            ]
    return _table(("command", "finished", "use", "name", "file", "SHA-256"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _file(path: str) -> str:
    """Return the name of a file or folder. Its path is of no use on another computer; the hash identifies it."""
    return _text(PurePath(path).name or path)


def _text(value: str) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    # An underscore inside a word is text in Markdown.
    special = r"([\\`*\[\]<>#|~&]|(?<![^\W_])_|_(?![^\W_])|!(?=\[))"
    return re.sub(special, r"\\\1", " ".join(value.split()))
