"""Write a network as a checkpoint of the format `cfp/1`: plain data that loads without unpickling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.content_hash import content_hash
from cfp_cli.checkpoints.spec import FORMAT, ModelSpec, spec_of
from cfp_cli.foundation.content_hash import KEY
from cfp_cli.foundation.files import write_atomic
from cfp_cli.models.state_dict import module_versions, with_versions


def save(path: str | Path, model: nn.Module, spec: ModelSpec | None = None) -> None:
    """Write a network and its spec atomically. A name that ends in `.safetensors` selects that format.

    Subnormal weights are written as zero: they do not change the output visibly but make CPUs several times slower.

    Raises:
        CheckpointError: the network has no spec and `spec` is None.
    """
    path = Path(path)
    spec = spec or spec_of(model)
    original = model.state_dict()
    state: dict[str, Tensor] = {name: without_subnormals(tensor) for name, tensor in original.items()}
    facts = {"format": FORMAT, **spec.to_json()}
    if path.suffix == ".safetensors":
        facts[KEY] = content_hash(facts, state)
        content = safetensors.torch.save(state, {"cfp": json.dumps(facts)})

        def write(file: BinaryIO) -> None:
            file.write(content)
    else:
        state = with_versions(state, module_versions(original))
        facts[KEY] = content_hash(facts, state)

        def write(file: BinaryIO) -> None:
            torch.save({**facts, "state_dict": state}, file)

    write_atomic(path, write)


def without_subnormals(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU as `save` writes it: subnormal numbers and -0 become 0."""
    value = tensor.detach().cpu().contiguous()
    if not value.is_floating_point():
        # Safetensors refuses tensors that share memory, such as the counter of a batch norm used twice.
        return value.clone()
    return torch.where(value.abs() < torch.finfo(value.dtype).tiny, torch.zeros_like(value), value)
