"""Estimate the latency of pruned networks from a table of layer times and a few measured networks.

The sum of the layer times lacks everything between the layers, and a layer alone is not as fast as in a network. Two
whole networks are measured: the original, and one about as small as the result. A straight line through both turns the
sum of the layer times into a latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A straight line from the sum of layer times to the latency of a network, both in milliseconds.

    Attributes:
        fixed: latency at a sum of 0.
        slope: latency per millisecond of layers.
    """

    fixed: float
    slope: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """Return the line through the first and the last point, which are (sum of layer times, measured latency).

        A measurement is never exact, so a line that would fall, or start below 0, goes through the origin and the last
        point instead.

        Args:
            points: at least one point, the original first.
        """
        (first, slow), (last, fast) = points[0], points[-1]
        slope = (slow - fast) / (first - last) if first > last else 0.0
        fixed = fast - slope * last
        if slope <= 0 or fixed < 0:
            return cls(0.0, fast / last if last > 0 else 1.0)
        return cls(fixed, slope)

    def at(self, layers: float) -> float:
        """Return the latency at a sum of layer times."""
        return self.fixed + self.slope * layers
