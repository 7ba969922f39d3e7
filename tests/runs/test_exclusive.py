from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cfp_cli.foundation.errors import RunError
from cfp_cli.runs.directory import Run, lock_folder

HOLD = """
import sys, time
from pathlib import Path
from cfp_cli.runs.directory import Run
sys.argv = ["cfp", "finetune", "--teachers", "rl.pt"]
with Run.exclusive(Path(sys.stdin.readline().strip())):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_second_command_learns_who_holds_the_run_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(f"{tmp_path / 'run'}\n")
    holder.stdin.close()
    assert holder.stdout.readline() == "ready\n"
    told = rf"run is in use by `cfp finetune --teachers rl.pt` \(process {holder.pid}, since 20.*\); wait until"
    with pytest.raises(RunError, match=told), Run.exclusive(tmp_path / "run"):
        pass
    assert Run.open(tmp_path / "run").records == []
    (tmp_path / "run" / ".last.pt.abc.tmp").touch()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with Run.exclusive(tmp_path / "run") as run:
        assert run.folder == tmp_path / "run"
        assert [path.name for path in run.folder.iterdir()] == [".lock"]


def test_a_command_that_fails_leaves_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), Run.exclusive(tmp_path / "run"):
        raise ValueError("wrong")
    assert list(tmp_path.iterdir()) == []
    with lock_folder(tmp_path / "results"):
        (tmp_path / "results" / "results.csv").touch()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["results.csv"]
