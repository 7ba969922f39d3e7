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
    ("norm", "explained-variance"),
]


def accumulate(maps: np.ndarray, similarity: str = "norm", richness: str = "rank", first: int = 0, **options: object):
    accumulator = cfp_core.TapAccumulator(maps.shape[1], similarity, richness, **options)
    accumulator.update(maps, first)
    return accumulator


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found["norms"], expected["norms"])
    if expected["covariance"] is None:
        np.testing.assert_array_equal(found["richness"], expected["richness"])
    else:
        # Sums over images depend on their order in the last bits.
        scale = np.abs(expected["covariance"]).max()
        np.testing.assert_allclose(found["covariance"], expected["covariance"], rtol=1e-12, atol=1e-13 * scale)
        np.testing.assert_allclose(found["richness"], expected["richness"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found["distance"], expected["distance"], rtol=1e-12, atol=1e-15)
    for key in ("images", "height", "width", "saturated_richness", "saturated_similarity"):
        assert found[key] == expected[key], key
