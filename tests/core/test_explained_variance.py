"""Explained variance against its definition: regressions of all channels on the selected ones."""

from __future__ import annotations

import core_oracles as oracle
import numpy as np
import pytest
from core_accumulating import accumulate
from core_maps import tap
from hypothesis import given, settings
from hypothesis import strategies as st

import cfp_core


def table(seed: int, channels: int, samples: int = 200) -> np.ndarray:
    """Correlated channels of different variances [samples, channels]."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((samples, channels)) @ rng.standard_normal((channels, channels))
    return mixed * rng.uniform(0.1, 10, channels) + rng.uniform(-5, 5, channels)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), channels=st.integers(1, 9))
def test_shares_equal_their_definition(seed: int, channels: int) -> None:
    values = table(seed, channels)
    found = cfp_core.explained_variance(np.cov(values.T, bias=True).reshape(channels, channels))
    # Two channels explain each other equally well; the shares are the same in either order.
    np.testing.assert_allclose(np.sort(found), np.sort(oracle.explained_variance(values)), rtol=1e-6, atol=1e-6)
    if channels > 2:
        assert np.argsort(-found)[0] == np.argmax(np.square(np.corrcoef(values.T)).sum(axis=0))


@pytest.mark.parametrize("channels", [300, 777])
def test_many_channels_on_all_threads_equal_their_definition(channels: int) -> None:
    """So many channels that several threads compute. Only the first few are compared: regressions are slow."""
    values = table(1, channels, 2 * channels)
    found = cfp_core.explained_variance(np.cov(values.T, bias=True))
    first = np.argsort(-found)[:4]
    np.testing.assert_allclose(found[first], oracle.explained_variance(values, most=4)[first], rtol=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 15, 16, 17, 24, 33, 65])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 10), (28, 28)], ids="{0[0]}x{0[1]}".format)
def test_covariances_equal_numpy(channels: int, size: tuple[int, int]) -> None:
    maps = tap(3, 4, channels, *size)
    values = maps.astype(np.float64).transpose(1, 0, 2, 3).reshape(channels, -1)
    scores = accumulate(maps, richness="explained-variance").finish()
    expected = np.cov(values, bias=True).reshape(channels, channels)
    np.testing.assert_allclose(scores["covariance"], expected, rtol=1e-10, atol=1e-12 * np.square(values).max())
    np.testing.assert_array_equal(scores["richness"], cfp_core.explained_variance(scores["covariance"]))


@pytest.mark.parametrize("size", [(33, 32), (48, 64), (7, 300), (112, 112)], ids="{0[0]}x{0[1]}".format)
def test_of_large_maps_the_same_pixels_of_every_channel_and_image_count(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(8)
    mixed = rng.standard_normal((5, 5)) @ rng.standard_normal((5, 5 * size[0] * size[1]))
    values = mixed.reshape(5, 5, *size).astype(np.float32) + np.arange(5, dtype=np.float32)[:, None, None, None]
    maps = np.ascontiguousarray(np.concatenate([values, values[:1]]).transpose(1, 0, 2, 3))
    found = accumulate(maps, richness="explained-variance").finish()["covariance"]
    np.testing.assert_array_equal(found[0], found[5])
    assert found[0, 0] == found[0, 5] == found[5, 5]
    # 5 x 1024 pixels; of independent ones a covariance is known to a seventieth of the variance.
    whole = np.cov(maps.transpose(1, 0, 2, 3).reshape(6, -1), bias=True)
    deviation = np.sqrt(np.diag(whole))
    np.testing.assert_allclose(
        found / deviation / deviation[:, None], whole / deviation / deviation[:, None], atol=0.09
    )
    # The same pixels of each image are used: equal images give the result of one image.
    one, three = (accumulate(maps[[0] * count], richness="explained-variance").finish() for count in (1, 3))
    np.testing.assert_allclose(one["covariance"], three["covariance"], rtol=1e-9, atol=1e-9 * deviation.max() ** 2)
    # Any memory order gives the same result.
    last = np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(accumulate(last, richness="explained-variance").finish()["covariance"], found)


def test_other_richness_has_no_covariances() -> None:
    assert accumulate(tap(4, 2, 3, 5, 5), richness="rank").finish()["covariance"] is None


def test_independent_channels_explain_themselves_only() -> None:
    np.testing.assert_allclose(cfp_core.explained_variance(np.diag([4.0, 1.0, 9.0, 2.0])), [1, 0.75, 0.5, 0.25])


def test_a_scaled_copy_explains_nothing_more() -> None:
    values = table(5, 6)
    doubled = np.concatenate([values, -7 * values + 3], axis=1)
    found = cfp_core.explained_variance(np.cov(doubled.T))
    assert ((found[:6] > 0) != (found[6:] > 0)).all()
    np.testing.assert_allclose(np.maximum(found[:6], found[6:]), oracle.explained_variance(values), atol=1e-6)


def test_constant_channels_come_last() -> None:
    maps = tap(6, 3, 6, 9, 9)
    maps[:, 1], maps[:, 4] = 0, 3.7
    found = accumulate(maps, richness="explained-variance").finish()["richness"]
    assert (found[[1, 4]] == 0).all()
    assert found.max() == 1
    dead = accumulate(maps[:, [1, 4]], richness="explained-variance").finish()
    assert (dead["richness"] == 0).all()
    assert dead["saturated_richness"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads: int) -> None:
    covariance = np.cov(table(7, 300, 400).T)
    expected = cfp_core.explained_variance(covariance)
    before = cfp_core.build_info()["threads"]
    cfp_core.set_threads(threads)
    try:
        np.testing.assert_array_equal(cfp_core.explained_variance(covariance), expected)
    finally:
        cfp_core.set_threads(before)


@pytest.mark.parametrize(
    ("covariance", "match"),
    [
        (np.zeros((2, 3)), "covariance \\[C, C\\]"),
        (np.zeros(4), "covariance \\[C, C\\]"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.zeros((2, 2), np.float32), "float64"),
    ],
)
def test_other_arrays_are_refused(covariance: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cfp_core.explained_variance(covariance)
