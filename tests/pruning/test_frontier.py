"""The search over compressions: it ends, tries none twice, and its result passed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfp_cli.foundation.errors import TargetError, UsageError
from cfp_cli.pruning.frontier import (
    CLOSE,
    LEAST,
    Budget,
    below_first_failure,
    least_compression,
    next_compressions,
    remaining_looks,
)


def search(
    passes: Callable[[float], bool], least: float = LEAST, tried: dict[float, bool] | None = None, count: int = 1
) -> list[float]:
    """The compressions that are tried, in their order, `count` at the same time."""
    tried = {} if tried is None else tried
    order: list[float] = []
    while following := next_compressions(tried, count, least=least):
        assert len(following) <= count
        assert not set(following) & set(tried)
        assert min(following) >= least
        order += following
        tried |= {each: passes(each) for each in following}
        assert len(order) < 30 * count
    return order


def result(passes: Callable[[float], bool], order: list[float]) -> float | None:
    return max((each for each in order if passes(each)), default=None)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("border", [1.2, 2.0, 15.9, 16.0, 16.1, 40.0, 333.0, 9000.0])
def test_the_border_of_a_growing_loss_is_found(border: float, count: int) -> None:
    order = search(lambda compression: compression <= border, count=count)
    found = result(lambda compression: compression <= border, order)
    assert found is not None
    assert border / CLOSE * 0.99 <= found <= border
    assert len(order) <= 12 + 3 * count
    assert math.ceil(len(order) / count) <= (12 if count == 1 else 9), "several processes end sooner"


def test_random_losses_end_with_a_candidate_that_passed() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        outcomes: dict[float, bool] = {}
        chance = generator.random()

        def passes(compression: float, outcomes: dict[float, bool] = outcomes, chance: float = chance) -> bool:
            # Anything may pass up to the largest possible compression.
            return outcomes.setdefault(compression, compression < 500 and bool(generator.random() < chance))

        order = search(passes)
        assert len(set(order)) == len(order)
        found = result(passes, order)
        assert found is None or outcomes[found]
        if found is None:
            assert order[-1] == LEAST


@pytest.mark.parametrize("least", [LEAST, 3.0, 100.0])
def test_borders_at_both_ends(least: float) -> None:
    nothing = search(lambda _: False, least)
    assert nothing[-1] == least
    only_the_mildest = search(lambda compression: compression <= least, least)
    assert result(lambda compression: compression <= least, only_the_mildest) == least
    largest = search(lambda compression: compression <= 14_000, least)
    assert max(each for each in largest if each <= 14_000) >= 14_000 / CLOSE * 0.99


def test_an_interrupted_search_goes_on_where_it_was() -> None:
    def passes(compression: float) -> bool:
        return compression <= 77

    whole = search(passes)
    for done in range(len(whole) + 1):
        assert search(passes, tried={each: passes(each) for each in whole[:done]}) == whole[done:]


def test_the_number_of_remaining_looks() -> None:
    assert remaining_looks({8.0: True, 9.0: False}) == 0
    for border in (3.0, 50.0, 700.0):
        tried: dict[float, bool] = {}
        order = search(lambda compression, border=border: compression <= border)
        for number, each in enumerate(order):
            if any(tried.values()) and not all(tried.values()):
                assert abs(remaining_looks(tried) - (len(order) - number)) <= 1
                assert remaining_looks(tried, 3) % 3 == 0
            tried[each] = each <= border


@pytest.mark.parametrize(
    ("text", "cost", "most"),
    [
        ("params<=400k", "params", 400_000),
        ("macs <= 1.5M", "macs", 1_500_000),
        ("flops<=2G", "macs", 2 * 10**9),
        ("latency<=2ms", "latency", 2.0),
        ("latency <= 0.5 s", "latency", 500.0),
        ("latency<=800us", "latency", 0.8),
        ("bytes<=500k", "bytes", 500_000),
        ("bytes<=1.5MB", "bytes", 1_500_000),
        ("bytes<=900", "bytes", 900),
    ],
)
def test_budgets(text: str, cost: str, most: float) -> None:
    budget = Budget.parse(text)
    assert (budget.cost, budget.most) == (cost, pytest.approx(most))
    costs = {"params": 1, "macs": 1, "latency": 0.1, "bytes": 1}
    assert budget.fits({**costs, cost: budget.most})
    assert not budget.fits({**costs, cost: budget.most * 1.01 + 0.01})
    assert Budget.parse(str(budget).replace(",", "")) == budget


@pytest.mark.parametrize(
    "text",
    ["params", "params<400", "params<=", "params<=-3", "params<=0", "params<=3ms", "bytes<=1T", "latency<=2", "x<=3"],
)
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        Budget.parse(text)


@pytest.mark.parametrize("needed", [1.0, 1.06, 3.3, 250.0, 410.0])
def test_the_least_compression_that_fits(needed: float) -> None:
    def fits(compression: float) -> bool:
        return compression >= needed

    found = least_compression(fits, 1e6)
    assert needed <= found <= max(needed * 1.02, LEAST)
    with pytest.raises(TargetError, match="no network fits the budgets"):
        least_compression(lambda _: False, 1e6)
    assert math.isfinite(found)


@given(st.dictionaries(st.floats(1.05, 5000), st.booleans(), max_size=16))
def test_what_passes_above_a_failure_does_not_count(tried: dict[float, bool]) -> None:
    found = below_first_failure(tried)
    assert found == sorted(found)
    for compression in found:
        assert tried[compression]
        assert all(passes for other, passes in tried.items() if other <= compression)
    for compression, passes in tried.items():
        larger_failed = any(other < compression and not tried[other] for other in tried)
        assert (compression in found) == (passes and not larger_failed)
