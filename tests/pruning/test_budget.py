from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfp_cli.pruning.budget import kept_count, shares

SIZES = st.lists(st.integers(1, 200), min_size=1, max_size=6)


@given(SIZES, st.floats(0, 1))
def test_shares_add_up_and_stay_within_their_clusters(sizes: list[int], keep: float) -> None:
    count = kept_count(sum(sizes), keep)
    given_shares = shares(count, np.array(sizes))
    assert given_shares.sum() == count
    assert (given_shares <= sizes).all()
    assert (given_shares >= 0).all()
    if count >= len(sizes):
        assert (given_shares >= 1).all()


@given(SIZES.filter(lambda sizes: min(sizes) > 20), st.floats(0.3, 1))
def test_shares_are_within_one_of_proportional(sizes: list[int], keep: float) -> None:
    count = kept_count(sum(sizes), keep)
    exact = count * np.array(sizes) / sum(sizes)
    assert (np.abs(shares(count, np.array(sizes)) - exact) < 1 + 1e-9).all()


def test_the_largest_remainder_gets_the_rest() -> None:
    # 6 of 10: exact shares 4.2, 1.2, 0.6
    assert shares(6, np.array([7, 2, 1])).tolist() == [4, 1, 1]


def test_a_single_channel_cluster_survives() -> None:
    assert shares(10, np.array([191, 1])).tolist() == [9, 1]


def test_a_budget_below_the_clusters_goes_to_the_larger_ones() -> None:
    assert shares(2, np.array([1, 50, 3])).tolist() == [0, 1, 1]


@pytest.mark.parametrize("count", [0, 11])
def test_impossible_budgets_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="cannot keep"):
        shares(count, np.array([5, 5]))


@given(st.integers(1, 3000), st.floats(0, 1), st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16]))
def test_kept_counts_respect_their_bounds(size: int, keep: float, minimum: int, multiple: int) -> None:
    count = kept_count(size, keep, minimum, multiple)
    assert 1 <= count <= size
    if size >= multiple:
        assert count % multiple == 0 or count in (size, minimum)
        assert count >= min(minimum, size // multiple * multiple)


@pytest.mark.parametrize(
    ("size", "keep", "expected"),
    [(64, 0.05, 8), (64, 0.18, 8), (64, 0.2, 16), (6, 0.1, 6), (20, 0.95, 16), (20, 1.0, 20)],
)
def test_rounding_is_to_the_nearest_multiple(size: int, keep: float, expected: int) -> None:
    assert kept_count(size, keep, 1, 8) == expected
