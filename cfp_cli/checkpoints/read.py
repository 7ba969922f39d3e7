"""Read the tensors and the other data of a model file, without building the network."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from cfp_cli.checkpoints.candidates import Candidate, find_candidates, holds_arrays
from cfp_cli.checkpoints.content_hash import content_hash
from cfp_cli.checkpoints.export_formats import ENDINGS
from cfp_cli.checkpoints.pickle_data import Opaque
from cfp_cli.checkpoints.plain_tree import require_plain_tree
from cfp_cli.checkpoints.shards import is_index, read_shards
from cfp_cli.checkpoints.spec import FORMAT
from cfp_cli.checkpoints.torch_file import read_torch_file, require_cheap
from cfp_cli.foundation.content_hash import KEY, MISMATCH
from cfp_cli.foundation.errors import CfpError, CheckpointError
from cfp_cli.foundation.files import path_hint
from cfp_cli.foundation.typed_json import quoted

# A small expanded buffer is harmless.
_MAX_EXPANDED = 2**26
# First bytes, in lower case, of files that a download, a copy or another framework leaves; what to do.
_OTHER_FORMATS = {
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself with `git lfs pull`"),
    b"<!doctype": ("a web page", "download the file again"),
    b"<html": ("a web page", "download the file again"),
    b"<?xml": ("an XML file", "download the file again"),
    b"\x1f\x8b": ("compressed by gzip", "unpack it first with gunzip or tar"),
    b"bzh": ("compressed by bzip2", "unpack it first with bunzip2 or tar"),
    b"\xfd7zxz": ("compressed by xz", "unpack it first with xz or tar"),
    b"\x93numpy": ("an .npy file of one NumPy array", "pass a file with the tensors of a network by name"),
    b"\x89hdf": ("an HDF5 file, as Keras and h5py write", "convert its weights to a PyTorch state dict"),
}
ARRAYS_TO_TENSORS = (
    "save the weights as tensors: "
    "torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, 'model.pt')"
)
_NO_STATE_DICT = "save model.state_dict() or a dict with the key 'state_dict'"


@dataclass(frozen=True)
class Contents:
    """The content of a model file.

    Attributes:
        path: the file.
        candidates: the dicts of tensors in the file; a cfp checkpoint has one, whose names are those of the network.
        facts: the other entries of the file, as they are.
        quantised: the name of a quantised tensor in the file, or None. Dicts with such tensors are no candidates.
        own: whether the file is a cfp checkpoint.
        verified: whether the file is a cfp checkpoint that matches the hash that it stores of its content.
    """

    path: Path
    candidates: tuple[Candidate, ...]
    facts: dict[str, Any]
    quantised: str | None
    own: bool
    verified: bool


def read_contents(path: Path, *, unsafe_pickle: bool) -> Contents:
    """Read a cfp checkpoint, or the dicts of tensors in a file of another tool.

    No code that the file names runs. Objects of a dict that need code, such as the arguments of a training script,
    are ignored.

    Args:
        path: a `.pt`, `.pth`, `.pth.tar`, `.bin`, `.ckpt` or `.safetensors` file, or the index of a file in parts.
        unsafe_pickle: also read files that can run code when they are loaded, such as a pickled module.

    Raises:
        CheckpointError: the file is missing, damaged, cannot be read, needs unpickling, or has no usable state dict.
    """
    content = _read(path, unsafe_pickle)
    facts = dict(content) if isinstance(content, Mapping) else {}
    format_name = facts.pop("format", None)
    own = format_name == FORMAT
    if isinstance(format_name, str) and format_name.startswith("cfp/") and not own:
        raise CheckpointError(f"{path} has format {format_name[:20]}, this version reads {FORMAT}; update cfp")
    if own:
        return _own(path, facts)
    if isinstance(content, tuple | list):
        # As `torch.save((model.state_dict(), epoch), path)` writes; tensors without names are no state dict.
        entries = {str(index): each for index, each in enumerate(content) if not isinstance(each, Tensor)}
        candidates = find_candidates(entries)
    else:
        candidates = find_candidates(content)
    if not candidates and holds_arrays(content):
        raise CheckpointError(f"{path} stores NumPy arrays, not tensors; {ARRAYS_TO_TENSORS}")
    if not candidates and any(isinstance(each, Opaque) for each in (content, *facts.values())):
        raise _needs_unpickling(path)
    if not candidates and not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    usable = [each for each in candidates if each.quantised is None]
    int8 = next((each.quantised for each in candidates if each.quantised is not None), None)
    if not usable and int8 is not None:
        raise quantised(path, int8)
    readable = [each for each in usable if each.module is None or unsafe_pickle]
    if not readable and usable:
        raise CheckpointError(
            f"{path} stores its network as a pickled module ({usable[0].module}), which needs unpickling and can "
            "run code; save model.state_dict() instead and pass --arch, or pass --unsafe-pickle if you trust the file"
        )
    if not readable:
        raise CheckpointError(f"{path} holds no state dict; {_NO_STATE_DICT}")
    if KEY in facts:
        raise CheckpointError(f"{path} is damaged: format is {quoted(format_name)}, not '{FORMAT}'; copy it again")
    return Contents(path, tuple(readable), facts, int8, own=False, verified=False)


def _own(path: Path, facts: dict[str, Any]) -> Contents:
    """Return the content of a cfp checkpoint after a check of all tensors."""
    state = facts.pop("state_dict", None)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state dict; {_NO_STATE_DICT}")
    if not all(isinstance(name, str) for name in (*state, *facts)):
        raise CheckpointError(f"{path} holds a name that is not text; save model.state_dict() again")
    for name, value in state.items():
        require_plain_tensor(path, name, value)
    verified = _verify(path, facts, state)
    return Contents(path, (Candidate(("state_dict",), state),), facts, None, own=True, verified=verified)


def _verify(path: Path, facts: dict[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Take the content hash out of `facts` and compare it; return whether there is one.

    Raises:
        CheckpointError: the content has another hash, so the file is damaged.
    """
    stored = facts.pop(KEY, None)
    if stored is None:
        return False
    try:
        intact = content_hash({"format": FORMAT, **facts}, state) == stored
    except (TypeError, ValueError, RecursionError):
        # The facts are not plain data, so this tool did not write them.
        intact = False
    if not intact:
        raise CheckpointError(f"{path} {MISMATCH}; copy it again")
    return True


def require_plain_tensor(path: Path, name: str, value: Tensor) -> None:
    """Check that a tensor is an ordinary one, with as many numbers in the file as its shape declares.

    Raises:
        CheckpointError: it is not.
    """
    if value.is_quantized:
        raise quantised(path, name)
    if value.layout != torch.strided or value.device.type != "cpu":
        kind = value.device.type if value.layout == torch.strided else str(value.layout)[6:]
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


def quantised(path: Path, name: str) -> CheckpointError:
    """Return the error for a file that holds an int8 network."""
    return CheckpointError(
        f"{path} holds the quantised tensor '{name}', so it is an int8 network, which cannot be pruned; pass the "
        "checkpoint from before the quantisation, and quantise the pruned network with `cfp export --int8`"
    )


def _read(path: Path, unsafe_pickle: bool) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a model file; {_folder_advice(path)}")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is a pipe or a device, not a model file; copy its content to a file")
    if not path.is_file():
        raise CheckpointError(f"no file {path}; {path_hint(path, 'check the path of the model')}")
    if path.suffix in ENDINGS.values():
        raise CheckpointError(f"{path} is an exported network; pass the checkpoint that it was exported from")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if is_index(path):
            return read_shards(path, lambda part: _read(part, unsafe_pickle))
        _refuse_other_formats(path)
        _refuse_programs(path, unsafe_pickle)
        require_cheap(path)
        content = _read_torch(path, unsafe_pickle)
        require_plain_tree(content)
        return content
    except CfpError:
        raise
    # A damaged file makes the decoders raise any kind of error.
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({_first_line(error)}); save it again") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get("cfp", "{}"))
        if not isinstance(facts, dict):
            raise CheckpointError(f"{path} holds metadata that is not a JSON object; save the network again")
        return {**facts, "state_dict": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def _read_torch(path: Path, unsafe_pickle: bool) -> Any:
    """Read a file of `torch.save`; objects that need code are `Opaque`, unless the user allows code to run."""
    with warnings.catch_warnings():
        # Warnings about how the file was written help nobody who only reads it.
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle)
        except (pickle.UnpicklingError, ImportError, AttributeError) as error:
            try:
                return read_torch_file(path)
            except Exception:
                if not unsafe_pickle:
                    raise _needs_unpickling(path) from error
                raise CheckpointError(
                    f"{path} cannot be unpickled ({_first_line(error)}); save model.state_dict() instead"
                ) from error


def _needs_unpickling(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} needs unpickling, which can run code; save model.state_dict() instead and pass --arch, "
        "or pass --unsafe-pickle if you trust the file"
    )


def _refuse_other_formats(path: Path) -> None:
    """Refuse files that are never a checkpoint, such as what a download left. `--unsafe-pickle` would not help.

    Raises:
        CheckpointError: the file begins as one of `_OTHER_FORMATS`.
    """
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    for begin, (what, advice) in _OTHER_FORMATS.items():
        if start.startswith(begin):
            raise CheckpointError(f"{path} is {what}, not a checkpoint of PyTorch; {advice}")


def _refuse_programs(path: Path, unsafe_pickle: bool) -> None:
    """Refuse files that hold a compiled or exported program instead of a network of modules.

    Raises:
        CheckpointError: the file holds a program.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = {name.rpartition("/")[2] for name in archive.namelist()}
    kind = "TorchScript" if "constants.pkl" in members else "torch.export" if "archive_format" in members else None
    if members and all(name.endswith(".npy") for name in members):
        raise CheckpointError(
            f"{path} is an .npz file of NumPy arrays, not a checkpoint of PyTorch; {ARRAYS_TO_TENSORS}"
        )
    if kind is not None and not (kind == "TorchScript" and unsafe_pickle):
        more = ", or pass --unsafe-pickle too if you trust the file" if kind == "TorchScript" else ""
        raise CheckpointError(
            f"{path} is a {kind} file: a fixed program, whose layers cannot be pruned; save model.state_dict() of the "
            f"network that it was made from, and pass --arch{more}"
        )


def _folder_advice(path: Path) -> str:
    """Return what to do instead of passing a folder as the model."""
    if any(path.glob("*.distcp")):
        return (
            "it is a distributed checkpoint; convert it with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} model.pt`"
        )
    for pattern in ("*.index.json", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt"):
        file = min(path.glob(pattern), default=None)
        if file is not None:
            return f"pass one of its files, such as {file}"
    return "pass the model first, then the data"


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return "PyTorch did not write it"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0][:160]
