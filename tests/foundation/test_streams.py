from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Prints to both streams, as a command does, and ends with the code of `main`.
PROGRAM = """
import sys
import click
from cfp_cli.commands import cli
import cfp_cli.main

@click.command()
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def speak(console, as_json):
    console.json = as_json
    console.say("working")
    print("a library speaks", file=sys.stderr)
    open("done", "w").close()
    console.result({"text": "ü" * 5}, "ü" * 5)

cli.cli.add_command(speak)
cfp_cli.main.main()
"""


def _speak(
    folder: Path, *arguments: str, setup: Callable[[], None], **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        preexec_fn=setup,
        check=False,
        timeout=100,
    )


def _full(number: int) -> Callable[[], None]:
    return lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), number) and None


def _no_reader(number: int) -> Callable[[], None]:
    def run() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)

    return run


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("arguments", [["speak"], ["speak", "--json"], ["--help"], ["completion", "bash"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout_is_one_line(tmp_path: Path, arguments: list[str], unbuffered: str) -> None:
    done = _speak(tmp_path, *arguments, setup=_full(1), PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "rror" in line]
    assert errors == ["error: cannot write stdout: its disk is full; free space there and run the command again"]
    assert done.stderr.endswith(errors[0] + "\n")


@pytest.mark.parametrize("arguments", [["speak"], ["speak", "--json"], ["--help"]])
def test_a_reader_of_stdout_may_go_away(tmp_path: Path, arguments: list[str]) -> None:
    done = _speak(tmp_path, *arguments, setup=_no_reader(1))
    assert done.returncode == 1
    assert "rror" not in done.stderr


@pytest.mark.parametrize("setup", [_no_reader(2), _full(2), lambda: os.close(2)], ids=["no reader", "full", "closed"])
def test_messages_that_cannot_be_printed_stop_no_work(tmp_path: Path, setup: Callable[[], None]) -> None:
    done = _speak(tmp_path, "speak", "--json", setup=setup)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"text": "ü" * 5}
    assert (tmp_path / "done").exists()


def test_a_closed_stdout_is_one_line(tmp_path: Path) -> None:
    done = _speak(tmp_path, "speak", setup=lambda: os.close(1))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the result cannot be printed, as stdout is closed")


def test_characters_that_the_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    done = _speak(tmp_path, "speak", setup=lambda: None, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "\\xfc" * 5 + "\n")
