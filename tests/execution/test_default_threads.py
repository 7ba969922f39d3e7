from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cfp_cli.execution import device


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    device.choose_device("cpu", before)


@pytest.mark.parametrize(("cores", "processes", "threads"), [(1, 1, 1), (3, 1, 3), (6, 2, 3), (1, 2, 1)])
def test_the_default_is_all_cores_shared_by_the_processes(
    monkeypatch: pytest.MonkeyPatch, restored_threads: None, cores: int, processes: int, threads: int
) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    device.choose_device("cpu")
    assert torch.get_num_threads() == threads
