from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from cfp_cli.execution import distributed, launch
from cfp_cli.foundation.errors import CheckpointError, TrainingError, UsageError
from cfp_cli.foundation.failures import exhausted, outside_cause


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (launch.launched(), launch.rank(), launch.world_size(), launch.local_rank()) == (False, 0, 1, 0)
    monkeypatch.setenv("RANK", "1")
    assert launch.rank() == 0


@pytest.mark.parametrize(
    ("rank", "size", "message"),
    [
        ("x", "2", "RANK is 'x', not an integer"),
        ("2", "2", "RANK is 2, not in 0 to 1"),
        ("-1", "2", "RANK is -1, not in 0 to 1"),
        ("0", "two", "WORLD_SIZE is 'two', not an integer"),
        ("0", "0", "WORLD_SIZE is 0, not a positive integer"),
        ("", "2", "RANK is '', not an integer"),
    ],
)
def test_a_malformed_environment_is_named(monkeypatch: pytest.MonkeyPatch, rank: str, size: str, message: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError, match=message + ".*; start several processes with torchrun"):
        launch.rank()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "out of memory"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (OSError(28, "No space left on device", "a.pt"), "cannot write a.pt: its disk is full; free space"),
        (UnicodeEncodeError("ascii", "ü", 0, 1, "no"), "set LC_ALL=C.UTF-8"),
        (FileNotFoundError(2, "No such file or directory", "a.pt"), "cannot use a.pt (No such file or directory)"),
    ],
)
def test_causes_outside_of_the_program_are_no_bugs(error: Exception, words: str) -> None:
    wrapped = RuntimeError("a library failed")
    wrapped.__cause__ = error
    assert words in (outside_cause(error) or "")
    if not isinstance(error, FileNotFoundError):
        assert words in (outside_cause(wrapped) or "")


def test_a_bug_stays_a_bug_and_a_dead_peer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert outside_cause(KeyError("x")) is None
    assert outside_cause(dead) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "another process of this run ended" in (outside_cause(dead) or "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        ImportError("libx.so: failed to map segment from shared object"),
    ],
)
def test_what_a_lack_of_memory_causes_is_not_blamed_on_a_file(error: Exception) -> None:
    wrapped = CheckpointError("model.pt is not readable")
    wrapped.__context__ = error
    assert "memory" in (exhausted(wrapped) or "")
    assert exhausted(CheckpointError("the file is named 'out of memory'")) is None


def test_processes_that_do_not_come_are_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "JOIN_LIMIT", timedelta(milliseconds=10))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        TrainingError, match=r"the other processes cannot be reached .*; start all of them with torchrun"
    ):
        distributed.join(torch.device("cpu"))


def test_a_package_that_fails_at_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "frail_package").mkdir()
    (tmp_path / "frail_package" / "__init__.py").write_text("import frail_package.inner\n")
    (tmp_path / "frail_package" / "inner.py").write_text("raise ValueError('invalid setting')\n")
    monkeypatch.syspath_prepend(tmp_path)
    # `is_installed` and `require_packages` have messages of their own; a plain import in this program has none.
    code = {"__name__": "cfp_cli.trial"}
    with pytest.raises(ValueError, match="invalid setting") as error:
        exec("import frail_package", code)
    message = outside_cause(error.value) or ""
    assert "the package frail_package cannot be imported (ValueError: invalid setting); install it again" in message
    with pytest.raises(ZeroDivisionError) as bug:
        exec("1 / 0", code)
    assert outside_cause(bug.value) is None
