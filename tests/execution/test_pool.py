"""Jobs shared out over processes: each does its part, and the failure of one ends all."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forks

from cfp_cli.execution import distributed
from cfp_cli.execution.distributed import Workers
from cfp_cli.execution.pool import Pool


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    folder = tmp_path_factory.mktemp("output")
    with Forks(folder, "pool_run:main", ["torch.distributed"], [Path(__file__).parent]) as forks:
        yield forks


def test_jobs_are_shared_and_each_process_sees_itself_alone(forks: Forks, tmp_path: Path) -> None:
    first, second = forks.run([tmp_path, "good"], 2)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    done = pickle.loads((tmp_path / "done.pickle").read_bytes())
    assert done == [(0, 0, 1), (1, 1, 1), (2, 0, 1), (3, 1, 1), (4, 0, 1)]
    assert second.out == "result\n"


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("portable", ("TargetError", "no plan")),
        ("time", ("OutOfTimeError", "7 s more than the time limit leaves")),
        ("unportable", ("RunError", "process 2 of 2 failed (Unportable: text)")),
    ],
)
def test_an_error_reaches_the_first_process(forks: Forks, tmp_path: Path, case: str, error: tuple[str, str]) -> None:
    first, second = forks.run([tmp_path, case], 2)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    # What was done at the same time is kept, and nothing more is begun.
    assert pickle.loads((tmp_path / "done.pickle").read_bytes()) == [(0, 0, 1), error]


def test_the_end_of_one_process_ends_the_other(forks: Forks, tmp_path: Path) -> None:
    assert [each.code for each in forks.run([tmp_path, "first"], 2)] == [3, 4]
    assert [each.code for each in forks.run([tmp_path, "killed"], 2)] == [5, 9]


def test_a_single_process_does_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "RANK" not in os.environ
    pool: Pool[int, int] = Pool(Workers().patient(), lambda job: 10 // job)
    assert pool.run([1, 2]) == [10, 5]
    one, error = pool.run([1, 0, 2])
    assert one == 10
    assert isinstance(error, ZeroDivisionError)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.rank() == 1
    with distributed.alone(), distributed.alone():
        assert distributed.rank() == 0
    assert distributed.rank() == 1
