"""Line plots with error bars and stacked bars, written as SVG for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 64, 240, 36, 48
# Width of a letter of the legend; long names widen the plot.
LETTER = 7
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Axis:
    """One axis of a plot.

    Attributes:
        label: quantity and unit.
        low, high: range.
        log: whether the axis is logarithmic.
    """

    label: str
    low: float
    high: float
    log: bool = False

    def fraction(self, value: float) -> float:
        """The share of the axis below a value, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values within the range."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
            ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if self.low <= m * 10.0**p <= self.high]
            return ticks if len(ticks) < 9 else [tick for tick in ticks if math.log10(tick) % 1 < 1e-9]
        raw = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(raw))
        spacing = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
        first = math.ceil(self.low / spacing - 1e-9)
        return [tick * spacing for tick in range(first, math.floor(self.high / spacing + 1e-9) + 1)]


def line_plot(path: Path, title: str, x: Axis, y: Axis, series: Mapping[str, Sequence[Point]]) -> None:
    """Write a plot with one line for each series.

    Args:
        path: the SVG file.
        title: heading of the plot.
        x: horizontal axis.
        y: vertical axis.
        series: points (x, y, deviation of y) by the name in the legend.
    """

    def pixel(point: tuple[float, float]) -> tuple[float, float]:
        across = LEFT + x.fraction(point[0]) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - min(max(y.fraction(point[1]), 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)

    width = max(WIDTH, WIDTH - RIGHT + 40 + LETTER * max(map(len, series)))
    parts = [
        _head(title, width=width),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>',
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.label)}</text>",
    ]
    for tick in x.ticks():
        across, down = pixel((tick, y.low))
        parts.append(f'<line class="l" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{across:.1f}" y="{down + 16:.1f}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        across, down = pixel((x.low, tick))
        parts.append(f'<line class="l" x1="{across:.1f}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{across - 6:.1f}" y="{down + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for index, (name, points) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        pixels = [pixel(point[:2]) for point in points]
        line = " ".join(f"{across:.1f},{down:.1f}" for across, down in pixels)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (across, down), (value, mean, deviation) in zip(pixels, points, strict=True):
            if deviation:
                high, low = pixel((value, mean + deviation))[1], pixel((value, mean - deviation))[1]
                parts.append(
                    f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{high:.1f}" y2="{low:.1f}" stroke="{colour}"/>'
                )
            parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.5" fill="{colour}"/>')
        parts.append(_legend(index, name, colour, WIDTH - RIGHT + 14))
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def stacked_bar(path: Path, title: str, parts: Mapping[str, float]) -> None:
    """Write a vertical stacked bar with its legend.

    Args:
        path: the SVG file.
        title: heading of the plot.
        parts: seconds of each part by name, from the bottom.
    """
    height = max(HEIGHT, TOP + len(parts) * 18 + 24)
    scale = (height - TOP - 24) / sum(parts.values())
    drawn, bottom = [_head(title, height)], float(height - 12)
    for index, (name, seconds) in enumerate(parts.items()):
        bottom -= seconds * scale
        colour = COLOURS[index % len(COLOURS)]
        drawn.append(
            f'<rect x="{LEFT}" y="{bottom:.1f}" width="120" height="{seconds * scale:.1f}" fill="{colour}" '
            f'stroke="#fff" stroke-width="0.5"><title>{escape(name)}: {seconds:.1f} s</title></rect>'
        )
    for row, (index, (name, seconds)) in enumerate(reversed(list(enumerate(parts.items())))):
        drawn.append(_legend(row, f"{name}, {seconds:.1f} s", COLOURS[index % len(COLOURS)], LEFT + 150))
    path.write_text("\n".join([*drawn, "</svg>"]) + "\n", encoding="utf-8")


def _head(title: str, height: int = HEIGHT, width: int = WIDTH) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" '
        f'font-size="12"><title>{escape(title)}</title><style>text{{fill:#333}}.l{{stroke:#8884}}'
        "@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>\n"
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>'
    )


def _legend(row: int, name: str, colour: str, left: int) -> str:
    down = TOP + 14 + row * 18
    return (
        f'<rect x="{left}" y="{down - 9}" width="10" height="10" fill="{colour}"/>\n'
        f'<text x="{left + 16}" y="{down}">{escape(name)}</text>'
    )
