from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import same

from cfp_cli.execution import distributed
from cfp_cli.foundation.errors import UsageError

SCRIPT = Path(__file__).with_name("distributed_run.py")


def launch(folder: Path, world: int, norm: str, stop: int = 0) -> None:
    """Start the processes as torchrun would, and wait for them to end, interrupted after `stop` steps where not 0."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
    }
    command = [sys.executable, str(SCRIPT), str(folder), norm, str(stop)]
    running = [
        subprocess.Popen(command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(world)
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=180)
            assert process.returncode == (130 if stop else 0), errors.decode()
    finally:
        for process in running:
            process.kill()


def weights(folder: Path, rank: int, world: int):
    return torch.load(folder / f"rank{rank}of{world}.pt", weights_only=True)


def facts(folder: Path, rank: int, world: int):
    return json.loads((folder / f"rank{rank}of{world}.json").read_text())


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    launch(tmp_path / "one", 1, "plain")
    launch(tmp_path / "two", 2, "plain")
    one = weights(tmp_path / "one", 0, 1)
    two = weights(tmp_path / "two", 0, 2)
    # Without batch norm and dropout the mean over a batch does not depend on how it is shared.
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)
    assert facts(tmp_path / "two", 0, 2)["losses"] == pytest.approx(facts(tmp_path / "one", 0, 1)["losses"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_agree_and_go_on_after_an_interruption(tmp_path):
    launch(tmp_path / "first", 2, "norm")
    launch(tmp_path / "second", 2, "norm", stop=4)
    assert torch.load(tmp_path / "second" / "last.pt", weights_only=True)["epoch"] == 1
    launch(tmp_path / "second", 2, "norm")
    first, other, second = (
        weights(tmp_path / name, rank, 2) for name, rank in (("first", 0), ("first", 1), ("second", 0))
    )
    assert same(first, other)
    assert same(first, second)
    assert [facts(tmp_path / "first", rank, 2)["lines"] for rank in (0, 1)] == [3, 0]
    assert [facts(tmp_path / "first", rank, 2)["rank"] for rank in (0, 1)] == [0, 1]


def test_alone_everything_is_a_matter_of_course(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    workers, device = distributed.join(torch.device("cpu"))
    assert (workers, device, distributed.rank()) == (distributed.Workers(0, 1), torch.device("cpu"), 0)
    assert workers.broadcast({"a": 1}) == {"a": 1}
    assert workers.all_reduce(torch.ones(2)).tolist() == [1, 1]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.rank() == 1


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"no GPU for process 2, this machine has 1; .* --device cpu"):
        distributed.join(torch.device("cuda"))
