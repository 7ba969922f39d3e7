"""Read the tensors of a file of `torch.save` whose other objects need code that must not run.

`torch.load(weights_only=True)` refuses a whole file for one object that it does not know, such as the arguments of a
training script. This reader takes the tensors and the plain data, and keeps all other objects as `Opaque`.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from cfp_cli.checkpoints.pickle_data import HANDLERS, CostlyPickleError, Handlers, Name, Opaque, call, read_pickle

_DTYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
# `torch.serialization` before version 1.6: three pickles of these values stand before the content.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_OLD_PICKLES = 4
# A file that was packed again by another program may be compressed.
_MAX_EXPANSION, _FREE_BYTES = 20, 2**26


class CostlyFileError(ValueError):
    """A file unpacks to much more data than it holds; `torch.save` compresses nothing."""


def read_torch_file(path: Path) -> Any:
    """Read the content of a file of `torch.save`; run nothing that the file names.

    Returns:
        Plain data, tensors on the CPU, `Name` and `Opaque`.

    Raises:
        ValueError: the file has another format. A damaged file also raises other errors.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive)
    with path.open("rb") as file:
        return _read_old(file, path.stat().st_size)


def require_cheap(path: Path) -> None:
    """Refuse a file of `torch.save` on which torch's own reader would hang or fill the memory; no tensor is read.

    Raises:
        ValueError: a key of a dict takes too long to hash, or the file unpacks to much more data than it holds.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(member.file_size for member in archive.infolist())
                if size > _MAX_EXPANSION * path.stat().st_size + _FREE_BYTES:
                    raise CostlyFileError("it unpacks to much more data than it holds")
                main = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
                with archive.open(main) as file:
                    read_pickle(file, lambda _: None)
        else:
            with path.open("rb") as file:
                for _ in range(_OLD_PICKLES):
                    read_pickle(file, lambda _: None)
    except (CostlyPickleError, CostlyFileError):
        raise
    # Torch's reader and `read_torch_file` report all other faults.
    except Exception:
        return


def _read_zip(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    main = next((name for name in names if name.rpartition("/")[2] == "data.pkl"), None)
    if main is None:
        raise ValueError("torch.save did not write it")
    folder = main[: -len("data.pkl")]
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("a machine with another byte order wrote it")
    storages: dict[str, Tensor | Opaque] = {}

    def storage(identity: Any) -> Any:
        kind, key, _ = _storage_id(identity)
        if key not in storages:
            member = archive.getinfo(f"{folder}data/{key}")
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its tensors are compressed")
            storages[key] = _storage(kind, archive.read(member))
        return storages[key]

    with archive.open(main) as file:
        return read_pickle(file, storage, _TORCH_HANDLERS)


def _read_old(file: IO[bytes], size: int) -> Any:
    """Read the format before PyTorch 1.6: pickles one after another, then the storages."""

    def refuse(identity: Any) -> Any:
        raise ValueError("a storage outside the content")

    if read_pickle(file, refuse) != _MAGIC or read_pickle(file, refuse) != _PROTOCOL:
        raise ValueError("torch.save did not write it")
    read_pickle(file, refuse)
    storages: dict[str, Tensor] = {}
    remaining = size

    def storage(identity: Any) -> Any:
        nonlocal remaining
        if isinstance(identity, tuple) and identity[:1] == ("module",):
            # A class together with its source code.
            return identity[1]
        kind, key, count = _storage_id(identity)
        dtype = _DTYPES.get(kind)
        if dtype is None:
            return Opaque(kind)
        if key not in storages:
            remaining -= count * dtype.itemsize
            if count < 0 or remaining < 0:
                raise ValueError("a storage is larger than the file")
            storages[key] = torch.zeros(count, dtype=dtype)
        view = identity[5] if len(identity) > 5 else None
        return storages[key] if view is None else storages[key][view[1] : view[1] + view[2]]

    content = read_pickle(file, storage, _TORCH_HANDLERS)
    for key in read_pickle(file, refuse):
        (count,) = struct.unpack("<q", file.read(8))
        target = storages[key]
        data = file.read(target.numel() * target.element_size())
        if count != target.numel() or len(data) != target.numel() * target.element_size():
            raise ValueError("the file ends within a tensor")
        if count:
            target.copy_(torch.frombuffer(bytearray(data), dtype=target.dtype))
    return content


def _storage_id(identity: Any) -> tuple[str, str, int]:
    """Return the type, key and number of elements of a storage."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise ValueError("a persistent id that is no storage")
    kind, key, count = identity[1], identity[2], identity[4]
    if not isinstance(kind, Name) or not isinstance(key, str) or type(count) is not int:
        raise ValueError("a persistent id that is no storage")
    return kind.name, key, count


def _storage(kind: str, data: bytes) -> Tensor | Opaque:
    dtype = _DTYPES.get(kind)
    if dtype is None:
        return Opaque(kind)
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor | Opaque:
    """Return the tensor of `torch._utils._rebuild_tensor_v2`; `as_strided` checks that the storage contains it."""
    if not isinstance(storage, Tensor):
        return Opaque(storage.kind if isinstance(storage, Opaque) else "storage")
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _typed_tensor(storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
    kind = getattr(torch, dtype.name, None) if isinstance(dtype, Name) and dtype.module == "torch" else None
    if not isinstance(storage, Tensor) or not isinstance(kind, torch.dtype):
        return Opaque("torch._utils._rebuild_tensor_v3")
    return storage.view(kind).as_strided(tuple(size), tuple(stride), offset)


def _of_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """Return a tensor of a subclass as a plain tensor."""
    return call(function, tuple(arguments), _TENSORS)


def _first(data: Any = None, *_: Any) -> Any:
    return data


_TENSORS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
}
_TORCH_HANDLERS: Handlers = {
    **HANDLERS,
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.Size": lambda sizes=(): tuple(sizes),
}
