"""Rendering of the page: one HTML file with style, script, drawings and images inside; it needs no network."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.extras import require_packages
from cfp_cli.measuring.intervals import Interval
from cfp_cli.measuring.latency import Latency
from cfp_cli.report.draw_layer import Detail, draw_layer
from cfp_cli.report.frontier import frontier_chart
from cfp_cli.report.lineage import entry_facts
from cfp_cli.report.page_data import MistakeImage, PageData
from cfp_cli.report.png import photograph, ramp
from cfp_cli.report.svg import Line, line_chart
from cfp_cli.report.text import date, percent, plain, points, range_of, speed, times
from cfp_cli.report.verdict import give_verdict

LIMIT = 3_000_000
# Largest width and height of the image of a mistake, in pixels.
THUMBNAIL = 96
# From the most useful level of detail to one for the largest networks.
_DETAILS = (Detail(256, 64, 4), Detail(160, 40, 4), Detail(112, 28, 3), Detail(72, 20, 2), Detail(40, 12, 1))

# The largest number of classes in a confusion matrix, and in the table of recalls.
_CONFUSED, _LISTED = 100, 100


def require_extra() -> None:
    """Check that jinja2 is installed, which only the report needs.

    Raises:
        MissingExtraError: jinja2 is missing or broken; the message says how to install it.
    """
    require_packages("the report", ("jinja2",))


def render_page(data: PageData, limit: int = LIMIT) -> bytes:
    """Render the page with as much detail as fits in `limit` bytes.

    Raises:
        CfpError: the page with the least detail is still larger, or jinja2 is not installed.
    """
    require_extra()
    import jinja2

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        percent=percent,
        points=points,
        command=shlex.join,
        times=times,
        speed=speed,
        range=range_of,
        date=date,
        plain=plain,
        facts=entry_facts,
    )
    template = environment.get_template("page.html.j2")
    fixed = {
        "c": data,
        "css": (folder / "page.css").read_text(encoding="utf-8"),
        "js": (folder / "page.js").read_text(encoding="utf-8"),
        "ramp": ", ".join(f"rgb{colour}" for colour in ramp()[::9]),
        "verdict": give_verdict(data.original, data.final, data.change, data.latency, data.repeated),
        "frontier": _frontier(data),
        "curves": _curves(data),
        "recalls": _recalls(data),
        "latency": _latency(data.latency),
        "photo": photograph(data.example.pixels),
        "confused": _CONFUSED,
        "listed": _LISTED,
        "mistakes": _mistakes(data),
    }
    for detail in _DETAILS:
        layers = [draw_layer(layer, detail, data.richness) for layer in data.layers]
        content = template.render(**fixed, layers=layers, detail=detail).encode(errors="replace")
        if len(content) < limit:
            return content
    raise CfpError(f"the page of {len(data.layers)} layers is larger than {limit:,} bytes; report a smaller network")


def _mistakes(data: PageData) -> list[tuple[str, list[tuple[MistakeImage, str]]]]:
    """Return the mistakes of each true class, each with its image as a data URI."""
    return [
        (label, [(each, photograph(each.pixels, THUMBNAIL)) for each in group])
        for label, group in groupby(data.mistakes, key=lambda each: each.label)
    ]


@dataclass(frozen=True)
class Recall:
    """Recall of one class before and after, as fractions, with 95 % intervals."""

    name: str
    images: int
    before: float
    after: float
    before_interval: Interval
    after_interval: Interval


def _recalls(data: PageData) -> list[Recall]:
    """Return the recall of each class; the class that lost most comes first."""
    final = data.final
    if final is None or final.metrics is None or data.original.metrics is None:
        return []
    before, after = data.original.metrics, final.metrics
    recalls = [
        Recall(
            name,
            each.images,
            each.recall,
            after.per_class[name].recall,
            before.class_intervals[name]["recall"],
            after.class_intervals[name]["recall"],
        )
        for name, each in before.per_class.items()
        if each.images
    ]
    return sorted(recalls, key=lambda each: (each.after - each.before, each.after))


@dataclass(frozen=True)
class Curve:
    """A chart of the fine-tuning: its title, the names of its lines, and the drawing as SVG."""

    title: str
    names: tuple[str, ...]
    svg: str


def _curves(data: PageData) -> list[Curve]:
    rows = data.epochs
    if not rows:
        return []
    losses = [Line("loss", [row.loss for row in rows])]
    for name, values in (
        ("to the representation teacher", [row.loss_rl for row in rows]),
        ("to the class-balanced teacher", [row.loss_cl for row in rows]),
    ):
        if any(value is not None for value in values):
            losses.append(Line(name, values))
    metrics = [
        Line("accuracy", [row.accuracy for row in rows]),
        Line("macro-F1", [row.macro_f1 for row in rows]),
        Line("balanced accuracy", [row.balanced_accuracy for row in rows]),
    ]
    charts = (("Training loss", losses, False), ("Validation", metrics, True))
    return [
        Curve(
            title,
            tuple(line.name for line in lines),
            line_chart(title, lines, 1, "epoch", percentages, data.best_epoch),
        )
        for title, lines, percentages in charts
    ]


@dataclass(frozen=True)
class LatencyRow:
    """Latency at one batch size with one runtime, by network; `first` is that of the first network."""

    first: Latency
    times: tuple[Latency, ...]
    names: tuple[str, ...]


def _frontier(data: PageData) -> list[tuple[str, str]]:
    """Return the drawings of the frontier, each with its title; empty without one."""
    if not data.frontier:
        return []
    costs = {
        "params": "parameters",
        "macs": "multiply-adds",
        "latency_ms": "estimated latency in ms",
        "bytes": "estimated bytes of the ONNX file",
    }
    return [
        (f"Loss against {label}", frontier_chart(data.frontier, cost, label, data.max_loss))
        for cost, label in costs.items()
        if all(getattr(each, cost) is not None for each in data.frontier)
    ]


def _latency(benchmarks: tuple[Benchmark, ...]) -> list[LatencyRow]:
    """Return one row per runtime and batch size that all networks were timed at."""
    if not benchmarks:
        return []
    rows = []
    for first in benchmarks[0].latency_ms:
        matches = [next((time for time in each.latency_ms if _same_setting(time, first)), None) for each in benchmarks]
        times = tuple(match for match in matches if match is not None)
        if len(times) == len(benchmarks):
            rows.append(LatencyRow(first, times, tuple(each.model for each in benchmarks)))
    return rows


def _same_setting(a: Latency, b: Latency) -> bool:
    return (a.runtime, a.batch, a.threads, a.device, a.memory) == (b.runtime, b.batch, b.threads, b.device, b.memory)
