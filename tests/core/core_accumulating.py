"""Accumulates maps in one call, and compares results."""

from __future__ import annotations

import numpy as np

import cfp_core

CHANNELS = 11
CRITERIA = [
    ("norm", "rank"),
    ("ssim", "entropy"),
    ("cosine", "effective-rank"),
    ("cosine", "nuclear"),
    ("norm", None),
]


def accumulate(
    maps: np.ndarray, similarity: str = "norm", richness: str | None = "rank", first: int = 0, **options: object
):
    accumulator = cfp_core.TapAccumulator(maps.shape[1], similarity, richness, **options)
    accumulator.update(maps, first)
    return accumulator


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found["norms"], expected["norms"])
    np.testing.assert_array_equal(found["richness"], expected["richness"])
    np.testing.assert_allclose(found["distance"], expected["distance"], rtol=1e-12, atol=1e-15)
    for key in ("images", "height", "width", "saturated_richness", "saturated_similarity"):
        assert found[key] == expected[key], key
