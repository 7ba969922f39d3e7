"""Put the tensors of a file into a network, after a check of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.choose import is_counter, misfit
from cfp_cli.checkpoints.read import Contents
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.models.registry import auxiliary_prefixes
from cfp_cli.models.state_dict import load_state, module_versions, with_versions


def fill(
    contents: Contents, model: nn.Module, arch: str, tensors: Mapping[str, Tensor], lacking: Collection[str] = ()
) -> None:
    """Load tensors into a network that has just been built.

    Args:
        contents: the file, for messages.
        model: the network; changed in place.
        arch: the name of its architecture.
        tensors: tensors by name, with the module versions attached.
        lacking: names of the head's tensors if the file may lack the head. Other tensors in its module are ignored.

    Raises:
        CheckpointError: names or shapes differ, or a tensor contains NaN, infinity, a negative variance, or numbers of
            another kind.
    """
    require_finite(contents.path, tensors)
    expected: Mapping[str, Tensor] = model.state_dict()
    auxiliary = auxiliary_prefixes(arch)
    head = tuple({f"{name.rpartition('.')[0]}." for name in lacking})
    used = {name: value for name, value in tensors.items() if not name.startswith((*auxiliary, *head))}
    missing = [name for name in expected if not (name in used or name in lacking or is_counter(name))]
    if missing or any(name not in expected or value.shape != expected[name].shape for name, value in used.items()):
        raise misfit(contents, arch, shapes_of(used), shapes_of(expected))
    for name, value in used.items():
        _require_kind(contents.path, name, value, expected[name])
    load_state(model, with_versions(used, module_versions(tensors)), strict=False)
    _require_variances(contents.path, model)


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by name; entries that are no tensors are left out."""
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


def require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors with NaN or infinity.

    Raises:
        CheckpointError: there is one.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path} holds NaN or infinity in '{name}'; use a checkpoint without NaN")


def _require_variances(path: Path, model: nn.Module) -> None:
    """Refuse batch norms with a negative variance, whose output is NaN."""
    for name, module in model.named_modules():
        variance = getattr(module, "running_var", None)
        if isinstance(variance, Tensor) and bool((variance < 0).any()):
            full_name = f"{name}.running_var" if name else "running_var"
            raise CheckpointError(
                f"{path} holds a negative variance in '{full_name}'; use a checkpoint from before that"
            )


def _require_kind(path: Path, name: str, value: Tensor, expected: Tensor) -> None:
    """Refuse tensors whose numbers PyTorch would convert silently, such as integers as weights."""
    if _kind(value) == _kind(expected):
        return
    # Counters that a conversion of the whole state dict to half precision made floating-point are harmless.
    if value.is_floating_point() and _kind(expected) == "integer" and bool((value == value.round()).all()):
        return
    raise CheckpointError(
        f"{path} holds {str(value.dtype).removeprefix('torch.')} numbers in '{name}' where the network has "
        f"{str(expected.dtype).removeprefix('torch.')}; save its original weights"
    )


def _kind(value: Tensor) -> str:
    return "floating" if value.is_floating_point() else "bool" if value.dtype == torch.bool else "integer"
