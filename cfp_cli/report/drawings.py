"""Line charts and bars as SVG that takes its colours from the page, and so follows its light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: in the legend.
        values: one at each step; a step without a value breaks the line.
    """

    name: str
    values: Sequence[float | None]


def line_chart(
    title: str, lines: Sequence[Line], first: int, x_label: str, percent: bool = False, mark: int | None = None
) -> str:
    """Values over numbered steps.

    Args:
        title: what a screen reader says of it, before the last value of each line.
        lines: at most three; the page styles them by their place.
        first: number of the first step.
        x_label: what the steps are.
        percent: show values 0 to 1 as percentages.
        mark: index of a step to mark with an upright line.
    """
    values = [value for line in lines for value in line.values if value is not None]
    low, high = min(values), max(values)
    ticks = ticks_of(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    count = max(len(line.values) for line in lines)

    def x(index: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (index / (count - 1) if count > 1 else 0.5)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))

    parts = []
    for tick in ticks:
        text = f"{tick * 100:.4g}%" if percent else f"{tick:.4g}"
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{text}</text>'
        )
    for step in _whole_ticks(first, first + count - 1):
        parts.append(f'<text x="{x(step - first):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{step}</text>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.1f}" y="{_HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>'
    )
    if mark is not None:
        parts.append(f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    for place, line in enumerate(lines):
        points = [(x(index), y(value)) for index, value in enumerate(line.values) if value is not None]
        if len(points) == 1:
            parts.append(f'<circle class="line line{place}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>')
        path = "".join(f"{'M' if i == 0 else 'L'}{px:.1f} {py:.1f}" for i, (px, py) in enumerate(points))
        parts.append(f'<path class="line line{place}" d="{path}"/>')
    told = ", ".join(f"{line.name} {_said(line.values, percent)}" for line in lines)
    label = escape(f"{title}; at the last {x_label}: {told}", quote=True)
    return (
        f'<svg class="plot chart" role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f"{''.join(parts)}</svg>"
    )


def bars(values: NDArray[np.float64], kept: NDArray[np.bool_], edges: Sequence[int], label: str) -> str:
    """One upright bar for each value, stretched to whatever width the page gives.

    Args:
        values: heights, float64 [C], not negative.
        kept: which bars are of kept channels, bool [C].
        edges: positions between bars at which clusters end.
        label: what a screen reader says of it.
    """
    top = float(values.max()) if values.size and values.max() > 0 else 1.0
    heights = 100 - np.maximum(values / top * 100, 0.8)
    paths = []
    for name, which in (("kept", kept), ("dropped", ~kept)):
        path = "".join(f"M{index}.5 100V{heights[index]:.0f}" for index in np.flatnonzero(which))
        paths.append(f'<path class="{name}" d="{path}"/>' if path else "")
    paths.extend(f'<line class="edge" x1="{edge}" x2="{edge}" y1="0" y2="100"/>' for edge in edges)
    return (
        f'<svg class="plot bars" role="img" aria-label="{escape(label, quote=True)}" '
        f'viewBox="0 0 {max(len(values), 1)} 100" preserveAspectRatio="none">{"".join(paths)}</svg>'
    )


def cluster_borders(channels: int, edges: Sequence[int]) -> str:
    """Lines between the clusters of a square matrix, to lie over it."""
    lines = "".join(f"M{edge} 0V{channels}M0 {edge}H{channels}" for edge in edges)
    return (
        f'<svg aria-hidden="true" viewBox="0 0 {channels} {channels}" preserveAspectRatio="none">'
        f'<path class="edge" d="{lines}"/></svg>'
    )


def kept_rails(kept: NDArray[np.bool_]) -> str:
    """Marks of kept channels, bool [C], in a row above and a column left of a matrix."""
    places, count = np.flatnonzero(kept), len(kept)
    above, left = ("".join(mark.format(index) for index in places) for mark in ("M{}.5 0V1", "M0 {}.5H1"))
    start = '<svg class="rail rail-{}" aria-hidden="true" preserveAspectRatio="none" viewBox="0 0 {} {}">'
    drawing = start + '<path d="{}"/></svg>'
    return drawing.format("top", count, 1, above) + drawing.format("left", 1, count, left)


def ticks_of(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that enclose a range, at most `most` steps of 1, 2 or 5 times a power of ten apart."""
    largest = max(abs(low), abs(high))
    if not high - low > max(largest, 1e-280) * 1e-9:
        # As good as one value: give it room on both sides.
        room = largest * 0.1 if largest > 1e-280 else 0.1
        low, high = low - room, high + room
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if end - start <= most:
            break
    digits = 2 - math.floor(math.log10(step))
    return [round(index * step, digits) for index in range(start, end + 1)]


def _whole_ticks(first: int, last: int) -> list[int]:
    return [
        int(tick) for tick in ticks_of(first, max(last, first + 1), 6) if tick == int(tick) and first <= tick <= last
    ]


def _said(values: Sequence[float | None], percent: bool) -> str:
    value = values[-1] if values else None
    if value is None:
        return "none"
    return f"{value:.1%}" if percent else f"{value:.3g}"
