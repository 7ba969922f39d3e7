"""The tensors that a network returns, in whatever structure. Only this module takes such structures apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree

LOGITS = "logits"


def all_tensors_of(output: Any) -> list[Tensor]:
    """Return all tensors of a network's output, in order.

    Args:
        output: a tensor, or tuples, lists, mappings, dataclasses and structures that are registered with PyTorch's
            pytree, such as the outputs of Hugging Face, nested in any way. None, numbers and text are skipped.
    """
    tensors: list[Tensor] = []
    for leaf in _pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
        else:
            tensors += [tensor for part in _parts(leaf) for tensor in all_tensors_of(part)]
    return tensors


def tensors_of(output: Any) -> list[Tensor]:
    """Return the tensors of a network's output whose values can be compared: floating-point and complex ones."""
    return [tensor for tensor in all_tensors_of(output) if is_compared(tensor)]


def is_compared(tensor: Tensor) -> bool:
    """Return whether trial and proof compare the values of an output. Integers may change with rounding, as argmax."""
    return tensor.is_floating_point() or tensor.is_complex()


def _parts(leaf: Any) -> list[Any]:
    """Return the parts of a structure that pytree does not know."""
    if isinstance(leaf, Mapping):
        return list(leaf.values())
    if isinstance(leaf, list | tuple):
        return list(leaf)
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return [getattr(leaf, each.name) for each in dataclasses.fields(leaf)]
    return []


def output_names(output: Any) -> list[str]:
    """Return a name for each tensor of a network's output, in order.

    These are `logits` for a single tensor [N, classes], `output` for another single tensor, the keys of a mapping of
    tensors, and otherwise `output_0`, `output_1`, ...
    """
    tensors = all_tensors_of(output)
    if len(tensors) == 1:
        return [LOGITS if tensors[0].dim() == 2 else "output"]
    if isinstance(output, Mapping) and all(isinstance(each, Tensor) for each in output.values()):
        return [str(name) for name in output]
    return [f"output_{index}" for index in range(len(tensors))]
