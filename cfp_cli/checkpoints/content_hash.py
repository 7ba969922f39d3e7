"""The hash that a cfp checkpoint stores of its own content, so that damage is detected when it is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cfp_cli.models.state_dict import module_versions

KEY = "content_sha256"


def content_hash(facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all data of a checkpoint except the hash itself, in hex.

    Args:
        facts: everything but the tensors, as plain data.
        state: tensors by name, with their module versions where the file stores these.
    """
    plain = {name: value for name, value in facts.items() if name != KEY}
    digest = hashlib.sha256(json.dumps([plain, module_versions(state)], sort_keys=True, default=str).encode())
    for name in sorted(state):
        values = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
