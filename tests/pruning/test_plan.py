from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfp_cli.foundation.errors import RunError
from cfp_cli.pruning.plan import Plan, SetPlan

PLAN = Plan(
    (SetPlan("a", 4, (0, 2), (1, 1, 2, 2)), SetPlan("b", 3, (0, 1, 2), frozen=("logits",))),
    100,
    60,
    1000,
    500,
    0.4,
    0.4,
)


def damaged(tmp_path: Path, field: str, value: object) -> Path:
    """A plan file in which one field of the first set, or of the plan, has another value."""
    data = PLAN.to_json()
    place = data["sets"][0] if field in data["sets"][0] else data
    place[field] = value
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    return path


def test_a_plan_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == PLAN


@pytest.mark.parametrize(
    "kept", [[0, 4], [-1, 2], [1, 1], [2, 0], [0.5], [[0]], [], "02", None, [None], [True], {"0": 1}], ids=str
)
def test_kept_indices_that_no_channel_has_are_refused(tmp_path: Path, kept: object) -> None:
    path = damaged(tmp_path, "kept", kept)
    with pytest.raises(RunError, match="kept") as error:
        Plan.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_set_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    data = PLAN.to_json()
    data["sets"][1]["name"] = "a"
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match="'a' is listed twice"):
        Plan.load(tmp_path / "plan.json")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.sampled_from(["name", "channels", "clusters", "frozen", "params_before", "achieved", "target", "options"]), PLAIN
)
def test_a_damaged_field_is_refused_or_still_a_plan(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    path = damaged(tmp_path_factory.mktemp("plan"), field, value)
    try:
        plan = Plan.load(path)
    except RunError as refusal:
        message = str(refusal)
    else:
        message = str(path)
        assert Plan.from_json(plan.to_json(), path) == plan
    assert str(path) in message


@pytest.mark.parametrize("field", ["params_before", "params_after"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_network_without_parameters_is_refused(tmp_path: Path, field: str, value: int) -> None:
    path = damaged(tmp_path, field, value)
    with pytest.raises(RunError, match=f"plan.json.*{field} is {value}, not a number of parameters"):
        Plan.load(path)


def test_a_plan_prints_its_figures_without_its_indices() -> None:
    line = str(PLAN)
    assert "2 channel sets: 100 to 60 parameters (1.7x fewer)" in line
    assert "40.00% of params removed" in line
    assert "kept" not in line
