"""Which candidates `cfp shrink` tries and chooses, with losses and times that are made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cfp_cli.measuring.compared import Loss
from cfp_cli.measuring.loss_rule import LOOKS, Judged
from cfp_cli.runs.shrink_search import Search
from cfp_cli.runs.time_limit import OutOfTimeError

REFIT, TRAINING = 20.0, 300.0
Losses = Callable[[float, bool], float]


class MadeUp:
    """Candidates whose loss is a function of the compression; each takes time."""

    def __init__(self, limit: float, stored: Sequence[Any] = ()) -> None:
        self.limit, self.clock, self.stored = limit, 0.0, stored
        self.seen: list[Any] = []
        self.seconds: dict[bool, list[float]] = {False: [], True: []}

    def refitted(self, compressions: Sequence[float]) -> dict[float, Any]:
        return {each: self._one(each, False) for each in compressions}

    def finetuned(self, students: Mapping[float, Any]) -> dict[float, Any]:
        return {each: self._one(each, True) for each in students}

    def free(self, compression: float, trained: bool) -> Any:
        alike = (each for each in [*self.seen, *self.stored] if each.compression == compression)
        return next((each for each in alike if each.trained == trained), None)

    def _one(self, compression: float, trained: bool) -> Any:
        known = self.free(compression, trained)
        if known is not None:
            if known not in self.seen:
                self.seen.append(known)
            return known
        needed = TRAINING if trained else REFIT
        if trained and self.clock + needed > self.limit:
            self.clock += TRAINING / 40
            raise OutOfTimeError(self.clock + needed - self.limit)
        self.clock += needed
        made = SimpleNamespace(
            compression=compression, trained=trained, params=1e7 / compression, macs=1e9 / compression
        )
        self.seen.append(made)
        self.seconds[trained].append(needed)
        return made


class MadeUpSearch(Search):
    """A search over such candidates, with a standard error of 0."""

    def __init__(
        self,
        losses: Losses,
        *,
        limit: float = math.inf,
        processes: int = 1,
        finetune: bool = True,
        stored: Sequence[Any] = (),
    ) -> None:
        self.said: list[str] = []
        self.losses = losses
        self.measured: Any = MadeUp(limit, stored)
        self.seen = self.measured.seen
        self.original: Any = SimpleNamespace(images=1000)
        self.progress: Any = SimpleNamespace(say=self.said.append)
        rule = SimpleNamespace(max_loss=0.5, metric="accuracy")
        training = SimpleNamespace(epochs=40)
        self.options: Any = SimpleNamespace(rule=rule, finetune=finetune, target="params", training=training)
        self.maker: Any = SimpleNamespace(
            pool=SimpleNamespace(size=processes),
            limit=SimpleNamespace(allows=lambda needed: limit - self.measured.clock >= needed),
            costs=SimpleNamespace(measured=()),
            finetune_record=lambda candidate: None,
        )

    def judge(self, candidate: Any) -> Judged:
        loss = self.losses(candidate.compression, candidate.trained)
        return Judged(Loss(loss, 0.0), loss <= 0.5)

    def result(self) -> Any:
        self.walk(1.05)
        if self.options.finetune:
            self.train(1.05)
        return self.choose()


def growing(refitted: float, trained: float, power: float) -> Losses:
    """Losses that reach what is allowed at these compressions."""
    return lambda compression, fine: 0.5 * (compression / (trained if fine else refitted)) ** power


borders = st.floats(1.3, 300.0)


@given(borders, st.floats(1.0, 4.0), st.floats(0.5, 2.5))
def test_the_border_of_the_fine_tuned_networks_is_found(border: float, gain: float, power: float) -> None:
    search = MadeUpSearch(growing(border, gain * border, power))
    chosen = search.result()
    assert search.judge(chosen).passes
    assert len(search.seen) <= LOOKS
    # Looks end searches whose refits lose little far above the border.
    if search.complete:
        assert gain * border / 1.3 / 1.01 <= chosen.compression <= 1.01 * gain * border


@given(borders, st.floats(0.5, 2.5), st.sampled_from([1, 2, 4]))
def test_without_fine_tuning_the_border_is_closer(border: float, power: float, processes: int) -> None:
    search = MadeUpSearch(growing(border, border, power), processes=processes, finetune=False)
    chosen = search.result()
    assert border / 1.15 / 1.01 <= chosen.compression <= 1.01 * border
    assert not chosen.trained


@given(borders, st.floats(1.0, 4.0), st.floats(0.5, 2.5), st.floats(0.0, 700.0))
def test_a_time_limit_does_not_lose_the_border_of_the_refitted_networks(
    border: float, gain: float, power: float, rest: float
) -> None:
    """Whether it stops a fine-tuning, lets none begin, or ends after one that failed."""
    search = MadeUpSearch(growing(border, gain * border, power), limit=16 * REFIT + rest)
    chosen = search.result()
    assert search.judge(chosen).passes
    assume(len(search.seen) < LOOKS - 1 and not any(each.trained for each in search.seen))
    assert chosen.compression >= border / 1.15 / 1.01


@given(borders, st.floats(1.0, 4.0), st.floats(0.5, 2.5), st.sampled_from([1, 2, 4]), st.floats(0.0, 3000.0))
def test_a_repeated_search_without_time_loses_no_result(
    border: float, gain: float, power: float, processes: int, limit: float
) -> None:
    losses = growing(border, gain * border, power)
    first = MadeUpSearch(losses, limit=limit, processes=processes)
    chosen = first.result()
    again = MadeUpSearch(losses, limit=-1.0, processes=processes, stored=first.seen)
    assert again.result().compression >= chosen.compression / 1.01
    assert again.measured.clock == 0


def test_the_search_before_fine_tuning_measures_few_networks() -> None:
    search = MadeUpSearch(growing(40.0, 100.0, 1.0))
    search.walk(1.05)
    assert search.complete
    assert len(search.seen) <= 5


def test_a_lucky_refit_is_fine_tuned_too() -> None:
    """A candidate that passes above one that failed does not count, so it is not the end of the search."""
    luck = {16.0: 0.7, 32.0: 0.4}
    search = MadeUpSearch(lambda compression, fine: 0.45 if fine and compression < 40 else luck.get(compression, 3.0))
    chosen = search.result()
    assert (chosen.trained, chosen.compression) == (True, 32.0)


def test_the_least_loss_with_its_standard_error_is_chosen_if_none_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {16.0: 0.1, 4.1: 3.0}
    search = MadeUpSearch(lambda compression, fine: 0.9 if compression > 5 else 0.8)
    judged = MadeUpSearch.judge
    monkeypatch.setattr(
        MadeUpSearch,
        "judge",
        lambda self, each: Judged(Loss(judged(self, each).loss.points, errors.get(each.compression, 2.0)), False),
    )
    assert search.result().compression == 16.0


def test_each_network_is_reported_once_and_no_fine_tuning_is_promised_after_one() -> None:
    search = MadeUpSearch(growing(30.0, 40.0, 1.0), limit=16 * REFIT)
    search.result()
    assert not search.complete
    lines = [line for line in search.said if "fewer parameters, refitted" in line]
    assert len(lines) == len({line.partition(",")[0] for line in lines}) == len(search.seen)
    stopped = next(number for number, line in enumerate(search.said) if "is stopped" in line)
    assert not any("then fine-tuning" in line for line in search.said[stopped:])
