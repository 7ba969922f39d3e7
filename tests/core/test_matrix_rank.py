"""Ranks against float64 singular values, torch and NumPy, on every kind of map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from core_maps import KINDS, SIZES, gaussian, low_rank, relu
from core_oracles import margin, rank
from hypothesis import given, settings
from hypothesis import strategies as st

import cfp_core

# A singular value this close to the threshold, relative to it, may count or not: float64 is not more precise.
TOO_CLOSE = 1e-3


def assert_ranks(maps: np.ndarray) -> None:
    found = cfp_core.matrix_rank(maps)
    assert found.dtype == np.int32
    assert found.shape == maps.shape[:-2]
    clear = margin(maps) > TOO_CLOSE
    np.testing.assert_array_equal(found[clear], rank(maps)[clear])
    assert np.all(np.abs(found - rank(maps)) <= 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_equals_float64_singular_values(kind: str, size: tuple[int, int]) -> None:
    maps = KINDS[kind](np.random.default_rng(7), 48, *size)
    assert_ranks(maps)


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (2, 9), (16, 2), (3, 3), (4, 4), (7, 7)], ids="{0[0]}x{0[1]}".format)
def test_thousands_of_tiny_maps_equal_float64(size: tuple[int, int]) -> None:
    """Iterations may end exactly on a root, where quotients have no meaning: rare, and most likely at a side of 2."""
    rng = np.random.default_rng(11)
    assert_ranks(np.concatenate([KINDS[kind](rng, 6000, *size) for kind in ("gaussian", "relu", "low-rank")]))


@pytest.mark.parametrize(("height", "width"), [(112, 112), (224, 224), (200, 60), (45, 150)])
@pytest.mark.parametrize("kind", KINDS)
def test_large_maps_equal_float64_singular_values(kind: str, height: int, width: int) -> None:
    assert_ranks(KINDS[kind](np.random.default_rng(8), 16 if kind == "structured" else 4, height, width))


@pytest.mark.parametrize("size", [(14, 14), (28, 28), (56, 56), (20, 33)])
def test_known_ranks_are_found(size: tuple[int, int]) -> None:
    """Integer factors give exact low ranks; their products are exact in float32, so that no oracle is needed."""
    rng = np.random.default_rng(3)
    for inner in (0, 1, 2, 5, 11, 14):
        basis = np.eye(size[0], inner, dtype=np.float32) + np.tril(np.ones((size[0], inner), np.float32))
        other = np.eye(inner, size[1], dtype=np.float32) + np.triu(np.ones((inner, size[1]), np.float32))
        maps = (basis @ other)[None, rng.permutation(size[0])][:, :, rng.permutation(size[1])]
        assert cfp_core.matrix_rank(np.ascontiguousarray(maps)).tolist() == [inner]


def test_equals_torch_and_numpy_away_from_the_threshold() -> None:
    """Their float32 singular values carry errors near the threshold; away from it all three agree."""
    maps = np.concatenate(
        [relu(np.random.default_rng(1), 300, 14, 14), gaussian(np.random.default_rng(2), 100, 14, 14)]
    )
    clear = margin(maps) > 0.5
    assert clear.mean() > 0.9
    found = cfp_core.matrix_rank(maps)
    np.testing.assert_array_equal(found[clear], torch.linalg.matrix_rank(torch.from_numpy(maps)).numpy()[clear])
    np.testing.assert_array_equal(found[clear], np.linalg.matrix_rank(maps)[clear])


def test_threshold_is_strict_and_follows_the_longer_side() -> None:
    """diag(1, t) has singular values exactly 1 and t: at t = max(H, W) * 2^-23 the second does not count."""
    for height, width in ((2, 2), (2, 16), (16, 2), (64, 64), (2, 64)):
        threshold = np.float32(max(height, width) * 2.0**-23)
        for value, expected in (
            (threshold * np.float32(1.01), 2),
            (threshold * np.float32(0.99), 1),
        ):
            map_ = np.zeros((height, width), np.float32)
            map_[0, 0], map_[-1, -1] = 1, value
            assert cfp_core.matrix_rank(map_) == expected, (height, width, value)


@pytest.mark.parametrize("exponent", [-37, -30, -10, 0, 10, 30])
@pytest.mark.parametrize("size", [(7, 7), (28, 28), (56, 56)])
def test_scale_changes_nothing(exponent: int, size: tuple[int, int]) -> None:
    maps = low_rank(np.random.default_rng(4), 24, *size)
    scaled = maps * np.float32(2.0 ** round(exponent * 3.32))
    np.testing.assert_array_equal(cfp_core.matrix_rank(scaled), cfp_core.matrix_rank(maps))


@pytest.mark.parametrize("size", [(7, 9), (14, 14), (28, 28), (33, 20), (56, 56)])
def test_transposed_and_shuffled_maps_have_the_same_rank(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    maps = np.concatenate([relu(rng, 32, *size), low_rank(rng, 32, *size)])
    maps = maps[margin(maps) > TOO_CLOSE]
    expected = cfp_core.matrix_rank(maps)
    turned = np.ascontiguousarray(maps.transpose(0, 2, 1))
    np.testing.assert_array_equal(cfp_core.matrix_rank(turned), expected)
    mixed = np.ascontiguousarray(maps[:, rng.permutation(size[0])][:, :, rng.permutation(size[1])])
    np.testing.assert_array_equal(cfp_core.matrix_rank(mixed), expected)
    np.testing.assert_array_equal(cfp_core.matrix_rank(-maps), expected)


def test_zero_rows_and_columns_change_the_threshold_only() -> None:
    inner = np.eye(5, dtype=np.float32)
    map_ = np.zeros((40, 60), np.float32)
    map_[3:30:6, 7:40:8] = inner
    assert cfp_core.matrix_rank(map_) == 5


@pytest.mark.parametrize("shape", [(7, 7), (3, 7, 7), (2, 3, 7, 7), (2, 1, 3, 2, 7, 7), (0, 7, 7), (2, 0, 7, 7)])
def test_any_number_of_leading_dimensions(shape: tuple[int, ...]) -> None:
    maps = np.random.default_rng(6).standard_normal(shape).astype(np.float32)
    found = cfp_core.matrix_rank(maps)
    assert found.shape == shape[:-2]
    assert np.all(found == 7)


def test_a_rank_does_not_depend_on_its_neighbours() -> None:
    """Several maps are computed at a time; each result must equal the result of the map alone."""
    rng = np.random.default_rng(9)
    maps = np.concatenate([KINDS[kind](rng, 17, 14, 14) for kind in KINDS])[rng.permutation(17 * len(KINDS))]
    together = cfp_core.matrix_rank(maps)
    np.testing.assert_array_equal(together, [cfp_core.matrix_rank(map_) for map_ in maps])


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    inner=st.integers(0, 40),
    decimals=st.integers(0, 5),
    exponent=st.integers(-30, 30),
    sparse=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_map_equals_float64(
    size: tuple[int, int], inner: int, decimals: int, exponent: int, sparse: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((9, size[0], inner)) @ rng.standard_normal((9, inner, size[1]))
    maps = (maps * (rng.random((9, *size)) >= sparse)).round(decimals) * 10.0**exponent
    assert_ranks(maps.astype(np.float32))


@pytest.mark.parametrize("order", ["contiguous", "channels-last", "sliced", "fortran"])
def test_memory_order_changes_nothing(order: str) -> None:
    maps = relu(np.random.default_rng(10), 24, 14, 14).reshape(4, 6, 14, 14)
    ordered = {
        "contiguous": maps,
        "channels-last": np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "sliced": np.repeat(np.repeat(maps, 2, axis=1), 3, axis=3)[:, ::2, :, ::3],
        "fortran": np.asfortranarray(maps),
    }[order]
    np.testing.assert_array_equal(ordered, maps)
    np.testing.assert_array_equal(cfp_core.matrix_rank(ordered), rank(maps))
