"""Covariances against NumPy; the same bits for any division of the samples into calls and any number of threads."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cfp_core


def samples(seed: int, count: int, channels: int) -> np.ndarray:
    """Rectified correlated samples with an offset, one dead and one constant channel."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((count, channels)) @ rng.standard_normal((channels, channels)) + 0.5
    values = np.maximum(values, 0)
    values[:, 0] = 0
    values[:, -1] = 0.3
    return values.astype(np.float32)


def accumulate(values: np.ndarray, *cuts: int) -> cfp_core.CovarianceAccumulator:
    accumulator = cfp_core.CovarianceAccumulator(values.shape[1])
    for part in np.split(values, cuts):
        accumulator.update(part)
    return accumulator


@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 15, 16, 17, 24, 33, 65, 130])
@pytest.mark.parametrize("count", [1, 60, 128, 129, 1500])
def test_covariances_equal_numpy(channels: int, count: int) -> None:
    values = samples(1, count, channels)
    found = accumulate(values).covariance()
    expected = np.cov(values.astype(np.float64).T, bias=True).reshape(channels, channels)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * np.square(values).max())
    assert found[0, 0] == found[-1, -1] == 0
    np.testing.assert_array_equal(found, found.T)


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 1300), max_size=6))
def test_calls_change_no_bit(cuts: list[int]) -> None:
    values = samples(2, 1300, 21)
    np.testing.assert_array_equal(accumulate(values, *sorted(cuts)).covariance(), accumulate(values).covariance())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    values = samples(3, 1100, 200)
    expected = accumulate(values).covariance()
    before = cfp_core.build_info()["threads"]
    cfp_core.set_threads(threads)
    try:
        np.testing.assert_array_equal(accumulate(values).covariance(), expected)
    finally:
        cfp_core.set_threads(before)


@pytest.mark.parametrize("cut", [1, 128, 300, 900])
def test_shards_merge_to_the_whole(cut: int) -> None:
    values = samples(4, 1000, 19)
    whole = accumulate(values).covariance()
    one, other = accumulate(values[:cut]), accumulate(values[cut:])
    before = other.covariance()
    one.merge(pickle.loads(pickle.dumps(other)))
    np.testing.assert_allclose(one.covariance(), whole, rtol=1e-12, atol=1e-13 * np.abs(whole).max())
    np.testing.assert_array_equal(other.covariance(), before)
    with pytest.raises(ValueError, match="channels differ"):
        one.merge(cfp_core.CovarianceAccumulator(3))


def test_a_copy_is_equal_and_independent() -> None:
    values = samples(5, 700, 11)
    accumulator = accumulate(values)
    clone = pickle.loads(pickle.dumps(accumulator))
    np.testing.assert_array_equal(clone.covariance(), accumulator.covariance())
    clone.update(values[:9])
    assert not np.array_equal(clone.covariance(), accumulator.covariance())


@pytest.mark.parametrize("key", ["totals", "products", "waiting"])
def test_a_state_with_parts_that_do_not_fit_is_refused(key: str) -> None:
    state = accumulate(samples(6, 10, 4)).state()
    with pytest.raises(ValueError, match="do not fit"):
        cfp_core.CovarianceAccumulator.from_state({**state, key: state[key][:-1]})
    with pytest.raises(ValueError, match=key):
        cfp_core.CovarianceAccumulator.from_state({name: value for name, value in state.items() if name != key})


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros((3, 4), np.float64), "float32"),
        (np.zeros((3, 5), np.float32), "samples"),
        (np.zeros(4, np.float32), "samples"),
        (np.full((1, 4), np.inf, np.float32), "not finite"),
    ],
)
def test_other_samples_are_refused(values: np.ndarray, match: str) -> None:
    accumulator = accumulate(samples(7, 30, 4))
    before = accumulator.covariance()
    with pytest.raises(ValueError, match=match):
        accumulator.update(values)
    np.testing.assert_array_equal(accumulator.covariance(), before)


def test_no_samples_and_no_channels_are_errors() -> None:
    with pytest.raises(ValueError, match="no samples"):
        cfp_core.CovarianceAccumulator(3).covariance()
    with pytest.raises(ValueError, match="channels"):
        cfp_core.CovarianceAccumulator(0)
