"""Contents to one HTML file with style, script, drawings and images inside it: it opens anywhere, without network."""

from __future__ import annotations

import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.foundation.errors import CfpError, MissingExtraError
from cfp_cli.report.contents import Contents
from cfp_cli.report.drawings import Line, line_chart
from cfp_cli.report.layer_view import Detail, view
from cfp_cli.report.pictures import photograph, ramp

LIMIT = 3_000_000
# From as much as a reader can use to what the largest networks leave room for.
_DETAILS = (Detail(256, 64, 4), Detail(160, 40, 4), Detail(112, 28, 3), Detail(72, 20, 2), Detail(40, 12, 1))


def require_extra() -> None:
    """Check that the package is there which only the report needs.

    Raises:
        MissingExtraError: it is missing; the message names the extra.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise MissingExtraError('the report needs jinja2; run pip install "cfp[report]"')


def to_html(contents: Contents, limit: int = LIMIT) -> bytes:
    """The page, with as much detail as stays under `limit` bytes.

    Raises:
        CfpError: even with the least detail it is larger, or the extra `report` is missing.
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
    environment.filters.update(percent=percent, points=points, command=shlex.join, times=times, speed=speed)
    template = environment.get_template("page.html.j2")
    fixed = {
        "c": contents,
        "css": (folder / "page.css").read_text(encoding="utf-8"),
        "js": (folder / "page.js").read_text(encoding="utf-8"),
        "ramp": ", ".join(f"rgb{colour}" for colour in ramp()[::9]),
        "curves": _curves(contents),
        "recalls": _recalls(contents),
        "latency": _latency(contents.latency),
        "photo": photograph(contents.example.pixels),
    }
    for detail in _DETAILS:
        layers = [view(layer, detail, contents.richness) for layer in contents.layers]
        content = template.render(**fixed, layers=layers, detail=detail).encode()
        if len(content) < limit:
            return content
    raise CfpError(
        f"the page of {len(contents.layers)} layers is larger than {limit:,} bytes; report a smaller network"
    )


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def points(value: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    rounded = round(value * 100, 1)
    return "±0.0" if rounded == 0 else f"{'+' if rounded > 0 else '−'}{abs(rounded):.1f}"


def times(before: float, after: float) -> str:
    """How many times less."""
    ratio = before / after if after else float("inf")
    return f"{ratio:.1f}×" if ratio < 100 else f"{ratio:.0f}×"


def speed(before: float, after: float) -> str:
    """How many times faster or slower."""
    return f"{times(before, after)} faster" if after <= before else f"{times(after, before)} slower"


@dataclass(frozen=True)
class Recall:
    """Recall of one class before and after, as fractions."""

    name: str
    images: int
    before: float
    after: float


def _recalls(contents: Contents) -> list[Recall]:
    """Classes that lost most first."""
    final = contents.final
    if final is None or final.metrics is None or contents.original.metrics is None:
        return []
    after, before = final.metrics.per_class, contents.original.metrics.per_class
    found = [Recall(name, each.images, each.recall, after[name].recall) for name, each in before.items()]
    return sorted(found, key=lambda each: (each.after - each.before, each.after))


def _curves(contents: Contents) -> list[dict[str, Any]]:
    rows = contents.epochs
    if not rows:
        return []
    losses = [Line("loss", [row.loss for row in rows])]
    for name, values in (
        ("to the representation teacher", [row.loss_rl for row in rows]),
        ("to the class-balanced teacher", [row.loss_cl for row in rows]),
    ):
        if any(value is not None for value in values):
            losses.append(Line(name, values))
    qualities = [
        Line("accuracy", [row.accuracy for row in rows]),
        Line("macro-F1", [row.macro_f1 for row in rows]),
        Line("balanced accuracy", [row.balanced_accuracy for row in rows]),
    ]
    charts = (("Training loss", losses, False), ("Validation", qualities, True))
    return [
        {
            "title": title,
            "names": [line.name for line in lines],
            "svg": line_chart(title, lines, 1, "epoch", share, contents.best_epoch),
        }
        for title, lines, share in charts
    ]


def _latency(found: tuple[Benchmark, ...]) -> list[dict[str, Any]]:
    """Rows by runtime and batch, each with the time of every network."""
    if not found:
        return []
    rows: list[dict[str, Any]] = []
    for first in found[0].latency_ms:
        same = (first.runtime, first.batch, first.threads, first.device, first.memory)
        matches = [
            next((t for t in each.latency_ms if (t.runtime, t.batch, t.threads, t.device, t.memory) == same), None)
            for each in found
        ]
        if all(match is not None for match in matches):
            rows.append({"first": first, "times": matches, "names": [each.model for each in found]})
    return rows
