"""A library that registers a small signal stack must not end the process at the next signal."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are restored on Linux")

BEGIN = """
import ctypes, os, signal
from cfp_cli.execution.signal_stack import _Stack, keep_signal_stack

received = []
signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
library = ctypes.CDLL(None)

def registered():
    stack = _Stack()
    library.sigaltstack(None, ctypes.byref(stack))
    return stack.sp, stack.flags, stack.size

def register_unusable():
    # The kernel cannot write a frame to memory without permissions; it then sends SIGSEGV.
    library.mmap.restype = ctypes.c_void_p
    memory = library.mmap(None, 1 << 16, 0, 0x22, -1, 0)
    assert library.sigaltstack(ctypes.byref(_Stack(memory, 0, 1 << 16)), None) == 0
"""


def run(source: str, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *options, "-c", BEGIN + source]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("options", [(), ("-X", "faulthandler")])
def test_the_stack_of_before_is_registered_again(options: tuple[str, ...]) -> None:
    source = """
before = registered()
with keep_signal_stack():
    register_unusable()
    assert registered() != before
assert registered()[1:] == before[1:]
os.kill(os.getpid(), signal.SIGINT)
assert received == [signal.SIGINT]
"""
    done = run(source, *options)
    assert done.returncode == 0, done.stderr


def test_it_is_restored_after_an_error() -> None:
    source = """
try:
    with keep_signal_stack():
        register_unusable()
        raise ValueError
except ValueError:
    pass
os.kill(os.getpid(), signal.SIGINT)
assert received == [signal.SIGINT]
"""
    done = run(source)
    assert done.returncode == 0, done.stderr


def test_without_it_a_signal_ends_the_process() -> None:
    assert run("register_unusable()\nos.kill(os.getpid(), signal.SIGINT)").returncode < 0
