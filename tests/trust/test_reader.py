"""The fast part of the fuzz target for readers of files, and the bound on their work."""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reader
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_network import small_architectures

from cfp_cli.checkpoints import pickle_data
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.pickle_data import Name, Opaque, read_pickle
from cfp_cli.checkpoints.plain_tree import require_plain_tree
from cfp_cli.checkpoints.read import read_contents
from cfp_cli.foundation.errors import CfpError, CheckpointError, TrainingError
from cfp_cli.training.state import read_state

KEYS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5)
PLAIN = st.recursive(
    KEYS | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS | st.tuples(KEYS, KEYS), inner, max_size=4)
        | st.frozensets(KEYS, max_size=3)
    ),
    max_leaves=20,
)
LITERAL = st.sampled_from(
    (
        *(b"N", b"\x88", b"]", b"}", b")", b"(", b"0", b"1", b"2", b"\x94", b"q\x00", b"h\x00", b"K\x01", b"\x8f"),
        *(b"a", b"e", b"s", b"u", b"\x90", b"\x91", b"t", b"\x85", b"\x86", b"\x87", b"l", b"d", b"R", b"b", b"\x81"),
        *(b"o", b"\x92", b"\x93", b"Q", b"\x8c\x01a", b"cos\nsystem\n", b"cbuiltins\nset\n", b"ios\nsystem\n"),
        *(
            b"ccollections\nOrderedDict\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"\x8b\1\0\0\0\1",
        ),
    )
)


def read(program: bytes) -> Any:
    return read_pickle(io.BytesIO(program), lambda _: None)


def test_damaged_and_forged_files_give_one_line_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast part of `make fuzz`."""
    monkeypatch.chdir(tmp_path)
    with small_architectures():
        done = reader.fuzz(200, seed=0)
    assert done.broken == []
    assert done.counts["refused"] > 120
    assert done.counts["accepted"] > 9


@settings(deadline=None, max_examples=100, derandomize=True)
@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@settings(deadline=None, max_examples=400, derandomize=True)
@given(st.lists(LITERAL, max_size=40))
def test_any_program_ends_in_data_or_an_error(program: list[bytes]) -> None:
    # Names and calls are kept as data. What a program may raise is what `read_pickle` says.
    try:
        value = read(b"".join(program) + b".")
    except (ValueError, IndexError, KeyError, TypeError):
        return
    assert isinstance(value, str | int | list | dict | tuple | set | frozenset | Name | Opaque | None)


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that small programs use up, so that the tests count few lines."""
    monkeypatch.setattr(pickle_data, "_FREE_PARTS", 10_000)
    monkeypatch.setattr(pickle_data, "_PARTS_PER_INSTRUCTION", 1)


@pytest.mark.parametrize("program", reader.HOSTILE, ids=range(len(reader.HOSTILE)))
@pytest.mark.usefixtures("small_budget")
def test_the_work_is_bounded(count_lines: Callable[[Callable[[], object]], int], program: bytes) -> None:
    def work() -> None:
        with contextlib.suppress(ValueError, IndexError):
            require_plain_tree(read(program + b"."))

    # About 20 lines for an instruction, and 5 for a part of a key or an argument.
    assert count_lines(work) < 30 * len(program) + 10 * 10_000


@pytest.mark.usefixtures("small_budget")
def test_twice_the_program_is_at_most_twice_the_work(count_lines: Callable[[Callable[[], object]], int]) -> None:
    """The work of hashing keys cannot grow with the square of the size."""

    def lines(count: int) -> int:
        program = b"(" + b"N" * count + b"tq\x01" + b"}h\x01Ns0" * count + b"N."

        def work() -> None:
            with pytest.raises(ValueError, match="a key has too many parts"):
                read(program)

        return count_lines(work)

    assert lines(1600) < 2.2 * lines(800)


def nested(levels: int, twice: bool) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value] if twice else [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (nested(60, twice=True), "contain the same parts again and again"),
        (nested(300, twice=False), "are nested in more than 200 levels"),
    ],
)
@pytest.mark.parametrize("name", ["arch", "classes", "plan", "lineage", "format", "other"])
def test_data_that_take_exponential_time_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    path = tmp_path / "m.pt"
    torch.save({"state_dict": {"a": torch.zeros(2)}, name: value}, path)
    with pytest.raises(CheckpointError, match=message):
        read_contents(path, unsafe_pickle=False)
    torch.save({"format": "cfp-train/1", "identity": {name: value}, "content_sha256": ""}, path)
    with pytest.raises(TrainingError, match="is not a training state"):
        read_state(path, {})


def test_shared_and_circular_parts_of_ordinary_files_are_accepted() -> None:
    shared: list[Any] = list(range(1000))
    circle: list[Any] = []
    circle.append(circle)
    owner = Opaque("trainer")
    owner.state = {"model": owner, "settings": [shared] * 9, "circle": circle}
    require_plain_tree({"a": owner, "b": owner})


def test_a_file_that_unpacks_to_much_more_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"a": torch.zeros(2**21)}, path)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("more", bytes(2**27))
    with pytest.raises(CheckpointError, match="unpacks to much more data than it holds"):
        read_contents(packed, unsafe_pickle=False)


def test_a_huge_integer_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"format": "cfp/1", "arch": 10**5000, "state_dict": {"a": torch.zeros(2)}}, path)
    with pytest.raises(CfpError, match="arch") as caught:
        load(path)
    assert "\n" not in str(caught.value)
