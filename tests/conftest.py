from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

# Tests run side by side; each stays on one core unless it says otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, teachers and golden data beside the checkout; its absence skips the test."""
    if not SHARED.is_dir():
        pytest.skip("no shared data beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def built_in() -> Iterator[Callable[[str, str, str], str]]:
    """Add the factory of a piece of source to the built-in architectures of this process.

    Code that a checkpoint names runs only with `--arch`; checkpoints of built-in architectures need no such option.
    """
    from cfp_cli.models import registry

    original, added = registry._built_in, {}

    def add(name: str, source: str, factory: str) -> str:
        namespace: dict[str, Any] = {}
        exec(compile(source, name, "exec"), namespace)
        added[name] = namespace[factory]
        return name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_built_in", lambda: original() | added)
        yield add


@pytest.fixture(scope="session", autouse=True)
def one_core() -> Iterator[None]:
    """Let commands without `--threads` compute on one core; idle threads would spin on the core of another test."""
    from cfp_cli.execution import device

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "usable_cores", lambda: 1)
        yield


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Restore the handlers that `main` replaces: it ignores signals once a command has ended."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_run_in_the_checkout() -> Iterator[None]:
    """Fail where a test leaves the default run directory in the current folder; `make demo` would refuse to use it."""
    folder = Path.cwd() / "cfp-run"
    before = folder.exists()
    yield
    assert folder.exists() == before


@pytest.fixture
def count_lines() -> Callable[[Callable[[], object]], int]:
    """Count the lines of cfp_cli that a call runs: a measure of its work that does not depend on the machine."""

    def count(work: Callable[[], object]) -> int:
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if "cfp_cli" not in frame.f_code.co_filename:
                return None
            lines += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(before)
        return lines

    return count
