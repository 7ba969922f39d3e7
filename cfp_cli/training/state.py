"""The state file of a training run: a resumed run continues from it bit for bit.

The file contains no state of random generators, because every random choice is a function of (seed, epoch, step).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.content_hash import tensor_array
from cfp_cli.checkpoints.plain_tree import require_plain_tree
from cfp_cli.checkpoints.read import require_plain_tensor
from cfp_cli.checkpoints.torch_file import require_cheap
from cfp_cli.foundation.content_hash import KEY, MISMATCH, Array, hash_content
from cfp_cli.foundation.errors import TrainingError
from cfp_cli.foundation.files import write_atomic
from cfp_cli.foundation.typed_json import quoted

FORMAT = "cfp-train/1"
ADVICE = "delete it to start anew"


class OtherRunError(TrainingError):
    """The state file belongs to a run with a different identity."""


def write_state(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the state and the identity of a run with the hash of both, atomically.

    Args:
        path: path of the state file.
        identity: plain data that must be equal when the run is resumed.
        state: tensors and plain data.
    """
    content = {"format": FORMAT, "identity": dict(identity), **state}
    content[KEY] = _hash(content, path)

    def write(file: BinaryIO) -> None:
        torch.save(content, file)

    write_atomic(path, write)


def read_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a state file, with all tensors on the CPU.

    Raises:
        OtherRunError: the file belongs to a run with a different identity.
        TrainingError: the file cannot be read, or does not match its hash.
        CheckpointError: a tensor of the file is not an ordinary one.
    """
    try:
        require_cheap(path)
        with warnings.catch_warnings():
            # A forged file makes torch warn about how it was written.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        require_plain_tree(content)
        stored, version, saved = content.pop(KEY), content["format"], content["identity"]
    # A damaged file makes the decoder raise any kind of error.
    except Exception as error:
        raise TrainingError(f"{path} is not a training state; {ADVICE}") from error
    try:
        intact = _hash(content, path) == stored
    except (TypeError, ValueError):
        # This tool writes no such data.
        intact = False
    if not intact:
        raise TrainingError(f"{path} {MISMATCH}; {ADVICE}")
    if version != FORMAT:
        raise TrainingError(f"{path}: format is {quoted(version)}, not '{FORMAT}'; {ADVICE}")
    if not isinstance(saved, dict):
        raise TrainingError(f"{path}: identity is {quoted(saved)}, not an object; {ADVICE}")
    for name in sorted({*identity, *saved}, key=str):
        if name not in saved:
            raise OtherRunError(f"{path}: identity.{name} is missing; {ADVICE}")
        if name not in identity or saved[name] != identity[name]:
            was, now = _short(saved.get(name)), _short(identity.get(name))
            raise OtherRunError(
                f"{path} was started with other options ({name} was {was}, now {now}); "
                "use the same options or leave out --resume"
            )
    return content  # type: ignore[no-any-return]


def _hash(content: Mapping[str, Any], path: Path) -> str:
    """Return the SHA-256 of nested tensors and plain data.

    Raises:
        CheckpointError: a tensor is not an ordinary one.
    """
    arrays: list[Array] = []

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            require_plain_tensor(path, name, value)
            arrays.append(tensor_array(name, value))
            return "tensor"
        # Pairs keep names that are numbers apart from names that are text.
        if isinstance(value, Mapping):
            return {"pairs": [[key, plain(each, f"{name}/{key}")] for key, each in value.items()]}
        if isinstance(value, list | tuple):
            return [plain(each, f"{name}/{index}") for index, each in enumerate(value)]
        return value

    return hash_content(plain(content, path.name), arrays)


def finite(model: nn.Module) -> bool:
    """Whether all weights and buffers are finite."""
    return all(bool(torch.isfinite(value).all()) for value in model.state_dict().values() if value.is_floating_point())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else quoted(value)
    return text if len(text) <= 40 else text[:12] + "..."
