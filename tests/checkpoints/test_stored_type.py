"""The type of the numbers in a model file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cfp_cli.checkpoints.stored_type import stored_type


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_is_that_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {"w": torch.ones(100, 100).to(dtype), "count": torch.tensor(1)}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    assert stored_type(tmp_path / "x.pth") == str(dtype).removeprefix("torch.")


def test_two_types_are_both_said(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(100), "b": torch.ones(50, dtype=torch.float16)}, tmp_path / "x.pth")
    assert stored_type(tmp_path / "x.pth") == "float32 and float16"
