"""State dicts in tuples and lists are read; NumPy arrays in any container are named with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.read import read_contents
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.models.registry import create

ARCH = "dddn"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return create(ARCH, 3).state_dict()


@pytest.mark.parametrize("wrap", [lambda s: (s, 7), lambda s: [s], lambda s: [{"epoch": 3}, {"model": s}]])
def test_a_state_dict_in_a_tuple_or_list_is_found(tmp_path: Path, state: dict[str, Tensor], wrap: Any) -> None:
    torch.save(wrap(state), tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", ARCH).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("unsafe", [False, True])
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: {"state_dict": a}, lambda a: (a, 7)])
def test_arrays_are_named_with_what_helps(tmp_path: Path, state: dict[str, Tensor], wrap: Any, unsafe: bool) -> None:
    torch.save(wrap({name: value.numpy() for name, value in state.items()}), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"stores NumPy arrays, not tensors; .*torch\.from_numpy") as error:
        read_contents(tmp_path / "m.pt", unsafe_pickle=unsafe)
    assert "--unsafe-pickle" not in str(error.value)


def test_files_of_numpy_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    np.savez(tmp_path / "m.npz", **{name: value.numpy() for name, value in state.items()})
    np.savez_compressed(tmp_path / "small.npz", a=np.ones(3))
    np.save(tmp_path / "m.npy", np.ones(3))
    for name, words in (("m.npz", "an .npz file"), ("small.npz", "an .npz file"), ("m.npy", "an .npy file")):
        with pytest.raises(CheckpointError, match=words):
            read_contents(tmp_path / name, unsafe_pickle=False)


def test_tensors_without_names_stay_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(list(state.values()), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="holds a list, not a state dict"):
        read_contents(tmp_path / "m.pt", unsafe_pickle=False)
