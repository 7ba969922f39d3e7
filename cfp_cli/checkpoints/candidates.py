"""Find the state dicts in a file of another tool: in the file itself, or nested in its entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from cfp_cli.checkpoints.pickle_data import Opaque
from cfp_cli.models.state_dict import module_versions, with_versions

# Optimisers nest one dict for each parameter. These are found last, so the limit leaves out none that is a network.
_MAX_DEPTH, _MAX_MAPPINGS = 6, 20_000


@dataclass(frozen=True)
class Candidate:
    """A dict of tensors in a file.

    Attributes:
        key: the entries of the file that lead to it; empty for the file itself.
        state: its tensors by name, with the module versions where the file stores them.
        module: its class, if it is not a dict but a pickled module.
        quantised: the name of a quantised tensor in it, or None.
    """

    key: tuple[str, ...]
    state: Mapping[str, Tensor]
    module: str | None = None
    quantised: str | None = None


def find_candidates(content: Any) -> list[Candidate]:
    """Return the dicts of tensors in a file, those nearest to its top first.

    Args:
        content: what the file contains: plain data, tensors, modules and `Opaque`.
    """
    found: list[Candidate] = []
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), content)]
    for _ in range(_MAX_DEPTH):
        deeper: list[tuple[tuple[str, ...], Any]] = []
        for key, node in level:
            if id(node) in seen or len(seen) >= _MAX_MAPPINGS:
                continue
            seen.add(id(node))
            candidate = _candidate(key, node)
            if candidate.state:
                found.append(candidate)
            if candidate.module is None:
                deeper += [((*key, name), each) for name, each in _entries(node).items() if _may_hold(each)]
        level = deeper
    return found


def holds_arrays(content: Any) -> bool:
    """Return whether a dict with a NumPy array is in a file, at its top or in one of its entries."""
    top = list(content) if isinstance(content, tuple | list) else [content]
    below = [value for node in top for value in _entries(node).values()]
    values = [*below, *(value for node in below for value in _entries(node).values())]
    return any(
        isinstance(value, np.ndarray) or (isinstance(value, Opaque) and value.kind.startswith("numpy"))
        for value in values
    )


def _may_hold(value: Any) -> bool:
    return isinstance(value, Mapping | Opaque | nn.Module)


def _entries(node: Any) -> dict[str, Any]:
    """Return the named entries of a dict or of the attributes of an object."""
    if isinstance(node, Opaque):
        attributes = node.state if isinstance(node.state, Mapping) else {}
        node = {**attributes, **node.items}
    if not isinstance(node, Mapping):
        return {}
    return {name: value for name, value in node.items() if isinstance(name, str)}


def _candidate(key: tuple[str, ...], node: Any) -> Candidate:
    """Return the tensors of a node by name."""
    if isinstance(node, nn.Module):
        entries: dict[str, Any] = node.state_dict()
        versions, module = module_versions(entries), f"{type(node).__module__}.{type(node).__qualname__}"
    elif _is_module(node):
        entries, versions, module = dict(_module_tensors(node, "", set())), {}, node.kind
    else:
        entries, versions, module = _entries(node), module_versions(node), None
    state = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    quantised = next((name for name, value in state.items() if value.is_quantized), None)
    packed = next((name for name in entries if name.endswith("._packed_params")), None)
    return Candidate(key, with_versions(state, versions), module, quantised or packed)


def _is_module(node: Any) -> bool:
    return (
        isinstance(node, Opaque)
        and isinstance(node.state, Mapping)
        and all(isinstance(node.state.get(name), Mapping) for name in ("_parameters", "_buffers", "_modules"))
    )


def _module_tensors(node: Opaque, prefix: str, above: set[int]) -> list[tuple[str, Tensor]]:
    """Return the state dict of a pickled module, as `Module.state_dict` names it."""
    if id(node) in above:
        return []
    found: list[tuple[str, Tensor]] = []
    hidden = node.state.get("_non_persistent_buffers_set")
    for group in ("_parameters", "_buffers"):
        for name, value in node.state[group].items():
            stored = group == "_parameters" or not isinstance(hidden, set | frozenset) or name not in hidden
            if isinstance(value, Tensor) and isinstance(name, str) and stored:
                found.append((f"{prefix}{name}", value))
    for name, child in node.state["_modules"].items():
        if _is_module(child) and isinstance(name, str):
            found += _module_tensors(child, f"{prefix}{name}.", above | {id(node)})
    return found
