from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cfp_cli.foundation.errors import RunError, StorageError
from cfp_cli.foundation.files import write_atomic, write_bytes
from cfp_cli.foundation.locks import Holder, lock_file
from cfp_cli.foundation.scratch import scratch_folder


def start(code: str) -> subprocess.Popen[str]:
    """Start Python code that prints `ready` and waits; return its process once it is ready."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


WAIT = "print('ready', flush=True); time.sleep(60)"


def refuse(holder: Holder) -> RunError:
    return RunError(f"in use by {holder}")


def test_a_lock_names_its_holder_and_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\nfrom cfp_cli.foundation.locks import lock_file\nsys.argv = ['cfp', 'finetune']\n"
        f"with lock_file(pathlib.Path({str(tmp_path / '.lock')!r}), lambda holder: ValueError()): {WAIT}"
    )
    process = start(code)
    with pytest.raises(RunError, match=rf"^in use by `cfp finetune` \(process {process.pid}, since 20"):  # noqa: SIM117
        with lock_file(tmp_path / ".lock", refuse):
            pass
    kill(process)
    with lock_file(tmp_path / ".lock", refuse):
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())


def test_a_lock_in_a_missing_folder_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*; use another folder"):  # noqa: SIM117
        with lock_file(tmp_path / "file" / ".lock", refuse):
            pass


def test_scratch_folders_of_killed_processes_are_deleted_and_those_of_others_stay(tmp_path: Path) -> None:
    code = (
        "import time, pathlib\nfrom cfp_cli.foundation.scratch import scratch_folder\n"
        f"with scratch_folder(pathlib.Path({str(tmp_path)!r})): {WAIT}"
    )
    killed, alive = start(code), start(code)
    kill(killed)
    with scratch_folder(tmp_path):
        assert len(list(tmp_path.iterdir())) == 2
    assert len(list(tmp_path.iterdir())) == 1
    kill(alive)
    with scratch_folder(tmp_path) as folder:
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_killed_processes_are_deleted_and_those_of_others_stay(tmp_path: Path) -> None:
    code = (
        "import time, pathlib\nfrom cfp_cli.foundation.files import write_atomic\n"
        f"def slow(file): {WAIT}\nwrite_atomic(pathlib.Path({str(tmp_path / 'f')!r}), slow)"
    )
    killed, alive = start(code), start(code)
    kill(killed)
    write_bytes(tmp_path / "f", b"new")
    assert len(list(tmp_path.glob(".f.*.tmp"))) == 1
    kill(alive)
    write_bytes(tmp_path / "f", b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    write_bytes(tmp_path / "disk" / "f", b"old")
    (tmp_path / "f").symlink_to(tmp_path / "disk" / "f")
    write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").is_symlink()
    assert (tmp_path / "disk" / "f").read_bytes() == b"new"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(StorageError, match="circle"):
        write_bytes(tmp_path / "circle", b"new")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_full_disk_inside_a_library_is_an_error_that_names_the_file(tmp_path: Path, library: str) -> None:
    (tmp_path / "f").write_bytes(b"old")
    save = {"torch": "torch.save(torch.zeros(100000), file)", "numpy": "np.save(file, np.zeros(100000))"}[library]
    code = (
        "import resource, pathlib, torch, numpy as np\nfrom cfp_cli.foundation.files import write_atomic\n"
        "from cfp_cli.foundation.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        f"try: write_atomic(pathlib.Path({str(tmp_path / 'f')!r}), lambda file: {save})\n"
        "except StorageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {tmp_path / 'f'}: the file would be larger than its disk")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_an_interruption_inside_a_library_stays_one(tmp_path: Path) -> None:
    import torch

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:

        class Interrupting:
            def __reduce__(self) -> tuple[type, tuple[()]]:
                os.kill(os.getpid(), signal.SIGINT)
                return object, ()

        with pytest.raises(KeyboardInterrupt):
            write_atomic(tmp_path / "f", lambda file: torch.save(Interrupting(), file))
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(tmp_path.iterdir()) == []
