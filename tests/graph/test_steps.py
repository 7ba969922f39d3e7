"""Constraints that leave one number open are solved by trying each value, with the result of the integer program."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from cfp_cli.graph.constraints import Balance, Floor, Link, links_between
from cfp_cli.graph.solve import _by_cells, _in_steps


def _units(index: int, units: range) -> np.ndarray:
    return np.array([(index, unit) for unit in units])


def _link(sizes: list[int], balances: list[Balance], floors: list[Floor] | None = None) -> Link:
    (link,) = links_between(sizes, balances, floors or [])
    return link


def _heads() -> Link:
    """An embedding of 24 channels and two attentions with 6 and 4 heads, of 4 and 6 channels each."""
    embedding = _units(0, range(24))
    six, four = np.repeat(_units(1, range(6)), 4, axis=0), np.repeat(_units(2, range(4)), 6, axis=0)
    return _link([24, 6, 4], [Balance((embedding, six)), Balance((embedding, four))])


def _parts() -> Link:
    """Three equal parts of one layer, of which each must keep a channel."""
    parts = [_units(0, range(start, start + 5)) for start in (0, 5, 10)]
    return _link([15], [Balance(tuple(parts))], [Floor("part", part) for part in parts])


def _shuffled() -> Link:
    return _link([8], [Balance((_units(0, range(4)), _units(0, range(4, 8))), slack=1)])


def _crossing() -> Link:
    """Two constraints on four cells, which leave two numbers open."""
    pairs = [[0, 1], [2, 3]]
    return _link(
        [8, 8, 8, 8],
        [Balance(tuple(_units(index, range(8)) for index in pair)) for pair in pairs]
        + [Balance((np.concatenate([_units(0, range(8)), _units(2, range(8))]),) * 2)],
    )


@pytest.mark.parametrize(("link", "step"), [(_heads(), [12, 3, 2]), (_parts(), [1, 1, 1])])
def test_the_smallest_step_keeps_all_constraints(link: Link, step: list[int]) -> None:
    assert link.step is not None
    assert link.step.tolist() == step


@pytest.mark.parametrize("link", [_shuffled(), _crossing()])
def test_more_than_one_open_number_has_no_step(link: Link) -> None:
    assert link.step is None


@pytest.mark.parametrize("link", [_heads(), _parts()])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_step_is_the_optimum_of_the_integer_program(link: Link, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = [int(rng.integers(1, size + 1)) for size in link.sizes]
    values = [rng.random(size) for size in link.sizes]
    fixed = [False] * len(counts)
    expected = _by_cells(link, counts, values, fixed, ["a", "b", "c"][: len(counts)])
    found = _in_steps(link, counts, values, fixed)
    assert found is not None
    assert found.tolist() == expected.tolist()


def test_a_set_that_keeps_all_its_units_keeps_those_of_the_others() -> None:
    found = _in_steps(_heads(), [2, 6, 1], [np.ones(size) for size in (24, 6, 4)], [False, True, False])
    assert found is not None
    assert found.tolist() == [24, 6, 4]


def test_steps_need_no_integer_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "milp", None)
    assert _in_steps(_parts(), [6], [np.linspace(0, 1, 15)], [False]) is not None
