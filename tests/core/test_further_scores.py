"""SSIM, cosine, entropy, effective rank and nuclear norm against scikit-image, SciPy and NumPy."""

from __future__ import annotations

import core_oracles as oracle
import numpy as np
import pytest
from core_accumulating import accumulate
from core_maps import KINDS, Maps, gaussian, tap
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import squareform

SIMILARITIES = {"ssim": oracle.ssim_distance, "cosine": oracle.cosine_distance, "norm": oracle.norm_distance}
RICHNESSES = {"entropy": oracle.entropy, "effective-rank": oracle.effective_rank, "nuclear": oracle.nuclear}
SHAPES = [(1, 1), (1, 7), (7, 1), (2, 3), (7, 7), (8, 8), (9, 9), (8, 12), (14, 14), (13, 30), (28, 28), (7, 40)]


def distance(maps: Maps, similarity: str) -> np.ndarray:
    return accumulate(maps, similarity).finish()["distance"]


def richness(maps: Maps, name: str) -> np.ndarray:
    return accumulate(maps, richness=name).finish()["richness"]


def mixed(seed: int, images: int, height: int, width: int) -> Maps:
    """One channel of each kind of similar scale; one huge channel would hide all others."""
    rng = np.random.default_rng(seed)
    kinds = [KINDS[kind](rng, images, height, width) for kind in ("relu", "low-rank", "graded", "gaussian", "relu")]
    maps = np.stack([*kinds, np.zeros_like(kinds[0]), np.ones_like(kinds[0]), kinds[3] + 5, -kinds[3]], axis=1)
    maps[0, 3] = 0
    return maps.astype(np.float32)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("size", SHAPES, ids="{0[0]}x{0[1]}".format)
def test_similarities_equal_their_definitions(similarity: str, size: tuple[int, int]) -> None:
    for maps in (mixed(1, 3, *size), tap(2, 2, 11, *size), gaussian(np.random.default_rng(3), 18, *size)[None]):
        expected = SIMILARITIES[similarity](maps)
        np.testing.assert_allclose(distance(maps, similarity), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", RICHNESSES)
@pytest.mark.parametrize("size", SHAPES, ids="{0[0]}x{0[1]}".format)
def test_richness_equals_its_definition(name: str, size: tuple[int, int]) -> None:
    for maps in (mixed(4, 3, *size), tap(5, 2, 11, *size), gaussian(np.random.default_rng(6), 18, *size)[None]):
        np.testing.assert_allclose(richness(maps, name), RICHNESSES[name](maps), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RICHNESSES)
def test_richness_of_large_maps(name: str) -> None:
    maps = tap(7, 2, 6, 112, 100)
    np.testing.assert_allclose(richness(maps, name), RICHNESSES[name](maps), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("similarity", ["ssim", "cosine"])
@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 15, 16, 17, 24, 33, 65])
def test_any_number_of_channels(similarity: str, channels: int) -> None:
    maps = tap(8, 2, channels, 9, 10)
    if channels == 1:
        assert distance(maps, similarity).shape == (0,)
    else:
        np.testing.assert_allclose(distance(maps, similarity), SIMILARITIES[similarity](maps), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("side", [3, 5, 7])
def test_ssim_of_a_small_map_equals_scikit_image(side: int) -> None:
    """A map below 8 pixels is one window; scikit-image's mean over one uniform window of the map's size is the same."""
    metrics = pytest.importorskip("skimage.metrics")
    maps = tap(9, 3, 8, side, side) + gaussian(np.random.default_rng(10), 24, side, side).reshape(3, 8, side, side)
    first, second = np.triu_indices(8, 1)
    expected = np.zeros(len(first))
    for image in maps.astype(np.float64):
        options = {"win_size": side, "data_range": image.max() - image.min(), "use_sample_covariance": False}
        pairs = zip(first, second, strict=True)
        similarities = [metrics.structural_similarity(image[i], image[j], **options) for i, j in pairs]
        expected += (1 - np.array(similarities)) / 3
    np.testing.assert_allclose(distance(maps, "ssim"), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (12, 16), (20, 20)])
def test_ssim_is_a_mean_over_windows(size: tuple[int, int]) -> None:
    """Windows at stride 4: repeating one 4 x 4 block makes every window the same block four times over."""
    blocks = gaussian(np.random.default_rng(11), 6, 4, 4)
    maps = np.tile(blocks, (1, size[0] // 4, size[1] // 4))[None]
    np.testing.assert_allclose(distance(maps, "ssim"), distance(blocks[None], "ssim"), rtol=1e-10)


@pytest.mark.parametrize("similarity", ["ssim", "cosine"])
def test_equal_channels_are_at_distance_zero_and_all_within_bounds(similarity: str) -> None:
    maps = tap(12, 3, 11, 14, 14)
    square = squareform(distance(maps, similarity))
    assert abs(square[3, 4]) < 1e-14
    assert square.min() > -1e-14
    assert square.max() <= 2


def test_dead_maps_by_cosine() -> None:
    """0 between two dead maps, 1 between a dead and a live one, 2 between opposites; scale does not matter."""
    live = gaussian(np.random.default_rng(13), 1, 9, 9)[0]
    maps = np.stack([live * 0, live * 0, live, live * 7, -live])[None]
    expected = [0, 1, 1, 1, 1, 1, 1, 0, 2, 2]
    np.testing.assert_allclose(distance(maps, "cosine"), expected, atol=1e-13)
    for scale in (1e-30, 1e-40, 1e30):
        tiny = (maps * np.float32(scale)).astype(np.float32)
        np.testing.assert_allclose(distance(tiny, "cosine"), oracle.cosine_distance(tiny), atol=1e-12)


def test_known_values_of_entropy() -> None:
    """A map with k equally frequent values far apart has log2 k bits; the range is that of all channels."""
    ramp = np.arange(256, dtype=np.float32).reshape(16, 16)
    maps = np.stack([ramp, ramp // 64 * 64, ramp * 0, np.where(ramp < 128, 0, 255)])[None].astype(np.float32)
    np.testing.assert_allclose(richness(maps, "entropy"), [8, 2, 0, 1], atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(low=st.floats(-1e6, 1e6, width=32), span=st.floats(0, 1e6, width=32), seed=st.integers(0, 2**32 - 1))
def test_entropy_bins_as_numpy_does(low: float, span: float, seed: int) -> None:
    """Pixels on the edges of bins, where rounding could put them on either side."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(np.float32(low), np.float32(low) + np.float64(span), 257).astype(np.float32)
    maps = rng.choice(edges, (1, 2, 12, 12))
    maps[0, 0, 0, :2] = edges[0], edges[-1]
    np.testing.assert_allclose(richness(maps, "entropy"), oracle.entropy(maps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", [1, 4, 14, 40])
def test_known_values_of_the_spectrum(side: int) -> None:
    """The identity has equal singular values: effective rank = side, nuclear = 1; rank one: 1 and 1 / sqrt(side)."""
    maps = np.stack([np.eye(side), np.ones((side, side)), np.zeros((side, side))])[None].astype(np.float32)
    np.testing.assert_allclose(richness(maps, "effective-rank"), [side, 1, 0], rtol=1e-9)
    np.testing.assert_allclose(richness(maps, "nuclear"), [1, side**-0.5, 0], rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.integers(2, 12),
    exponent=st.integers(-6, 6),
    sparse=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_maps(size: tuple[int, int], channels: int, exponent: int, sparse: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((2, channels, *size)) * (rng.random((2, channels, *size)) >= sparse) * 10.0**exponent
    maps = maps.astype(np.float32)
    for similarity in ("ssim", "cosine"):
        expected = SIMILARITIES[similarity](maps)
        np.testing.assert_allclose(distance(maps, similarity), expected, rtol=1e-9, atol=1e-11)
    for name, definition in RICHNESSES.items():
        np.testing.assert_allclose(richness(maps, name), definition(maps), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-12, 1e12, 1e30, 3e38])
def test_extreme_scales(scale: float) -> None:
    """All of these scores are free of scale; nothing under- or overflows on the way."""
    maps = mixed(14, 2, 9, 9)
    maps /= np.abs(maps).max()
    scaled = (maps * np.float32(scale)).astype(np.float32)
    for similarity in ("ssim", "cosine"):
        np.testing.assert_allclose(distance(scaled, similarity), SIMILARITIES[similarity](scaled), atol=1e-9)
    for name, definition in RICHNESSES.items():
        np.testing.assert_allclose(richness(scaled, name), definition(scaled), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("similarity", ["ssim", "cosine"])
def test_saturation_is_reported(similarity: str) -> None:
    same = np.ones((2, 5, 4, 4), np.float32)
    found = accumulate(same, similarity, "entropy").finish()
    assert found["saturated_similarity"]
    assert found["saturated_richness"]
