"""On a terminal, a command says at once what it does; nothing empty is shown before an error."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import time
from pathlib import Path

import pytest

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*arguments: object, term: str = "xterm") -> tuple[str, list[tuple[float, str]], int]:
    """Run cfp with a terminal; return all output, the seconds and text of each piece, and the exit code."""
    began = time.perf_counter()
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM=term, COLUMNS="120")
        os.execv(sys.executable, [sys.executable, "-m", "cfp_cli", *map(str, arguments)])
    pieces = []
    while True:
        ready, _, _ = select.select([terminal], [], [], 100)
        assert ready, "no output for 100 seconds"
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        pieces.append((time.perf_counter() - began, data.decode(errors="replace")))
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return "".join(text for _, text in pieces), pieces, os.waitstatus_to_exitcode(status)


def test_the_first_line_comes_before_torch_and_is_removed(tmp_path: Path) -> None:
    output, pieces, code = on_terminal("score", tmp_path / "missing.pt", tmp_path, "--run", tmp_path / "run")
    assert code == 1
    assert pieces[0][1].startswith("loading PyTorch ...")
    # PyTorch takes more than half of the time of this command.
    assert pieces[0][0] < pieces[-1][0] / 2
    after = output.split("\r\x1b[2K", 1)[1]
    assert ESCAPES.sub("", after).strip().splitlines()[0].startswith("error: no file")


@pytest.mark.parametrize("quiet", [("-q",), ()])
def test_no_status_without_a_terminal_that_can_remove_it(tmp_path: Path, quiet: tuple[str, ...]) -> None:
    term = "xterm" if quiet else "dumb"
    output, _, code = on_terminal("eval", tmp_path / "missing.pt", tmp_path, *quiet, term=term)
    assert code == 1
    assert "loading" not in output


def test_an_error_before_the_first_epoch_follows_no_empty_table(tmp_path: Path) -> None:
    output, _, code = on_terminal("train", tmp_path / "missing", "--arch", "dddn", "--out", tmp_path / "t.pt")
    assert code == 1
    text = ESCAPES.sub("", output)
    assert "under way" not in text
    assert "epoch" not in text.replace("error", "")
    assert len([line for line in text.replace("\r", "\n").splitlines() if line.strip()]) == 2, text
