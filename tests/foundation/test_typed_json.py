from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.typed_json import FieldError, read, to_json


@dataclass(frozen=True)
class Inner:
    number: float
    flag: bool = False

    def __post_init__(self) -> None:
        if self.number < 0:
            raise FieldError(f"number is {self.number}, below 0")


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    kind: Literal["a", "b"]
    path: Path
    inner: Inner | None
    many: tuple[Inner, ...]
    pair: tuple[int, str]
    by_name: Mapping[str, float]
    anything: Any = None


inners = st.builds(Inner, st.floats(0, allow_infinity=False), st.booleans())
outers = st.builds(
    Outer,
    st.text(),
    st.integers(),
    st.sampled_from(["a", "b"]),
    st.text("abc/.", min_size=1).map(Path),
    st.none() | inners,
    st.lists(inners).map(tuple),
    st.tuples(st.integers(), st.text()),
    st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    ),
)


def load(data: object) -> Outer:
    return read(Outer, data, Path("f.json"), "", RunError, "write it again")


@given(outers)
def test_what_is_written_is_read_back(value: Outer) -> None:
    assert load(json.loads(json.dumps(to_json(value)))) == value


GOOD = to_json(Outer("n", 1, "a", Path("p"), Inner(1.5), (Inner(2.0),), (1, "x"), {"k": 1.0}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "f.json: name is 1, not text; write it again"),
        ({"count": 1.0}, "count is 1.0, not an integer"),
        ({"count": True}, "count is true, not an integer"),
        ({"kind": []}, "kind is [], not one of a, b"),
        ({"path": ""}, "path is '', not a path"),
        ({"path": "\0"}, "not a path"),
        ({"inner": 3}, "inner is 3, not an object"),
        ({"inner": {}}, "inner.number is missing"),
        ({"inner": {"number": -1}}, "inner.number is -1.0, below 0"),
        ({"inner": {"number": float("nan")}}, "inner.number is nan, not a finite number"),
        ({"inner": {"number": 10**400}}, "inner.number is too large"),
        ({"many": {}}, "many is {}, not a list"),
        ({"many": [{"number": 1, "flag": 0}]}, "many[0].flag is 0, not true or false"),
        ({"pair": [1]}, "pair has 1 values, not 2"),
        ({"pair": ["x", "y"]}, "pair[0] is 'x', not an integer"),
        ({"by_name": []}, "by_name is [], not an object"),
        ({"by_name": {"k": None}}, "by_name.k is null, not a number"),
        ({"anything": [{"x": float("inf")}]}, "anything[0].x is inf, not a finite number"),
        ({"more": 1}, "unknown field more; this version of cfp does not have it"),
        ({"name": ["x" * 100]}, "name is ['xxxxx"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError) as caught:
        load({**GOOD, **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("content", [None, 3, "x", []])
def test_content_that_is_no_object(content: object) -> None:
    with pytest.raises(RunError, match=r"f\.json: the content is .*, not an object; write it again"):
        load(content)
