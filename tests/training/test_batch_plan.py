from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import Shuffle, TensorViews

from cfp_cli.training.batch_plan import BatchPlan, step_seed


def order_of(images: int, views: int, batch_size: int, **arguments) -> BatchPlan:
    return BatchPlan(Shuffle(images), TensorViews(torch.zeros(images, views, 1, 1, 1)), batch_size, 0, **arguments)


@settings(max_examples=40)
@given(st.integers(4, 90), st.integers(2, 32), st.integers(1, 9), st.integers(0, 5))
def test_every_image_once_and_batches_even(images, batch_size, views, epoch):
    order = order_of(images, views, batch_size)
    batches = [order.batch(epoch, step) for step in range(order.steps_per_epoch)]
    assert sorted(np.concatenate([batch[0] for batch in batches])) == list(range(images))
    sizes = {len(batch[0]) for batch in batches}
    assert max(sizes) <= max(batch_size, 3)
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert all((batch[1] >= 0).all() and (batch[1] < views).all() for batch in batches)


class Repeats:
    def epoch(self, number: int):
        return np.random.default_rng(number).integers(20, size=20)


@pytest.mark.parametrize("sampler", [Shuffle(20), Repeats()], ids=["instance", "repeats"])
def test_views_are_met_in_turn(sampler):
    pixels = TensorViews(torch.zeros(20, 4, 1, 1, 1))
    first: dict[int, int] = {}
    for epoch in range(4):
        order = BatchPlan(sampler, pixels, 8, seed=0)
        turns: Counter[int] = Counter()
        for step in range(order.steps_per_epoch):
            for image, view in zip(*map(np.ndarray.tolist, order.batch(epoch, step)[:2]), strict=True):
                start = first.setdefault(image, (view - epoch) % 4)
                assert view == (start + epoch + turns[image]) % 4
                turns[image] += 1
    assert len(set(first.values())) > 1


def test_all_views_of_all_images_in_v_epochs():
    order = order_of(12, 3, 5)
    seen = Counter(
        pair
        for epoch in range(3)
        for step in range(order.steps_per_epoch)
        for pair in zip(*map(np.ndarray.tolist, order.batch(epoch, step)[:2]), strict=True)
    )
    assert len(seen) == 36
    assert set(seen.values()) == {1}


def test_processes_share_each_batch():
    whole = order_of(33, 2, 16)
    parts = [order_of(33, 2, 16, rank=rank, world_size=3) for rank in range(3)]
    for step in range(whole.steps_per_epoch):
        images = [part.batch(0, step)[0] for part in parts]
        assert sorted(np.concatenate(images)) == sorted(whole.batch(0, step)[0])
        assert {part.batch(0, step)[2] for part in parts} == {sum(map(len, images))}


def test_any_order_of_asking_gives_the_same():
    first, second = (order_of(30, 2, 8) for _ in range(2))
    asked = {(epoch, step): first.batch(epoch, step) for epoch in (2, 0, 1) for step in (3, 0, 1)}
    for (epoch, step), batch in asked.items():
        again = second.batch(epoch, step)
        assert all(np.array_equal(a, b) for a, b in zip(batch[:2], again[:2], strict=True))


def test_step_seeds_differ():
    seeds = {
        step_seed(seed, epoch, step, rank)
        for seed in range(3)
        for epoch in range(9)
        for step in range(9)
        for rank in (0, 1)
    }
    assert len(seeds) == 3 * 9 * 9 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)
