"""The state file of a training run: a resumed run continues from it bit for bit.

The file contains no state of random generators, because every random choice is a function of (seed, epoch, step).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from cfp_cli.foundation.errors import TrainingError
from cfp_cli.foundation.files import write_atomic

FORMAT = "cfp-train/1"


class OtherRunError(TrainingError):
    """The state file belongs to a run with a different identity."""


def write_state(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the state and the identity of a run, atomically.

    Args:
        path: path of the state file.
        identity: plain data that must be equal when the run is resumed.
        state: tensors and plain data.
    """

    def write(file: BinaryIO) -> None:
        torch.save({"format": FORMAT, "identity": dict(identity), **state}, file)

    write_atomic(path, write)


def read_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a state file, with all tensors on the CPU.

    Raises:
        OtherRunError: the file belongs to a run with a different identity.
        TrainingError: the file cannot be read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved = content["identity"] if content["format"] == FORMAT else None
    except (pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is not a training state; delete it to start anew") from error
    if saved is None:
        raise TrainingError(f"{path} was written by another version; delete it to start anew")
    for name in sorted({*identity, *saved}):
        if saved.get(name) != identity.get(name):
            was, now = _short(saved.get(name)), _short(identity.get(name))
            raise OtherRunError(
                f"{path} was started with other options ({name} was {was}, now {now}); "
                "use the same options or leave out --resume"
            )
    return content  # type: ignore[no-any-return]


def finite(model: nn.Module) -> bool:
    """Whether all weights and buffers are finite."""
    return all(bool(torch.isfinite(value).all()) for value in model.state_dict().values() if value.is_floating_point())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
