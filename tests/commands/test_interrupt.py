"""Ctrl-C and SIGTERM leave with 130 and one line, whenever they come and however often."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A shell that runs tests in the background makes its children ignore SIGINT. "ready" is printed once the handlers are
# installed, before anything else is imported.
SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from cfp_cli import main
run = main._run
main._run = lambda: (print("ready", flush=True), run())[1]
main.main()
"""


def interrupted(arguments: list[str], delay: float, signals: list[signal.Signals], cwd: Path) -> tuple[int, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.01)
    error = process.communicate(timeout=60)[1]
    return process.returncode, error


def test_the_first_second(own_model: Path, own_arch: str, images: Path, tmp_path: Path) -> None:
    arguments = ["score", str(own_model), str(images), "--arch", own_arch, "-q"]
    codes = []
    for delay in (0, 0.1, 0.3, 0.6, 1.0):
        code, error = interrupted(arguments, delay, [signal.SIGINT], tmp_path)
        codes.append(code)
        if code == 130:
            assert error == "error: interrupted; files written so far are kept\n"
        else:
            # The command was faster.
            assert (code, error) == (0, "")
    assert codes[0] == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_repeated_signals(own_arch: str, images: Path, tmp_path: Path, number: signal.Signals) -> None:
    options = ["--input-size", "32", "--epochs", "500", "--out", "t.pt", "-q"]
    arguments = ["train", str(images), "--arch", own_arch, *options]
    code, error = interrupted(arguments, 3.5, [number] * 5, tmp_path)
    assert code == 130
    assert error == "error: interrupted; files written so far are kept; continue with --resume\n"
