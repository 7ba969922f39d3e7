"""A table of measured layer times, from which the time of the layers of any pruned network is interpolated.

Kernels prefer multiples of 8 or of 4 channels, so counts that are multiples of 8, of 4, or of neither are interpolated
between measured counts of the same kind. Only the counts around those that are asked for are measured.

Source: after Shen et al., HALP, NeurIPS 2022, which looks the latency of each layer up in a measured table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product

from cfp_cli.graph.layer_shapes import LayerShape

# Measured counts are 8 apart, or this many to a doubling where that is more.
_TO_A_DOUBLING = 4
_MULTIPLE = 8


class LayerTable:
    """Times of layers.

    Args:
        measure: measures a layer, in milliseconds.
        known: measured times by the text of the shape; new ones are added.
    """

    def __init__(self, measure: Callable[[LayerShape], float], known: dict[str, float]) -> None:
        self._measure = measure
        self.known = known

    def milliseconds(self, layers: Iterable[LayerShape]) -> float:
        """Return the sum of the times of layers."""
        return math.fsum(map(self._time, layers))

    def _time(self, shape: LayerShape) -> float:
        if shape.groups == 1:
            return math.fsum(
                first * second * self._measured(replace(shape, inputs=inputs, outputs=outputs))
                for (inputs, first), (outputs, second) in product(bracket(shape.inputs), bracket(shape.outputs))
            )
        if shape.inputs == shape.outputs == shape.groups:
            return math.fsum(
                weight * self._measured(replace(shape, inputs=count, outputs=count, groups=count))
                for count, weight in bracket(shape.outputs)
            )
        return self._measured(shape)

    def _measured(self, shape: LayerShape) -> float:
        key = key_of(shape)
        if key not in self.known:
            self.known[key] = self._measure(shape)
        return self.known[key]


def key_of(shape: LayerShape) -> str:
    """Return a shape as text."""
    pairs = (shape.size, shape.kernel, shape.stride, shape.padding, shape.dilation)
    return " ".join(
        (shape.operator, f"{shape.inputs}-{shape.outputs}", str(shape.groups), *("x".join(map(str, p)) for p in pairs))
    )


def bracket(count: int) -> list[tuple[int, float]]:
    """Return the measured counts around a count of channels, with the weights of the interpolation."""
    if count < _MULTIPLE:
        return [(count, 1.0)]
    shift = 0 if count % 8 == 0 else 4 if count % 4 == 0 else 5
    base = count - shift
    if base < _MULTIPLE:
        return [(_MULTIPLE + shift, 1.0)]
    step = max(_MULTIPLE, 2 ** (base.bit_length() - 1) // _TO_A_DOUBLING)
    low = base // step * step
    weight = (base - low) / step
    return [(low + shift, 1.0 - weight), *([(low + step + shift, weight)] if weight else [])]
