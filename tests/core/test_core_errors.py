"""Invalid maps raise an error that names tap, image and channel, and do not change the accumulator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from core_accumulating import accumulate, assert_same
from core_maps import tap

import cfp_core

READERS = {
    "matrix_rank": cfp_core.matrix_rank,
    "norms": cfp_core.norms,
    "update": lambda maps: cfp_core.TapAccumulator(3).update(maps),
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 2, 4, 6), (1, 0, 2, 3)])
@pytest.mark.parametrize("order", ["contiguous", "channels-last"])
def test_the_message_names_image_and_channel_of_a_nonfinite_pixel(
    value: float, place: tuple[int, int, int, int], order: str
) -> None:
    maps = np.ones((2, 3, 5, 7), np.float32)
    maps[place] = value
    if order == "channels-last":
        maps = np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    named = f"image {place[0]}, channel {place[1]} holds NaN or infinity"
    with pytest.raises(ValueError, match=named):
        cfp_core.norms(maps)
    accumulator = cfp_core.TapAccumulator(3, name="layer1.0.conv2")
    with pytest.raises(ValueError, match=rf"^tap layer1\.0\.conv2: {named}") as error:
        accumulator.update(maps)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"image {100 + place[0]}, channel {place[1]} "):
        accumulator.update(maps, first_image=100)
    with pytest.raises(ValueError, match="NaN or infinity"):
        cfp_core.matrix_rank(maps)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (8, 8), (17, 16), (40, 40)])
def test_one_nonfinite_pixel_is_found_at_any_position(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        maps = rng.standard_normal((1, 9, *size)).astype(np.float32)
        channel, row, column = (int(rng.integers(limit)) for limit in maps.shape[1:])
        maps[0, channel, row, column] = value
        for reader in (cfp_core.norms, cfp_core.matrix_rank, cfp_core.TapAccumulator(9).update):
            with pytest.raises(ValueError, match="NaN or infinity"):
                reader(maps)


def test_the_message_names_the_same_map_for_any_number_of_threads() -> None:
    maps = np.ones((4, 3, 20, 20), np.float32)
    maps[1:, 1] = np.nan
    named = set()
    for threads in (1, 2, 8):
        before = cfp_core.build_info()["threads"]
        cfp_core.set_threads(threads)
        with pytest.raises(ValueError, match="channel 1") as error:
            cfp_core.TapAccumulator(3).update(maps)
        named.add(str(error.value).split(",")[0])
        cfp_core.set_threads(before)
    assert named <= {"image 1", "image 2", "image 3"}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.ones((2, 3, 4, 4)), "float32.*float64"),
        (np.ones((2, 3, 4, 4), np.float16), "float32.*float16"),
        (np.ones((2, 3, 4, 4), np.int32), "float32.*int32"),
        (np.ones((2, 3, 4, 4), ">f4"), "float32"),
        ([[1.0]], "NumPy array of float32.*list"),
        (None, "NumPy array of float32.*NoneType"),
        (torch.ones(2, 3, 4, 4), "NumPy array of float32.*Tensor"),
        (np.ones(3, np.float32), r"\[3\]"),
        (np.ones((), np.float32), r"\[\]"),
    ],
)
def test_the_message_names_wrong_types_and_shapes(name: str, maps: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        READERS[name](maps)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 2, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_maps_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    maps = np.ones(shape, np.float32)
    for reader in (cfp_core.norms, cfp_core.TapAccumulator(3, name="conv").update):
        with pytest.raises(ValueError, match="shape"):
            reader(maps)


VIEWS = {
    **{f"flipped along {axis}": lambda maps, axis=axis: np.flip(maps, axis) for axis in range(4)},
    "every other column": lambda maps: maps[..., ::2],
    "a crop": lambda maps: maps[1:, 1:, 1:-1, 1:],
    "channels last": lambda maps: np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "transposed": lambda maps: maps.transpose(1, 0, 3, 2),
    "broadcast": lambda maps: np.broadcast_to(maps[:, :1], maps.shape),
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_memory_order_gives_the_same_scores(view: str) -> None:
    seen = VIEWS[view](np.random.default_rng(2).standard_normal((2, 3, 4, 5)).astype(np.float32))
    plain = np.ascontiguousarray(seen)
    np.testing.assert_array_equal(cfp_core.norms(seen), cfp_core.norms(plain))
    np.testing.assert_array_equal(cfp_core.matrix_rank(seen), cfp_core.matrix_rank(plain))
    one, other = (cfp_core.TapAccumulator(plain.shape[1]) for _ in range(2))
    one.update(seen)
    other.update(plain)
    np.testing.assert_array_equal(one.finish()["richness"], other.finish()["richness"])


def test_broadcast_maps_are_read_correctly() -> None:
    """A stride of zero, as `expand` gives."""
    base = np.random.default_rng(3).standard_normal((1, 3, 4, 5)).astype(np.float32)
    spread = np.broadcast_to(base, (6, 3, 4, 5))
    np.testing.assert_array_equal(cfp_core.norms(spread), cfp_core.norms(spread.copy()))
    np.testing.assert_array_equal(cfp_core.matrix_rank(spread), cfp_core.matrix_rank(spread.copy()))
    row = np.broadcast_to(base[:, :, :, :1], (1, 3, 4, 5))
    np.testing.assert_array_equal(cfp_core.matrix_rank(row), [[1, 1, 1]])


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda a, maps: a.update(maps[:, :2]), id="channels"),
        pytest.param(lambda a, maps: a.update(maps[:, :, :3]), id="height"),
        pytest.param(lambda a, maps: a.update(maps[:, :, :, :3]), id="width"),
        pytest.param(lambda a, maps: a.update(maps[0]), id="dimensions"),
        pytest.param(lambda a, maps: a.update(np.where(np.arange(2)[:, None, None, None], np.nan, maps)), id="nan"),
        pytest.param(lambda a, maps: a.update(maps, 1), id="repeated image"),
        pytest.param(lambda a, maps: a.merge(accumulate(maps)), id="merge repeated image"),
        pytest.param(lambda a, maps: a.merge(accumulate(maps[:, :2], first=5)), id="merge channels"),
        pytest.param(lambda a, maps: a.merge(accumulate(maps[:, :, :3], first=5)), id="merge size"),
        pytest.param(lambda a, maps: a.merge(accumulate(maps, first=5, decimals=3)), id="merge decimals"),
    ],
)
def test_an_error_does_not_change_the_accumulator(wrong) -> None:
    maps = tap(4, 2, 6, 5, 5)
    accumulator = accumulate(maps, name="conv7")
    before = accumulator.finish()
    with pytest.raises(ValueError, match=r"^tap conv7: "):
        wrong(accumulator, maps)
    assert_same(accumulator.finish(), before)
    np.testing.assert_array_equal(accumulator.finish()["distance"], before["distance"])


def test_an_accumulator_does_not_merge_with_itself() -> None:
    accumulator = accumulate(tap(4, 2, 6, 5, 5))
    with pytest.raises((ValueError, RuntimeError)):
        accumulator.merge(accumulator)
    assert accumulator.finish()["images"] == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0,), ValueError),
        ((3, "cosinus"), ValueError),
        ((3, "norm", "rang"), ValueError),
        ((-1,), OverflowError),
        ((3, "norm", "rank", -1), OverflowError),
        ((3, "norm", "rank", 1.5), TypeError),
        (("3",), TypeError),
    ],
)
def test_wrong_options_are_refused(arguments: tuple[object, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        cfp_core.TapAccumulator(*arguments)  # type: ignore[arg-type]


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="tap conv: no images"):
        cfp_core.TapAccumulator(3, name="conv").finish()


def test_an_empty_batch_changes_nothing() -> None:
    accumulator = cfp_core.TapAccumulator(3, name="conv")
    accumulator.update(np.ones((0, 3, 4, 4), np.float32))
    with pytest.raises(ValueError, match="no images"):
        accumulator.finish()
    accumulator.update(np.ones((2, 3, 4, 4), np.float32))
    accumulator.update(np.ones((0, 3, 4, 4), np.float32))
    assert accumulator.finish()["images"] == 2


@pytest.mark.parametrize("channels", [2**15 + 1, 2**40])
@pytest.mark.parametrize("similarity", ["norm", "ssim"])
def test_a_tap_that_exceeds_memory_is_refused(channels: int, similarity: str) -> None:
    with pytest.raises(ValueError, match=f"{channels} channels is too wide"):
        cfp_core.TapAccumulator(channels, similarity)


@pytest.mark.parametrize("count", [0, 1025, 2**40])
def test_too_many_threads_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot use {count} threads"):
        cfp_core.set_threads(count)
