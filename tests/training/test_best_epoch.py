from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.runs.shrink_options import short_training
from cfp_cli.training.best_epoch import START, BestEpoch


def metrics(correct: int, images: int = 100) -> Metrics:
    """Metrics of a network that is right on `correct` of the images of two classes."""
    labels = torch.arange(images) % 2
    predictions = labels.clone()
    predictions[: images - correct] = 1 - predictions[: images - correct]
    return compute_metrics(predictions, labels, ("a", "b"))


def network(value: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


@settings(deadline=None)
@given(start=st.integers(50, 100), epochs=st.lists(st.integers(0, 100), max_size=12))
def test_no_epoch_below_the_start_is_kept(start: int, epochs: list[int]) -> None:
    best = BestEpoch(network(-1), "accuracy", patience=0)
    best.update(network(-1), metrics(start), START)
    for epoch, correct in enumerate(epochs):
        # A resumed run decides the same.
        state, best = best.state(), BestEpoch(network(-1), "accuracy", patience=0)
        best.restore(state)
        best.update(network(epoch), metrics(correct), epoch)
    kept = start if best.epoch == START else epochs[best.epoch]
    assert kept >= start
    assert best.model.weight.item() == best.epoch
    better = [epoch for epoch, correct in enumerate(epochs) if correct > max([start, *epochs[:epoch]])]
    assert best.epoch >= max(better, default=START)


def test_without_a_start_the_latest_epoch_within_one_standard_error_is_kept() -> None:
    best = BestEpoch(network(0), "accuracy", patience=0)
    for epoch, correct in enumerate((60, 92, 90, 70)):
        best.update(network(epoch), metrics(correct), epoch)
    assert best.epoch == 2


@given(gain=st.integers(0, 60))
def test_the_preset_of_shrink_stops_where_nothing_is_gained(gain: int) -> None:
    options = short_training()
    best = BestEpoch(network(-1), options.select, options.patience)
    best.update(network(-1), metrics(90), START, 0.5)
    epochs = 0
    while not best.stopped and epochs < options.epochs:
        best.update(network(epochs), metrics(90), epochs, 0.4 if epochs == gain else 0.6)
        epochs += 1
    # The network before training counts as an epoch.
    assert epochs == min(gain + 21 if gain < 20 else 20, options.epochs)


@settings(deadline=None)
@given(
    start=st.tuples(st.integers(80, 100), st.floats(0, 1)),
    epochs=st.lists(st.tuples(st.integers(70, 100), st.floats(0, 1)), max_size=12),
)
def test_with_teachers_the_kept_epoch_is_below_the_start_in_neither_score_nor_loss(
    start: tuple[int, float], epochs: list[tuple[int, float]]
) -> None:
    best = BestEpoch(network(-1), "accuracy", patience=0)
    best.update(network(-1), metrics(start[0]), START, start[1])
    for epoch, (correct, loss) in enumerate(epochs):
        # A resumed run decides the same.
        state, best = best.state(), BestEpoch(network(-1), "accuracy", patience=0)
        best.restore(state)
        best.update(network(epoch), metrics(correct), epoch, loss)
    correct, loss = start if best.epoch == START else epochs[best.epoch]
    highest = max([start[0], *(each for each, _ in epochs)])
    assert correct >= start[0]
    assert best.model.weight.item() == best.epoch
    if highest == start[0]:
        # The start stays in the race, so only a smaller loss replaces it.
        assert loss <= start[1]
        assert loss == min(loss for correct, loss in [start, *epochs] if correct == highest)


def test_of_epochs_that_are_as_good_the_one_nearest_to_the_teachers_is_kept() -> None:
    best = BestEpoch(network(-1), "accuracy", patience=3)
    best.update(network(-1), metrics(90), START, 0.5)
    for epoch, (correct, loss) in enumerate(((95, 0.4), (94, 0.2), (93, 0.3), (96, 0.25))):
        best.update(network(epoch), metrics(correct), epoch, loss)
    assert (best.epoch, best.stopped) == (1, False)
    # A new highest score rules out the epochs that are no longer within its standard error.
    best.update(network(4), metrics(100), 4, 0.9)
    assert best.epoch == 4
    for epoch in (5, 6, 7):
        best.update(network(epoch), metrics(100), epoch, 0.95)
    assert (best.epoch, best.stopped) == (4, True)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(70, 100), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_loss_alone_decides_where_it_is_the_metric(epochs: list[tuple[int, float]]) -> None:
    best = BestEpoch(network(-1), "loss", patience=0)
    for number, (correct, loss) in enumerate(epochs):
        # A resumed run decides the same.
        state, best = best.state(), BestEpoch(network(-1), "loss", patience=0)
        best.restore(state)
        best.update(network(number - 1), metrics(correct), number - 1, loss)
    assert best.model.weight.item() == best.epoch
    assert epochs[best.epoch + 1][1] == pytest.approx(min(loss for _, loss in epochs), abs=1e-12)


def test_with_the_loss_as_metric_a_run_stops_where_it_no_longer_falls() -> None:
    best = BestEpoch(network(-1), "loss", patience=2)
    best.update(network(-1), metrics(90), START, 0.5)
    for epoch, loss in enumerate((0.6, 0.4, 0.41, 0.45)):
        assert not best.stopped
        best.update(network(epoch), metrics(99 - epoch), epoch, loss)
    assert (best.epoch, best.stopped) == (1, True)
