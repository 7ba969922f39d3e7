"""Find the head of an architecture: the tensors whose shape depends on the number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cfp_cli.models.registry import create


def head_tensors(arch: str, arch_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the head's tensors, in the order of the state dict. No memory is allocated for weights."""
    with torch.device("meta"):
        two, three = (create(arch, classes, **arch_kwargs).state_dict() for classes in (2, 3))
    return tuple(name for name, value in two.items() if value.shape != three[name].shape and value.dim() >= 1)
