from __future__ import annotations

import pytest

from cfp_cli.pruning.allocation import Counts, Search, solve

WIDTH, HEAD, HIDDEN, BLOCKS = 768, 64, 3072, 12


def counts_at(scale: float) -> Counts:
    """An embedding in steps of whole heads, and hidden channels one by one, as in a vision transformer."""
    embedding = max(round(scale * WIDTH / HEAD), 1) * HEAD
    return {"embedding": embedding, **{f"hidden {block}": max(round(scale * HIDDEN), 1) for block in range(BLOCKS)}}


@pytest.mark.parametrize("ratio", [0.1, 0.35, 0.5, 0.66, 0.75, 0.9])
def test_sets_without_wide_steps_make_up_for_those_with_them(ratio: float) -> None:
    calls = 0

    def cost(counts: Counts) -> float:
        nonlocal calls
        calls += 1
        return sum(
            4 * counts["embedding"] ** 2 + 2 * counts["embedding"] * counts[f"hidden {b}"] for b in range(BLOCKS)
        )

    found = solve(counts_at, cost, ratio, Search(), {"embedding"})
    # A change of one set after the other would cost hundreds of candidates, each of them an integer program.
    assert calls < 130
    assert cost(found) / cost(counts_at(1.0)) == pytest.approx(1 - ratio, abs=0.005)
    assert len({found[f"hidden {block}"] for block in range(BLOCKS)}) == 1
