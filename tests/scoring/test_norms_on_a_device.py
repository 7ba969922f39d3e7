"""Maps on a GPU are reduced to norms there: the scores must be those of the core."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cfp_core
from cfp_cli.scoring.score import add_maps

MAPS = torch.randn(5, 12, 7, 9, generator=torch.Generator().manual_seed(0))


def accumulator(**options: object) -> cfp_core.TapAccumulator:
    return cfp_core.TapAccumulator(12, **{"richness": None, "name": "conv1", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_scores_are_those_of_the_core(channels_last: bool) -> None:
    maps = MAPS.to(memory_format=torch.channels_last) if channels_last else MAPS
    one, other = accumulator(), accumulator()
    for first in (3, 0):
        part = maps[first : first + 3]
        add_maps(one, part, first, on_device=False)
        add_maps(other, part, first, on_device=True)
    expected, found = one.finish(), other.finish()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(found[key], value, rtol=1e-12)
        else:
            assert found[key] == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_pixel_that_is_not_finite_is_named(value: float) -> None:
    maps = MAPS.clone()
    maps[2, 4, 1, 1] = value
    messages = []
    for on_device in (False, True):
        with pytest.raises(ValueError, match="conv1") as raised:
            add_maps(accumulator(), maps, 10, on_device=on_device)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("options", [{"similarity": "ssim"}, {"richness": "rank"}, {"similarity": "cosine"}])
def test_only_norms_can_be_computed_from_norms(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="call update with maps"):
        accumulator(**options).update_norms(np.ones((1, 12)), (3, 3), 0)


def test_wrong_shapes_and_repeated_images_leave_the_accumulator_unchanged() -> None:
    norms = accumulator()
    norms.update_norms(np.ones((2, 12)), (3, 3), 0)
    before = norms.finish()
    for table, size, first in (
        (np.ones((2, 11)), (3, 3), 2),
        (np.ones((2, 12)), (3, 4), 2),
        (np.ones((2, 12)), (3, 3), 1),
        (np.ones(12), (3, 3), 2),
        (np.ones((2, 12), np.float32), (3, 3), 2),
    ):
        with pytest.raises(ValueError, match=r"norms|maps|image"):
            norms.update_norms(table, size, first)
    assert norms.finish()["images"] == 2
    np.testing.assert_array_equal(norms.finish()["distance"], before["distance"])
