from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import Forks
from tiny_run import same

from cfp_cli.execution import distributed
from cfp_cli.foundation.errors import UsageError


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    folder, modules = tmp_path_factory.mktemp("output"), ["torch._dynamo", "torch.distributed"]
    with Forks(folder, "distributed_run:main", modules, [Path(__file__).parent]) as forks:
        yield forks


def launch(forks: Forks, folder: Path, world: int, norm: str, stop: int = 0) -> None:
    """Run the processes as torchrun would, and wait for them to end, interrupted after `stop` steps where not 0."""
    folder.mkdir(exist_ok=True)
    for done in forks.run([folder, norm, stop], world):
        assert done.code == (130 if stop else 0), done.err


def weights(folder: Path, rank: int, world: int):
    return torch.load(folder / f"rank{rank}of{world}.pt", weights_only=True)


def facts(folder: Path, rank: int, world: int):
    return json.loads((folder / f"rank{rank}of{world}.json").read_text())


@pytest.mark.slow
def test_two_processes_learn_what_one_does(forks, tmp_path):
    launch(forks, tmp_path / "one", 1, "plain")
    launch(forks, tmp_path / "two", 2, "plain")
    one = weights(tmp_path / "one", 0, 1)
    two = weights(tmp_path / "two", 0, 2)
    # Without batch norm and dropout the mean over a batch does not depend on how it is shared.
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)
    assert facts(tmp_path / "two", 0, 2)["losses"] == pytest.approx(facts(tmp_path / "one", 0, 1)["losses"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_agree_and_go_on_after_an_interruption(forks, tmp_path):
    launch(forks, tmp_path / "first", 2, "norm")
    launch(forks, tmp_path / "second", 2, "norm", stop=4)
    assert torch.load(tmp_path / "second" / "last.pt", weights_only=True)["epoch"] == 1
    launch(forks, tmp_path / "second", 2, "norm")
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
