"""Accumulating maps in one go, and comparing results."""

from __future__ import annotations

import numpy as np

import cfp_core

CHANNELS = 11
EXACT = ("norms", "richness")
CRITERIA = [
    ("norm", "rank"),
    ("ssim", "entropy"),
    ("cosine", "effective-rank"),
    ("cosine", "nuclear"),
]


def accumulate(maps: np.ndarray, similarity: str = "norm", richness: str = "rank", first: int = 0, **options: object):
    accumulator = cfp_core.TapAccumulator(maps.shape[1], similarity, richness, **options)
    accumulator.update(maps, first)
    return accumulator


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key in EXACT:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    np.testing.assert_allclose(found["distance"], expected["distance"], rtol=1e-12, atol=1e-15)
    for key in ("images", "height", "width", "saturated_richness", "saturated_similarity"):
        assert found[key] == expected[key], key
