"""State dicts with the module versions that some modules ask for when they are loaded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

Versions = Mapping[str, Mapping[str, Any]]


def versions_of(state: Mapping[str, Tensor]) -> Versions:
    """What `Module.state_dict` noted about modules by their names; empty where it went lost, as in a plain dict."""
    found = getattr(state, "_metadata", None)
    if not isinstance(found, Mapping):
        return {}
    return {name: facts for name, facts in found.items() if isinstance(name, str) and isinstance(facts, Mapping)}


def with_versions(state: Mapping[str, Tensor], versions: Versions) -> OrderedDict[str, Tensor]:
    """The same tensors, with the versions where `Module.load_state_dict` looks for them."""
    made = OrderedDict(state)
    made._metadata = dict(versions)  # type: ignore[attr-defined]
    return made


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load tensors by name; where `state` knows no version of a module, they are taken to be of the module's own.

    Args:
        model: a network; changed in place.
        state: tensors by name.
        strict: whether `state` must hold all tensors of the network and no others.

    Raises:
        RuntimeError: a tensor does not fit, or is missing or unknown where that matters.
    """
    known = {**versions_of(model.state_dict()), **versions_of(state)}
    model.load_state_dict(with_versions(state, known), strict=strict)
