from __future__ import annotations

import numpy as np
import pytest
import torch

from cfp_cli.data.samplers import Sampler
from cfp_cli.foundation.errors import UsageError

LABELS = [2] * 400 + [0] * 16 + [1] * 64


def test_instance_shows_every_image_once() -> None:
    epochs = [Sampler("instance", LABELS, 1).epoch(number) for number in range(3)]
    assert all(sorted(epoch) == list(range(480)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize(("kind", "shares"), [("balanced", (1 / 3, 1 / 3, 1 / 3)), ("sqrt", (4 / 32, 8 / 32, 20 / 32))])
def test_classes_are_drawn_in_their_share(kind: str, shares: tuple[float, ...]) -> None:
    drawn = np.concatenate([Sampler(kind, LABELS, 0).epoch(number) for number in range(40)])
    assert drawn.dtype == np.int64
    labels = np.array(LABELS)[drawn]
    for label, share in enumerate(shares):
        # Five standard deviations of a binomial share.
        assert abs(np.mean(labels == label) - share) < 5 * np.sqrt(share * (1 - share) / len(labels))
        images = np.bincount(drawn[labels == label], minlength=480)[np.array(LABELS) == label]
        expected = len(labels) * share / len(images)
        assert np.abs(images - expected).max() < 6 * np.sqrt(expected)


@pytest.mark.parametrize("kind", ["instance", "balanced", "sqrt"])
def test_epochs_depend_on_seed_and_number_only(kind: str) -> None:
    one, again = Sampler(kind, LABELS, 7), Sampler(kind, torch.tensor(LABELS), 7)
    assert len(one) == 480
    late = one.epoch(5)
    one.epoch(0)
    assert np.array_equal(again.epoch(5), late)
    assert np.array_equal(one.epoch(5), late)
    assert not np.array_equal(Sampler(kind, LABELS, 8).epoch(5), late)


def test_unknown_sampler() -> None:
    with pytest.raises(UsageError, match="unknown sampler 'balance'; use one of instance, balanced, sqrt"):
        Sampler("balance", LABELS, 0)  # type: ignore[arg-type]
