from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfp_cli.foundation.errors import TargetError
from cfp_cli.pruning.allocation import RULES, Limits, at_scale, live_first, redundancy, solve
from cfp_cli.scoring.effective_channels import effective_channels
from cfp_cli.scoring.scores import SetScores


def scores(name: str, channels: int, independent: int, seed: int = 0) -> SetScores:
    """A set of which `independent` channels vary by themselves and the others copy them."""
    generator = np.random.default_rng(seed)
    norms = generator.random((200, independent))[:, np.arange(channels) % independent]
    return SetScores(
        name,
        generator.random(channels) + 0.1,
        np.zeros(channels * (channels - 1) // 2, np.float32),
        norms.mean(0),
        effective_channels(norms),
    )


SETS = {s.name: s for s in (scores("a", 40, 20), scores("b", 60, 6), scores("c", 100, 50))}
WEIGHTS = {"a": 10.0, "b": 7.0, "c": 3.0}


def cost(counts: dict[str, int]) -> float:
    return sum(WEIGHTS[name] * count for name, count in counts.items()) + 50


def test_effective_channels_counts_what_varies_independently() -> None:
    assert effective_channels(np.ones((10, 5))) == 1
    assert SETS["b"].effective == pytest.approx(6, rel=0.05)
    assert SETS["a"].effective == pytest.approx(20, rel=0.1)
    assert redundancy(SETS["b"]) > redundancy(SETS["a"])


@pytest.mark.parametrize("allocation", RULES)
@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_counts_grow_with_the_scale_from_the_floor_to_all(allocation: str, low: float, high: float) -> None:
    counts_at = at_scale(allocation, SETS, Limits(minimum=2))
    assert counts_at(1.0) == {"a": 40, "b": 60, "c": 100}
    assert min(counts_at(0.0).values()) >= 2
    low, high = sorted((low, high))
    assert all(counts_at(low)[name] <= counts_at(high)[name] for name in SETS)


@pytest.mark.parametrize("allocation", RULES)
@given(scale=st.floats(0, 1), multiple=st.sampled_from([1, 8]), full=st.booleans())
def test_no_set_drops_a_live_channel_while_another_keeps_a_dead_one(
    allocation: str, scale: float, multiple: int, full: bool
) -> None:
    some_dead = {
        name: replace(each, dead=tuple(range(n))) for (name, each), n in zip(SETS.items(), (30, 0, 9), strict=True)
    }
    limits = Limits(multiple=multiple, full=frozenset("b" if full else ""))
    counts_at = live_first(at_scale(allocation, some_dead, limits), some_dead, limits)
    counts = counts_at(scale)
    missing = [name for name, each in some_dead.items() if counts[name] < each.channels - len(each.dead)]
    # Rounding to a multiple may add less than one multiple of dead channels.
    extra = [name for name, each in some_dead.items() if counts[name] - each.channels + len(each.dead) >= multiple]
    assert not (missing and [name for name in extra if name not in limits.full])
    assert counts_at(1.0) == {"a": 40, "b": 60, "c": 100}
    rule = at_scale(allocation, SETS, limits)
    assert live_first(rule, SETS, limits) is rule


def test_uniform_keeps_one_fraction() -> None:
    assert at_scale("uniform", SETS, Limits())(0.25) == {"a": 10, "b": 15, "c": 25}


def test_redundancy_takes_more_from_copies() -> None:
    counts = at_scale("redundancy", SETS, Limits())(0.2)
    assert counts["b"] / 60 < counts["a"] / 40
    assert counts["b"] / 60 < counts["c"] / 100


@pytest.mark.parametrize("allocation", RULES)
@given(ratio=st.floats(0.05, 0.9))
def test_a_target_is_met_within_half_a_point(allocation: str, ratio: float) -> None:
    counts = solve(at_scale(allocation, SETS, Limits()), cost, ratio)
    whole = cost({name: s.channels for name, s in SETS.items()})
    assert abs(1 - cost(counts) / whole - ratio) <= 0.005


@pytest.mark.parametrize("allocation", RULES)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_few_different_candidates_are_tried(allocation: str, ratio: float) -> None:
    wide = {name: scores(name, 2000, independent) for name, independent in (("a", 100), ("b", 20), ("c", 60))}
    tried: list[tuple[int, ...]] = []

    def layers(counts: dict[str, int]) -> float:
        tried.append(tuple(counts.values()))
        a, b, c = counts.values()
        return float(a * b + b * c)

    found = solve(at_scale(allocation, wide, Limits()), layers, ratio)
    assert len(set(tried)) == len(tried) <= 20
    whole = layers(dict.fromkeys("abc", 2000))
    remaining = layers(found) / whole
    assert abs(remaining - (1 - ratio)) <= min(0.0005, 0.005 * (1 - ratio))


def test_a_small_network_is_met_by_moving_single_sets() -> None:
    small = {"a": scores("a", 12, 3), "b": scores("b", 16, 4), "c": scores("c", 24, 5)}

    def layers(counts: dict[str, int]) -> float:
        a, b, c = counts["a"], counts["b"], counts["c"]
        return 27 * a + 9 * a * b + 9 * b * c + 6 * c

    for ratio in np.linspace(0.2, 0.9, 15):
        counts = solve(at_scale("uniform", small, Limits()), layers, ratio)
        assert abs(1 - layers(counts) / layers({"a": 12, "b": 16, "c": 24}) - ratio) <= 0.005


def test_a_target_beyond_the_floors_says_what_can_be_reached() -> None:
    limits = Limits(minimum=10, full=frozenset({"c"}))
    with pytest.raises(TargetError, match=r"cannot remove 90.00%: at most 5\d\.\d\d% can be removed"):
        solve(at_scale("uniform", SETS, limits), cost, 0.9)


def test_whole_sets_stay_whole() -> None:
    limits = Limits(full=frozenset({"b"}))
    for allocation in RULES:
        assert at_scale(allocation, SETS, limits)(0.1)["b"] == 60


@given(independent=st.lists(st.floats(1, 20), min_size=2, max_size=4))
def test_the_whole_scale_keeps_all_also_in_multiples(independent: list[float]) -> None:
    condensed = np.zeros(190, np.float32)
    sets = {str(i): SetScores(str(i), np.ones(20), condensed, np.ones(20), e) for i, e in enumerate(independent)}
    counts_at = at_scale("redundancy", sets, Limits(multiple=8))
    assert set(counts_at(1.0).values()) == {20}
    assert solve(counts_at, lambda counts: float(sum(counts.values())), 0.0) == counts_at(1.0)
