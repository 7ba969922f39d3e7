"""Everything a run must keep to go on after a kill as if nothing had happened, in one plain file.

No random generator is kept: every random choice is a function of (seed, epoch, step).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import TrainingError
from cfp_cli.foundation.files import write_atomic

FORMAT = "cfp-train/1"


class OtherRunError(TrainingError):
    """A training state belongs to a run with another identity."""


def write_state(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the state of a run atomically, beside what tells the run from others.

    Args:
        path: of the file.
        identity: plain data that a resumed run must share.
        state: tensors and plain data.
    """

    def write(file: BinaryIO) -> None:
        torch.save({"format": FORMAT, "identity": dict(identity), **state}, file)

    write_atomic(path, write)


def read_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read what `write_state` wrote, tensors on the CPU.

    Raises:
        OtherRunError: the file belongs to a run with another identity.
        TrainingError: the file cannot be read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["identity"] if content["format"] == FORMAT else None
    except (pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is not a training state; delete it to start anew") from error
    if found is None:
        raise TrainingError(f"{path} was written by another version; delete it to start anew")
    for name in sorted({*identity, *found}):
        if found.get(name) != identity.get(name):
            was, now = _short(found.get(name)), _short(identity.get(name))
            raise OtherRunError(
                f"{path} belongs to another run ({name} was {was}, now {now}); "
                "repeat its arguments, or start anew without --resume"
            )
    return content  # type: ignore[no-any-return]


def finite(model: nn.Module) -> bool:
    """Whether no weight or buffer is NaN or infinite."""
    return all(bool(torch.isfinite(value).all()) for value in model.state_dict().values() if value.is_floating_point())


@torch.no_grad()
def copy_flushed(source: nn.Module, target: nn.Module) -> None:
    """Copy all weights and buffers, subnormal ones as 0.

    Subnormals change no output that float32 can tell, but slow a CPU down several times
    (github.com/FasterAI-Labs/fasterai/pull/82: 13 ms to 70 ms).
    """
    for value, copy in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        copy.copy_(_flushed(value))


def _flushed(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    return value.masked_fill(value.abs() < torch.finfo(value.dtype).tiny, 0.0)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
