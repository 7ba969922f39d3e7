"""The names of the criteria are those of the core."""

from __future__ import annotations

import pytest

import cfp_core
from cfp_cli.scoring.criteria import DEFAULT_RICHNESS, DEFAULT_SIMILARITY, RICHNESSES, SIMILARITIES


def names_in_the_core(position: int) -> set[str]:
    """The choices that the core names in its error message."""
    arguments = ["norm", "rank"]
    arguments[position] = "none"
    with pytest.raises(ValueError, match="unknown") as error:
        cfp_core.TapAccumulator(1, *arguments)
    return set(str(error.value).partition("; use ")[2].split(", "))


def test_criteria_are_those_of_the_core() -> None:
    assert set(SIMILARITIES) == names_in_the_core(0)
    # Explained variance is a score of a set, which has its own accumulator.
    assert set(RICHNESSES) == names_in_the_core(1) | {"explained-variance"}
    assert DEFAULT_SIMILARITY in SIMILARITIES
    assert DEFAULT_RICHNESS in RICHNESSES
