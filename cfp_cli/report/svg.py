"""Charts as SVG. The style sheet of the page colours them, in its light and in its dark scheme."""

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
        name: name in the legend.
        values: one value per position on the x axis; None interrupts the line.
    """

    name: str
    values: Sequence[float | None]


def line_chart(
    title: str, lines: Sequence[Line], first: int, x_label: str, percent: bool = False, mark: int | None = None
) -> str:
    """Draw values over numbered positions, such as epochs.

    Args:
        title: title for screen readers; the last value of each line follows it.
        lines: at most three lines; the style sheet styles them in this order.
        first: number of the first position.
        x_label: label of the x axis.
        percent: show values from 0 to 1 as percentages.
        mark: index of a position to mark with a vertical line.
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
    for tick in _integer_ticks(first, first + count - 1):
        parts.append(f'<text x="{x(tick - first):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{tick}</text>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.1f}" y="{_HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>'
    )
    if mark is not None:
        parts.append(f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    for number, line in enumerate(lines):
        points = [(x(index), y(value)) for index, value in enumerate(line.values) if value is not None]
        if len(points) == 1:
            parts.append(f'<circle class="line line{number}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>')
        path = "".join(f"{'M' if i == 0 else 'L'}{px:.1f} {py:.1f}" for i, (px, py) in enumerate(points))
        parts.append(f'<path class="line line{number}" d="{path}"/>')
    last_values = ", ".join(f"{line.name} {_last_value(line.values, percent)}" for line in lines)
    label = escape(f"{title}; at the last {x_label}: {last_values}", quote=True)
    return (
        f'<svg class="plot chart" role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f"{''.join(parts)}</svg>"
    )


def bars(values: NDArray[np.float64], kept: NDArray[np.bool_], edges: Sequence[int], label: str) -> str:
    """Draw one vertical bar per channel. The page stretches the drawing to its width.

    Args:
        values: heights, float64 [C], not negative.
        kept: whether each channel is kept, bool [C].
        edges: where each cluster ends, as a number of bars.
        label: description for screen readers.
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
    """Draw the lines between clusters, as an overlay of a square matrix."""
    lines = "".join(f"M{edge} 0V{channels}M0 {edge}H{channels}" for edge in edges)
    return (
        f'<svg aria-hidden="true" viewBox="0 0 {channels} {channels}" preserveAspectRatio="none">'
        f'<path class="edge" d="{lines}"/></svg>'
    )


def kept_rails(kept: NDArray[np.bool_]) -> str:
    """Mark the kept channels, bool [C], in a row above and a column left of a matrix."""
    indices, count = np.flatnonzero(kept), len(kept)
    above, left = ("".join(mark.format(index) for index in indices) for mark in ("M{}.5 0V1", "M0 {}.5H1"))
    start = '<svg class="rail rail-{}" aria-hidden="true" preserveAspectRatio="none" viewBox="0 0 {} {}">'
    drawing = start + '<path d="{}"/></svg>'
    return drawing.format("top", count, 1, above) + drawing.format("left", 1, count, left)


def ticks_of(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers that enclose a range: at most `most` intervals of 1, 2 or 5 times a power of ten."""
    largest = max(abs(low), abs(high))
    if not high - low > max(largest, 1e-280) * 1e-9:
        # The range is a single value: widen it on both sides.
        margin = largest * 0.1 if largest > 1e-280 else 0.1
        low, high = low - margin, high + margin
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    for factor in (1, 2, 5, 10, 20):
        interval = factor * power
        start, end = math.floor(low / interval + 1e-9), math.ceil(high / interval - 1e-9)
        if end - start <= most:
            break
    digits = 2 - math.floor(math.log10(interval))
    return [round(index * interval, digits) for index in range(start, end + 1)]


def _integer_ticks(first: int, last: int) -> list[int]:
    return [
        int(tick) for tick in ticks_of(first, max(last, first + 1), 6) if tick == int(tick) and first <= tick <= last
    ]


def _last_value(values: Sequence[float | None], percent: bool) -> str:
    value = values[-1] if values else None
    if value is None:
        return "none"
    return f"{value:.1%}" if percent else f"{value:.3g}"
