"""Accumulators can be copied, stored and sent to other processes."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from core_accumulating import CHANNELS, CRITERIA, accumulate, assert_same
from core_maps import tap

import cfp_core


@pytest.mark.parametrize(("similarity", "richness"), CRITERIA)
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_copy_is_equal_and_independent(similarity: str, richness: str, way: str) -> None:
    maps = tap(12, 6, CHANNELS, 7, 7)
    accumulator = accumulate(maps[:4], similarity, richness, decimals=3, name="conv")
    clone = pickle.loads(pickle.dumps(accumulator)) if way == "pickle" else copy.deepcopy(accumulator)
    assert_same(clone.finish(), accumulator.finish())
    np.testing.assert_array_equal(clone.finish()["distance"], accumulator.finish()["distance"])
    clone.update(maps[4:])
    assert (clone.finish()["images"], accumulator.finish()["images"]) == (6, 4)
    with pytest.raises(ValueError, match="conv"):
        clone.update(maps[:, :2])


def test_an_accumulator_without_images_can_be_pickled() -> None:
    clone = pickle.loads(pickle.dumps(cfp_core.TapAccumulator(3, name="conv", decimals=None)))
    with pytest.raises(ValueError, match="conv"):
        clone.finish()
    clone.update(np.ones((1, 3, 2, 2), np.float32))


def test_from_state_restores_the_state() -> None:
    accumulator = accumulate(tap(13, 3, CHANNELS, 3, 4), "ssim", first=5, name="conv", decimals=None)
    state = accumulator.state()
    assert (state["images"], state["size"], state["decimals"], state["name"]) == ([5, 6, 7], (3, 4), None, "conv")
    assert len(state["norms"]) == len(state["rich"]) == 3 * CHANNELS
    again = cfp_core.TapAccumulator.from_state(state).state()
    assert again.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


@pytest.mark.parametrize(
    "change",
    [
        {"norms": np.zeros(3)},
        {"rich": np.zeros(0)},
        {"sums": np.zeros(1)},
        {"images": [0]},
        {"images": [1, 0]},
        {"images": [1, 1]},
        {"images": []},
        {"size": None},
        {"channels": 0},
        {"channels": 7},
        {"similarity": "cosinus"},
        {"similarity": "ssim"},
        {"richness": "rang"},
        {"norms": [1.0, 2.0]},
        {"norms": np.zeros(2 * CHANNELS, np.float32)},
    ],
    ids=str,
)
def test_a_state_whose_parts_do_not_fit_is_refused(change: dict[str, object]) -> None:
    state = accumulate(tap(13, 2, CHANNELS, 3, 3)).state()
    with pytest.raises(ValueError, match=r"."):
        cfp_core.TapAccumulator.from_state({**state, **change})


def test_a_state_without_a_part_is_refused() -> None:
    state = accumulate(tap(13, 2, CHANNELS, 3, 3)).state()
    for key in state:
        with pytest.raises(ValueError, match=key):
            cfp_core.TapAccumulator.from_state({name: part for name, part in state.items() if name != key})


def shard_of(begin: int, end: int) -> cfp_core.TapAccumulator:
    return accumulate(tap(14, 8, CHANNELS, 6, 6)[begin:end], first=begin)


def test_processes_send_their_shards() -> None:
    whole = cfp_core.TapAccumulator(CHANNELS)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for shard in pool.map(shard_of, (5, 0), (8, 5)):
            whole.merge(shard)
    found, expected = whole.finish(), shard_of(0, 8).finish()
    assert_same(found, expected)
    np.testing.assert_array_equal(found["distance"], expected["distance"])
