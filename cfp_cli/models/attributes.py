"""Channel counts that modules of a network keep in attributes of their own, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from cfp_cli.foundation.errors import CheckpointError


def is_counts(value: Any) -> bool:
    """Whether a value is an integer, or a list or tuple of integers."""
    if isinstance(value, list | tuple):
        return bool(value) and all(type(each) is int for each in value)
    return type(value) is int


def is_foreign(module: nn.Module) -> bool:
    """Whether a module is not one of `torch.nn`."""
    return not type(module).__module__.startswith("torch.nn.")


def keeps_widths(module: nn.Module) -> bool:
    """Whether the shapes of a module's tensors do not contain all of its channel counts.

    An instance norm without tensors warns if its input has another number of channels.
    """
    if is_foreign(module):
        return True
    return isinstance(module, _NormBase) and not module.affine and not module.track_running_stats


def set_attributes(model: nn.Module, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Set channel counts in attributes of a network's modules, in place.

    Counts only become smaller, so that no file can make a network use more memory or time than the original.

    Args:
        model: the network.
        attributes: by module path and name, the new integers, or lists of as many integers as the module has there.

    Raises:
        CheckpointError: the network has no such module or attribute, or a value is of another kind or larger.
    """
    modules = dict(model.named_modules())
    for path, values in attributes.items():
        for name, value in values.items():
            old = vars(modules[path]).get(name) if path in modules and keeps_widths(modules[path]) else None
            where = f"{path}.{name}" if path else name
            if old is None or not is_counts(old):
                raise CheckpointError(
                    f"the network has no integer attribute '{where}'; pass the --arch with which it was saved"
                )
            if not is_counts(value) or isinstance(old, int) != isinstance(value, int):
                raise CheckpointError(f"attribute '{where}' is {value!r}, not like {old!r}; save the checkpoint again")
            if not isinstance(old, int) and len(value) != len(old):
                raise CheckpointError(
                    f"attribute '{where}' has {len(value)} values, not {len(old)}; save the checkpoint again"
                )
            if not all(map(_is_smaller, *((value, old) if isinstance(old, list | tuple) else ([value], [old])))):
                raise CheckpointError(
                    f"attribute '{where}' is {value!r}, but the network has {old!r}, and counts only become smaller; "
                    "prune the network again"
                )
            setattr(modules[path], name, type(old)(value))


def _is_smaller(new: int, old: int) -> bool:
    return new == old or 1 <= new < old
