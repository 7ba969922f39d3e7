"""Explained variance against its definition: regressions of all channels on the selected ones."""

from __future__ import annotations

import core_oracles as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cfp_core


def table(seed: int, channels: int, samples: int = 200) -> np.ndarray:
    """Correlated channels of different variances [samples, channels]."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((samples, channels)) @ rng.standard_normal((channels, channels))
    return mixed * rng.uniform(0.1, 10, channels) + rng.uniform(-5, 5, channels)


def covariance(samples: np.ndarray) -> np.ndarray:
    accumulator = cfp_core.CovarianceAccumulator(samples.shape[1])
    accumulator.update(samples)
    return accumulator.covariance()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), channels=st.integers(1, 9))
def test_shares_equal_their_definition(seed: int, channels: int) -> None:
    values = table(seed, channels)
    found = cfp_core.explained_variance(np.cov(values.T, bias=True).reshape(channels, channels))
    # Two channels explain each other equally well; the shares are the same in either order.
    np.testing.assert_allclose(np.sort(found), np.sort(oracle.explained_variance(values)), rtol=1e-6, atol=1e-6)
    if channels > 2:
        matrix = np.cov(values.T)
        assert np.argsort(-found)[0] == np.argmax(np.square(matrix).sum(axis=0) / np.diag(matrix))


@pytest.mark.parametrize("channels", [300, 777])
def test_many_channels_on_all_threads_equal_their_definition(channels: int) -> None:
    """So many channels that several threads compute. Only the first few are compared: regressions are slow."""
    values = table(1, channels, 2 * channels)
    found = cfp_core.explained_variance(np.cov(values.T, bias=True))
    first = np.argsort(-found)[:4]
    np.testing.assert_allclose(found[first], oracle.explained_variance(values, most=4)[first], rtol=1e-9)


def test_low_rank_channels_equal_their_definition() -> None:
    """The residual falls by orders of magnitude within a block."""
    rng = np.random.default_rng(2)
    values = rng.standard_normal((500, 5)) @ rng.standard_normal((5, 40)) + 0.01 * rng.standard_normal((500, 40))
    found = cfp_core.explained_variance(np.cov(values.T, bias=True))
    first = np.argsort(-found)[:8]
    np.testing.assert_allclose(found[first], oracle.explained_variance(values, most=8)[first], rtol=1e-6, atol=1e-9)


def test_independent_channels_explain_themselves_only() -> None:
    np.testing.assert_allclose(cfp_core.explained_variance(np.diag([4.0, 1.0, 9.0, 2.0])), [7 / 16, 1 / 16, 1, 3 / 16])


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_a_common_scale_changes_nothing(factor: float) -> None:
    matrix = np.cov(table(8, 40).T)
    np.testing.assert_allclose(cfp_core.explained_variance(factor * matrix), cfp_core.explained_variance(matrix))


def test_a_channel_that_hardly_varies_comes_last() -> None:
    """However little the others say about it: noise that nothing reads is not worth a channel."""
    rng = np.random.default_rng(9)
    values = np.concatenate([table(9, 6), 1e-3 * rng.standard_normal((200, 1))], axis=1)
    found = cfp_core.explained_variance(np.cov(values.T))
    assert np.argmin(found) == 6


def test_a_scaled_copy_explains_nothing_more() -> None:
    values = table(5, 6)
    doubled = np.concatenate([values, -7 * values + 3], axis=1)
    found = cfp_core.explained_variance(np.cov(doubled.T))
    assert ((found[:6] > 0) != (found[6:] > 0)).all()
    np.testing.assert_allclose(np.maximum(found[:6], found[6:]), oracle.explained_variance(values), atol=1e-6)


def test_constant_channels_come_last() -> None:
    values = table(6, 6)
    values[:, 1], values[:, 4] = 0, 3.7
    samples = values.astype(np.float32)
    found = cfp_core.explained_variance(covariance(samples))
    assert (found[[1, 4]] == 0).all()
    assert found.max() == 1
    assert (cfp_core.explained_variance(covariance(samples[:, [1, 4]])) == 0).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    matrix = np.cov(table(7, 300, 400).T)
    expected = cfp_core.explained_variance(matrix)
    before = cfp_core.build_info()["threads"]
    cfp_core.set_threads(threads)
    try:
        np.testing.assert_array_equal(cfp_core.explained_variance(matrix), expected)
    finally:
        cfp_core.set_threads(before)


@pytest.mark.parametrize(
    ("matrix", "match"),
    [
        (np.zeros((2, 3)), "covariance \\[C, C\\]"),
        (np.zeros(4), "covariance \\[C, C\\]"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.zeros((2, 2), np.float32), "float64"),
    ],
)
def test_other_arrays_are_refused(matrix: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cfp_core.explained_variance(matrix)
