"""The frontier of a run: the candidates of `cfp shrink`, and their drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.report.svg import ticks_of

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34
# Losses above this multiple of the largest allowed one are drawn at the upper edge.
_HIGHEST = 6.0


@dataclass(frozen=True)
class FrontierPoint:
    """A candidate of `cfp shrink`.

    Attributes:
        compression: target of the original divided by that which was asked of the candidate.
        trained: whether it was fine-tuned; otherwise it was refitted only.
        params: number of parameters.
        macs: multiply-adds of one image.
        val: metrics on the validation split.
        loss: loss on the validation split, in points.
        standard_error: standard error of the loss over the images, in points.
        passes: whether the loss with its standard error is within the limit.
        chosen: whether it is the result.
        seconds: how long its prune, or its training, and its evaluation took.
        latency_ms: estimated latency in milliseconds; None if it was not needed.
        bytes: estimated size of the ONNX file; None likewise.
    """

    compression: float
    trained: bool
    params: int
    macs: int
    val: Metrics
    loss: float
    standard_error: float
    passes: bool
    chosen: bool
    seconds: float
    latency_ms: float | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            FieldError: a cost is not positive.
        """
        for name in ("params", "macs", "latency_ms", "bytes"):
            cost = getattr(self, name)
            if cost is not None and cost <= 0:
                raise FieldError(f"{name} is {cost}, not a positive number")


def frontier_chart(points: Sequence[FrontierPoint], cost: str, label: str, max_loss: float) -> str:
    """Draw the loss of each candidate over a cost, on a logarithmic scale, as SVG.

    Circles are candidates that were refitted only, squares those that were fine-tuned. Filled ones pass. The chosen one
    has a ring. A line above each is the standard error of the loss. A dashed line is the largest allowed loss. Losses
    far above it are drawn at the upper edge.

    Args:
        points: the candidates.
        cost: a cost that all points have: `params`, `macs`, `latency_ms` or `bytes`.
        label: label of the x axis.
        max_loss: largest allowed loss in points.
    """
    costs = [math.log10(getattr(each, cost)) for each in points]
    left, right = min(costs) - 0.08, max(costs) + 0.08
    limit = _HIGHEST * max(max_loss, 0.5)
    losses = [min(each.loss, limit) for each in points]
    most = [min(each.loss + each.standard_error, limit) for each in points]
    ticks = ticks_of(min(*losses, 0.0), max(*most, max_loss, 0.1))
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - left) / (right - left)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))

    parts = []
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
        )
    for value in _round_costs(10**left, 10**right):
        parts.append(
            f'<text x="{x(math.log10(value)):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{_short(value)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 3}" text-anchor="middle">{escape(label)}</text>')
    edge = f'y1="{y(max_loss):.1f}" y2="{y(max_loss):.1f}"'
    parts.append(f'<line class="mark" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" {edge}/>')
    for point, place, loss, top in zip(points, costs, losses, most, strict=True):
        px, py = x(place), y(loss)
        parts.append(f'<line class="error" x1="{px:.1f}" x2="{px:.1f}" y1="{py:.1f}" y2="{y(top):.1f}"/>')
        classes = f"point{' trained' if point.trained else ''}{' passes' if point.passes else ''}"
        shape = (
            f'<rect class="{classes}" x="{px - 4:.1f}" y="{py - 4:.1f}" width="8" height="8">'
            if point.trained
            else f'<circle class="{classes}" cx="{px:.1f}" cy="{py:.1f}" r="4">'
        )
        end = "</rect>" if point.trained else "</circle>"
        parts.append(f"{shape}<title>{escape(_description(point))}</title>{end}")
        if point.chosen:
            parts.append(f'<circle class="chosen" cx="{px:.1f}" cy="{py:.1f}" r="8"/>')
    chosen = next((f"; chosen: {_description(each)}" for each in points if each.chosen), "")
    title = escape(f"Validation loss in points against {label}, {len(points)} candidates{chosen}", quote=True)
    return (
        f'<svg class="plot chart" role="img" aria-label="{title}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f"{''.join(parts)}</svg>"
    )


def _description(point: FrontierPoint) -> str:
    how = "fine-tuned" if point.trained else "refitted"
    loss = f"{point.loss:.2f} ± {point.standard_error:.2f}"
    return f"{point.params:,} parameters, {point.macs:,} multiply-adds, {how}, loss {loss} points"


def _round_costs(low: float, high: float) -> list[float]:
    """Return round numbers in a range: powers of ten and 2 and 5 times them, or powers alone in a wide range."""
    factors = (1, 2, 5) if high / low < 200 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
