"""Frobenius norms against NumPy, distances against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from core_maps import KINDS, tap
from core_oracles import norm_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

import cfp_core


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 7), (9, 14), (33, 40), (56, 56)], ids="{0[0]}x{0[1]}".format)
def test_norms_equal_numpy(kind: str, size: tuple[int, int]) -> None:
    maps = KINDS[kind](np.random.default_rng(1), 32, *size).reshape(4, 8, *size)
    found = cfp_core.norms(maps)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.linalg.norm(maps.astype(np.float64), axis=(2, 3)), rtol=1e-14)


def test_norms_of_huge_and_subnormal_pixels_neither_overflow_nor_vanish() -> None:
    values = np.array([3e38, 1e-45, 1.2e-38, 0.0], np.float32)
    maps = np.broadcast_to(values[None, :, None, None], (1, 4, 5, 5)).copy()
    np.testing.assert_allclose(cfp_core.norms(maps), 5 * values[None].astype(np.float64), rtol=1e-14)


def test_table_counts_as_maps_of_one_pixel() -> None:
    table = np.random.default_rng(2).standard_normal((6, 9)).astype(np.float32)
    np.testing.assert_array_equal(cfp_core.norms(table), np.abs(table))
    np.testing.assert_array_equal(cfp_core.norms(table), cfp_core.norms(table[:, :, None, None]))


@pytest.mark.parametrize("images", [1, 2, 7, 8, 16, 33, 100])
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 9, 16, 17, 25, 64, 131])
def test_distance_equals_scipy(images: int, channels: int) -> None:
    norms = np.random.default_rng(3).random((images, channels)) * 100
    found = cfp_core.pairwise_distance(norms, 14)
    assert found.dtype == np.float64
    assert found.shape == (channels * (channels - 1) // 2,)
    expected = pdist(norms.T, "cityblock") / (images * 14) if channels > 1 else np.zeros(0)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_distance_reads_any_order_of_memory() -> None:
    norms = np.random.default_rng(4).random((12, 30))
    expected = cfp_core.pairwise_distance(norms, 3)
    for same in (np.asfortranarray(norms), np.repeat(norms, 2, axis=1)[:, ::2], norms[::-1][::-1]):
        np.testing.assert_array_equal(cfp_core.pairwise_distance(same, 3), expected)


@settings(max_examples=100, deadline=None)
@given(
    images=st.integers(1, 20),
    channels=st.integers(2, 40),
    exponent=st.integers(-100, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_distance_is_a_pseudometric(images: int, channels: int, exponent: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    norms = rng.random((images, channels)) * 10.0**exponent
    norms[:, -1] = norms[:, 0]
    square = squareform(cfp_core.pairwise_distance(norms, 1))
    assert square[0, -1] == 0
    detour = (square[:, :, None] + square[None, :, :]).min(axis=1)
    assert np.all(square <= detour * (1 + 1e-12))
    scaled = squareform(cfp_core.pairwise_distance(norms * 2, 4))
    np.testing.assert_array_equal(scaled, square / 2)
    order = rng.permutation(channels)
    mixed = squareform(cfp_core.pairwise_distance(np.ascontiguousarray(norms[:, order]), 1))
    np.testing.assert_allclose(mixed, square[np.ix_(order, order)], rtol=1e-12)


def test_the_paper_s_distance_of_real_shapes() -> None:
    maps = tap(5, 6, 20, 9, 14)
    found = cfp_core.pairwise_distance(cfp_core.norms(maps), 9)
    np.testing.assert_allclose(found, norm_distance(maps), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("norms", "height", "message"),
    [
        (np.zeros((0, 3)), 1, "norms"),
        (np.zeros((3, 0)), 1, "norms"),
        (np.zeros((3, 3)), 0, "height at least 1"),
        (np.zeros(3), 1, "norms"),
        (np.zeros((3, 3), np.float32), 1, "float64.*float32"),
        ([[1.0, 2.0]], 1, "NumPy array of float64.*list"),
    ],
)
def test_distance_of_wrong_input_is_refused(norms: np.ndarray, height: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cfp_core.pairwise_distance(norms, height)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_distance_names_the_norm_that_is_not_finite(value: float) -> None:
    norms = np.ones((4, 5))
    norms[2, 3] = value
    with pytest.raises(ValueError, match="image 2, channel 3"):
        cfp_core.pairwise_distance(norms, 1)
