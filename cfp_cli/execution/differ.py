"""Whether two values of a network differ by more than rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Between layers float32 rounding errors may be larger than they are in the logits.
TOLERANCE = 1e-3


def differ(expected: Tensor, given: Any) -> bool:
    """Whether a value differs in shape, or by more than rounding; values that overflow on both sides are equal."""
    if not isinstance(given, Tensor) or given.shape != expected.shape:
        return True
    if expected.is_complex():
        expected, given = torch.view_as_real(expected), torch.view_as_real(given)
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(given)):
        return True
    if not bool(finite.any()):
        return False
    if not bool(finite.all()):
        given, expected = given[finite], expected[finite]
    # The values of the first layers take by far the most memory of a trial, so this makes no needless copy.
    largest = max(float(expected.max()), -float(expected.min()))
    distance = float((given - expected).abs_().max())
    return distance > TOLERANCE * largest + torch.finfo(expected.dtype).tiny
