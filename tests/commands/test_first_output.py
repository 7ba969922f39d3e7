"""On a terminal, a command says at once what it does; nothing empty is shown before an error."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
from pathlib import Path

import pytest

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*arguments: object, term: str = "xterm", modules: Path | None = None) -> tuple[str, int]:
    """Run cfp with a terminal, with the modules of a folder before all others; return its output and exit code."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM=term, COLUMNS="120")
        if modules:
            os.environ["PYTHONPATH"] = str(modules)
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
        pieces.append(data)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return b"".join(pieces).decode(errors="replace"), os.waitstatus_to_exitcode(status)


def test_the_first_line_comes_before_torch_and_is_removed(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("print('the import of torch begins', flush=True)\nraise SystemExit(7)\n")
    arguments = ("score", tmp_path / "missing.pt", tmp_path, "--run", tmp_path / "run")
    output, code = on_terminal(*arguments, modules=tmp_path)
    assert code == 7
    assert output.startswith("loading PyTorch ...")
    assert "the import of torch begins" in output
    output, code = on_terminal(*arguments)
    assert code == 1
    after = output.split("\r\x1b[2K", 1)[1]
    assert ESCAPES.sub("", after).strip().splitlines()[0].startswith("error: no file")


@pytest.mark.parametrize("quiet", [("-q",), ()])
def test_no_status_without_a_terminal_that_can_remove_it(tmp_path: Path, quiet: tuple[str, ...]) -> None:
    term = "xterm" if quiet else "dumb"
    output, code = on_terminal("eval", tmp_path / "missing.pt", tmp_path, *quiet, term=term)
    assert code == 1
    assert "loading" not in output


def test_an_error_before_the_first_epoch_follows_no_empty_table(tmp_path: Path) -> None:
    output, code = on_terminal("train", tmp_path / "missing", "--arch", "dddn", "--out", tmp_path / "t.pt")
    assert code == 1
    text = ESCAPES.sub("", output)
    assert "under way" not in text
    assert "epoch" not in text.replace("error", "")
    assert len([line for line in text.replace("\r", "\n").splitlines() if line.strip()]) == 2, text
