"""The hash that a cfp checkpoint stores of its own content, so that damage is detected when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cfp_cli.foundation.content_hash import KEY, Array, hash_content
from cfp_cli.models.state_dict import module_versions


def content_hash(facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all data of a checkpoint except the hash itself, in hex.

    Args:
        facts: everything but the tensors, as plain data.
        state: tensors by name, with their module versions where the file stores these.
    """
    plain = {name: value for name, value in facts.items() if name != KEY}
    return hash_content([plain, module_versions(state)], (tensor_array(name, state[name]) for name in sorted(state)))


def tensor_array(name: str, tensor: Tensor) -> Array:
    """Return a tensor in the form that `hash_content` reads."""
    values = tensor.detach().cpu().contiguous()
    return Array(name, str(values.dtype), tuple(values.shape), values.flatten().view(torch.uint8).numpy().data)
