"""Read the tensors and the other data of a model file, without building the network."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.content_hash import content_hash
from cfp_cli.checkpoints.export_formats import ENDINGS
from cfp_cli.checkpoints.spec import FORMAT
from cfp_cli.foundation.content_hash import KEY, MISMATCH
from cfp_cli.foundation.errors import CfpError, CheckpointError
from cfp_cli.foundation.files import path_hint
from cfp_cli.models.state_dict import module_versions, with_versions

# A small expanded buffer is harmless.
_MAX_EXPANDED = 2**26


@dataclass(frozen=True)
class Contents:
    """The content of a model file.

    Attributes:
        path: the file.
        state: tensors by name, floating-point ones as float32, with the module versions attached.
        facts: the other data of the file. Of a file that this tool did not write, only `arch`, `classes` and
            `input_size`, where they have the right type.
        own: whether the file is a cfp checkpoint.
        verified: whether the file is a cfp checkpoint that matches the hash that it stores of its content.
    """

    path: Path
    state: dict[str, Tensor]
    facts: dict[str, Any]
    own: bool
    verified: bool


def read_contents(path: Path, *, unsafe_pickle: bool) -> Contents:
    """Read a cfp checkpoint, a dict with `state_dict`, or a bare state dict.

    Args:
        path: a `.pt`, `.pth`, `.pth.tar` or `.safetensors` file.
        unsafe_pickle: also read files that can run code when they are loaded, such as a pickled module.

    Raises:
        CheckpointError: the file is missing, damaged, cannot be read, needs unpickling, or has no usable state dict.
    """
    content = _read(path, unsafe_pickle)
    if isinstance(content, nn.Module):
        content = {"state_dict": content.state_dict()}
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    facts: dict[str, Any] = {}
    state: Any = content
    if "state_dict" in content:
        state = content["state_dict"]
        facts = {name: value for name, value in content.items() if name != "state_dict"}
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path} holds no state dict; save model.state_dict() or a dict with the key 'state_dict'"
        )
    if not all(isinstance(name, str) for name in (*state, *facts)):
        raise CheckpointError(f"{path} holds a name that is not text; save model.state_dict() again")
    format_name = facts.pop("format", None)
    own = format_name == FORMAT
    if isinstance(format_name, str) and format_name.startswith("cfp/") and not own:
        raise CheckpointError(f"{path} has format {format_name[:20]}, this version reads {FORMAT}; update cfp")
    for name, value in state.items():
        require_plain_tensor(path, name, value)
    verified = _verify(path, facts, state, own=own)
    if not own:
        facts = _foreign_facts(facts)
    # nn.DataParallel puts the network under "module.". A cfp checkpoint may have a module of that name itself.
    prefix = "" if own else "module."
    tensors = {name.removeprefix(prefix): _float32(value) for name, value in state.items()}
    versions = {f"{name}.".removeprefix(prefix)[:-1]: each for name, each in module_versions(state).items()}
    return Contents(path, with_versions(tensors, versions), facts, own, verified)


def _verify(path: Path, facts: dict[str, Any], state: Mapping[str, Tensor], *, own: bool) -> bool:
    """Take the content hash out of `facts` and compare it; return whether there is one.

    Raises:
        CheckpointError: the content has another hash, so the file is damaged.
    """
    stored = facts.pop(KEY, None)
    if stored is None:
        return False
    try:
        intact = own and content_hash({"format": FORMAT, **facts}, state) == stored
    except (TypeError, ValueError, RecursionError):
        # The facts are not plain data, so this tool did not write them.
        intact = False
    if not intact:
        raise CheckpointError(f"{path} {MISMATCH}; copy it again")
    return True


def require_plain_tensor(path: Path, name: str, value: Tensor) -> None:
    """Check that a tensor of a file is an ordinary one, and that its shape is not larger than what the file stores.

    Raises:
        CheckpointError: it is not; the message names the tensor.
    """
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        strided = value.layout == torch.strided
        kind = "quantised" if value.is_quantized else value.device.type if strided else str(value.layout)[6:]
        raise CheckpointError(f"{path} holds a {kind} tensor '{name}'; save a network with ordinary tensors")
    if value.is_complex():
        raise CheckpointError(f"{path} holds complex numbers in '{name}'; save a network with real numbers")
    size = value.numel() * value.element_size()
    # Strides can declare many elements over a small storage, which would need the memory of all of them.
    if size > max(value.untyped_storage().nbytes(), _MAX_EXPANDED):
        raise CheckpointError(
            f"tensor '{name}' in {path} has a shape of {size:,} bytes but stores "
            f"{value.untyped_storage().nbytes():,}; save {name}.contiguous()"
        )


def _foreign_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the usable data of a dict that another tool wrote; never a pruning plan or arguments of its constructor."""
    usable: dict[str, Any] = {}
    if isinstance(facts.get("arch"), str):
        usable["arch"] = facts["arch"]
    classes, size = facts.get("classes"), facts.get("input_size")
    if isinstance(classes, list | tuple) and all(isinstance(each, str | int) for each in classes):
        usable["classes"] = [str(each) for each in classes]
    if type(size) is int:
        usable["input_size"] = [size, size]
    elif isinstance(size, list | tuple) and len(size) == 2 and all(type(each) is int for each in size):
        usable["input_size"] = list(size)
    return usable


def _read(path: Path, unsafe_pickle: bool) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a model file; pass the model first, then the data")
    if not path.is_file():
        raise CheckpointError(f"no file {path}; {path_hint(path, 'check the path of the model')}")
    if path.suffix in ENDINGS.values():
        raise CheckpointError(f"{path} is an exported network; pass the checkpoint that it was exported from")
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get("cfp", "{}"))
                if not isinstance(facts, dict):
                    raise CheckpointError(f"{path} holds metadata that is not a JSON object; save the network again")
                return {**facts, "state_dict": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
        return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} needs unpickling, which can run code; save model.state_dict() instead and pass --arch, "
            "or pass --unsafe-pickle if you trust the file"
        ) from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path} needs code that is not installed ({_first_line(error)}); save model.state_dict() instead"
        ) from error
    except CfpError:
        raise
    # A damaged file makes the decoders raise any kind of error.
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({_first_line(error)}); save it again") from error


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return "PyTorch did not write it"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0][:160]


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
