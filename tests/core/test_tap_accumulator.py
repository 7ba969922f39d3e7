"""The accumulator: the same result for any batches, shards, order and merging."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from core_accumulating import CHANNELS, CRITERIA, accumulate, assert_same
from core_maps import tap
from core_oracles import norm_distance, rank
from hypothesis import given, settings
from hypothesis import strategies as st

import cfp_core


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    before = cfp_core.build_info()["threads"]
    yield
    cfp_core.set_threads(before)


def test_results_equal_the_paper_s_definitions() -> None:
    maps = tap(1, 7, CHANNELS, 9, 14)
    found = accumulate(maps, name="conv1").finish()
    assert (found["images"], found["height"], found["width"]) == (7, 9, 14)
    assert found["norms"].shape == (7, CHANNELS)
    np.testing.assert_array_equal(found["norms"], cfp_core.norms(maps))
    np.testing.assert_allclose(found["distance"], norm_distance(maps), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(found["richness"], rank(maps).sum(axis=0) / 7)
    assert found["saturated_richness"] is False
    assert found["saturated_similarity"] is False


def test_ranks_use_rounded_maps_and_norms_use_unrounded_maps() -> None:
    rng = np.random.default_rng(2)
    maps = (rng.standard_normal((3, 4, 14, 14)) * 1e-3).astype(np.float32)
    for decimals in (0, 2, 3, 4, 6):
        found = accumulate(maps, decimals=decimals).finish()
        np.testing.assert_array_equal(found["norms"], cfp_core.norms(maps))
        np.testing.assert_array_equal(found["richness"], rank(maps.round(decimals)).mean(axis=0))
    np.testing.assert_array_equal(accumulate(maps, decimals=None).finish()["richness"], rank(maps).mean(axis=0))


def test_rounding_is_half_to_even_and_does_not_change_huge_pixels() -> None:
    """0.5 and 2.5 units round to 0 and 2, as NumPy does; 3e38 overflows when scaled and stays."""
    for value, expected in ((0.5, 0), (1.5, 1), (2.5, 1), (3e38, 1)):
        maps = np.full((1, 1, 3, 3), value, np.float32)
        assert accumulate(maps, decimals=0).finish()["richness"] == [expected]
    huge = np.full((1, 1, 3, 3), 3e38, np.float32)
    assert accumulate(huge, decimals=4).finish()["richness"] == [1]


@pytest.mark.parametrize(("similarity", "richness"), CRITERIA)
def test_batches_threads_and_memory_order_change_nothing(similarity: str, richness: str) -> None:
    maps = tap(3, 8, CHANNELS, 12, 17)
    expected = accumulate(maps, similarity, richness).finish()
    last = np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for threads, size, ordered in itertools.product((1, 2, 8), (1, 3, 8), (maps, last)):
        cfp_core.set_threads(threads)
        accumulator = cfp_core.TapAccumulator(CHANNELS, similarity, richness)
        for first in range(0, 8, size):
            accumulator.update(ordered[first : first + size])
        found = accumulator.finish()
        assert_same(found, expected)
        if similarity == "norm" or size == 8:
            np.testing.assert_array_equal(found["distance"], expected["distance"])


@pytest.mark.parametrize(("similarity", "richness"), CRITERIA)
def test_shards_merge_to_the_whole_in_any_order(similarity: str, richness: str) -> None:
    maps = tap(4, 9, CHANNELS, 7, 9)
    expected = accumulate(maps, similarity, richness).finish()
    bounds = [(0, 4), (4, 5), (5, 9)]
    for order in itertools.permutations(bounds):
        whole = cfp_core.TapAccumulator(CHANNELS, similarity, richness)
        for begin, end in order:
            whole.merge(accumulate(maps[begin:end], similarity, richness, begin))
        assert_same(whole.finish(), expected)


def test_images_can_be_added_in_any_order() -> None:
    """As from a shuffled or a strided loader: norms come out in the order of indices."""
    maps = tap(15, 8, CHANNELS, 6, 5)
    order = np.random.default_rng(16).permutation(8)
    accumulator = cfp_core.TapAccumulator(CHANNELS)
    for images in (order[:5], order[5:]):
        accumulator.update(maps[images], images=images.tolist())
    found, expected = accumulator.finish(), accumulate(maps).finish()
    assert_same(found, expected)
    np.testing.assert_array_equal(found["distance"], expected["distance"])


@pytest.mark.parametrize(
    "images", [[0, 1, 2], [0], [0, 0], [9, 3], [3, 9]], ids=["too many", "too few", "twice", "seen", "seen later"]
)
def test_wrong_image_indices_are_refused(images: list[int]) -> None:
    maps = tap(17, 3, CHANNELS, 3, 3)
    accumulator = accumulate(maps[:1], first=3, name="conv")
    with pytest.raises(ValueError, match=r"^tap conv: "):
        accumulator.update(maps[1:], images=images)
    with pytest.raises(ValueError, match="not both"):
        accumulator.update(maps[1:], 4, images=[4, 5])
    assert accumulator.finish()["images"] == 1


@settings(max_examples=25, deadline=None)
@given(
    shard=st.lists(st.integers(0, 3), min_size=1, max_size=24),
    order=st.permutations(range(4)),
    nested=st.booleans(),
)
def test_any_division_of_the_images_merges_to_the_same_scores(shard: list[int], order: list[int], nested: bool) -> None:
    maps = tap(5, len(shard), CHANNELS, 6, 5)
    shards = [cfp_core.TapAccumulator(CHANNELS) for _ in range(4)]
    for image, index in enumerate(shard):
        shards[index].update(maps[image : image + 1], image)
    first, second, third, fourth = (shards[index] for index in order)
    first.merge(second)
    if nested:
        third.merge(fourth)
        first.merge(third)
    else:
        first.merge(third)
        first.merge(fourth)
    found, expected = first.finish(), accumulate(maps).finish()
    assert_same(found, expected)
    np.testing.assert_array_equal(found["distance"], expected["distance"])


def test_merging_does_not_change_the_other() -> None:
    maps = tap(6, 4, CHANNELS, 5, 5)
    one, other = accumulate(maps[:2]), accumulate(maps[2:], first=2)
    before = other.finish()
    one.merge(other)
    assert_same(other.finish(), before)
    assert one.finish()["images"] == 4


def test_the_default_index_follows_the_last_image() -> None:
    maps = tap(7, 6, CHANNELS, 5, 5)
    accumulator = accumulate(maps[2:4], first=2)
    accumulator.update(maps[4:])
    accumulator.update(maps[:2], 0)
    assert_same(accumulator.finish(), accumulate(maps).finish())


def test_images_can_be_added_after_finish() -> None:
    maps = tap(8, 6, CHANNELS, 5, 5)
    accumulator = accumulate(maps[:3])
    assert accumulator.finish()["images"] == 3
    accumulator.update(maps[3:])
    assert_same(accumulator.finish(), accumulate(maps).finish())


def test_torch_maps_are_read_without_a_copy() -> None:
    """`.numpy()` shares torch's memory; contiguous and channels-last tensors give the same bits."""
    maps = torch.from_numpy(tap(9, 4, CHANNELS, 8, 6))
    expected = accumulate(maps.numpy()).finish()
    found = accumulate(maps.to(memory_format=torch.channels_last).numpy()).finish()
    assert_same(found, expected)
    np.testing.assert_array_equal(found["distance"], expected["distance"])


def test_maps_of_one_pixel_may_be_a_table() -> None:
    table = np.random.default_rng(10).random((5, 4)).astype(np.float32)
    found = accumulate(table).finish()
    assert (found["height"], found["width"]) == (1, 1)
    assert_same(found, accumulate(table[:, :, None, None]).finish())


def test_equal_scores_are_reported_as_saturated() -> None:
    noise = np.random.default_rng(11).standard_normal((3, 4, 5, 5)).astype(np.float32)
    found = accumulate(noise).finish()
    assert (found["saturated_richness"], found["saturated_similarity"]) == (True, False)
    same = np.repeat(noise[:, :1], 4, axis=1)
    found = accumulate(same).finish()
    assert (found["saturated_richness"], found["saturated_similarity"]) == (True, True)
    dead = accumulate(noise * 0).finish()
    assert (dead["saturated_richness"], dead["saturated_similarity"]) == (True, True)
