"""State dicts together with the module versions that `Module.load_state_dict` reads.

`Module.state_dict` stores the versions as attribute `_metadata` of the dict, which most copies of the dict lose. Some
modules convert old tensors when they are loaded, and read there which version wrote them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

Versions = Mapping[str, Mapping[str, Any]]


def module_versions(state: Mapping[str, Tensor]) -> Versions:
    """Return the versions by module name; empty where the state dict has none."""
    metadata = getattr(state, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return {}
    return {name: entry for name, entry in metadata.items() if isinstance(name, str) and isinstance(entry, Mapping)}


def with_versions(state: Mapping[str, Tensor], versions: Versions) -> OrderedDict[str, Tensor]:
    """Return a copy of a state dict that has these versions; the tensors are shared."""
    copy = OrderedDict(state)
    copy._metadata = dict(versions)  # type: ignore[attr-defined]
    return copy


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load tensors by name. A module without a version in `state` is loaded as one of its present version.

    Args:
        model: a network; changed in place.
        state: tensors by name.
        strict: whether `state` must contain all tensors of the network and no others.

    Raises:
        RuntimeError: a tensor has the wrong shape, or `strict` is set and a tensor is missing or unknown.
    """
    versions = {**module_versions(model.state_dict()), **module_versions(state)}
    model.load_state_dict(with_versions(state, versions), strict=strict)
