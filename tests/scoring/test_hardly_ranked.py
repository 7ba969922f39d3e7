"""A richness that is nearly equal for most channels of a tap is recognised, as the rank is after smooth activations."""

from __future__ import annotations

import numpy as np
import pytest

from cfp_cli.scoring.scores import TapScores


def tap(richness: list[float]) -> TapScores:
    count = len(richness)
    norms, linkage = np.ones((2, count), np.float32), np.zeros((max(count - 1, 0), 4))
    return TapScores("tap", 8, 8, norms, np.array(richness, np.float64), linkage)


@pytest.mark.parametrize(
    ("richness", "expected"),
    [
        ([16.0] * 20, True),
        ([16.0] * 18 + [15.9, 3.0], True),
        ([16.0] * 17 + [15.0, 4.0, 3.0], False),
        ([16.0, 15.95], True),
        ([16.0, 15.0], False),
        ([16.0], False),
        ([0.0] * 20, False),
        ([1.0, 0.5, 0.2, 0.1, 0.01, 0.0], False),
    ],
)
def test_nearly_equal_richness(richness: list[float], expected: bool) -> None:
    assert tap(richness).hardly_ranked is expected
