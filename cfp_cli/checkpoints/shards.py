"""Read a network whose tensors are in several files, with an index that names the file of each tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cfp_cli.foundation.errors import CheckpointError


def is_index(path: Path) -> bool:
    """Return whether a file is an index, such as `model.safetensors.index.json`."""
    return path.name.endswith(".index.json")


def read_shards(index: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """Return the tensors of all files that an index names, by name.

    Args:
        index: a JSON file with the key `weight_map`: file names by name of tensor. The files are beside it.
        read: reads one file, as a dict of tensors or a dict with `state_dict`.

    Raises:
        CheckpointError: the index is damaged, or names files in other folders.
    """
    content = json.loads(index.read_text(encoding="utf-8"))
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{index} has no 'weight_map'; pass the index of a model in parts, or a model file")
    state: dict[str, Any] = {}
    for name in sorted({str(file) for file in files.values()}):
        if Path(name).name != name or is_index(Path(name)):
            raise CheckpointError(f"{index} names the file '{name[:80]}', which is not beside it; copy all parts there")
        part = read(index.parent / name)
        part = part.get("state_dict", part) if isinstance(part, Mapping) else {}
        state.update(part)
    missing = [name for name in files if name not in state]
    if missing:
        raise CheckpointError(f"the files of {index} lack '{missing[0]}'; copy all parts again")
    return {"state_dict": state}
