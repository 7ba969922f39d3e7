from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.files import path_hint, require_writable, sha256, write_atomic, write_bytes, write_json


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_bytes(path, b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_bytes(path, b"old")
    code = (
        "import sys, time, pathlib\nfrom cfp_cli.foundation.files import write_atomic\n"
        "def slow(file):\n    file.write(b'half'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
        f"write_atomic(pathlib.Path({str(path)!r}), slow)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.read_bytes() == b"old"


def test_written_files_are_as_readable_as_others(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "f.json", {"x": 1})
    (tmp_path / "other").touch()
    assert (tmp_path / "a" / "f.json").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert (tmp_path / "a" / "f.json").read_text() == '{\n  "x": 1\n}\n'


def test_a_path_that_is_missing_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    assert path_hint(tmp_path / "modle.pt", "x") == f"did you mean {tmp_path / 'model.pt'}"
    # A file of an earlier command is not the file that a later one has not written yet.
    (tmp_path / "pruned.pt").touch()
    assert path_hint(tmp_path / "finetuned.pt", "x") == "x"
    assert path_hint(tmp_path / "zebra", "check it") == "check it"
    assert path_hint(tmp_path / "no" / "model.pt", "check it") == "check it"


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    write_bytes(tmp_path / "f", b"abc")
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    # Nothing is closed to an administrator.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(CfpError, match=r"cannot be written to; choose another folder with --out or --run"):
        require_writable(tmp_path)
