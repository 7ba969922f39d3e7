"""The tensor shapes of an architecture, and its head: the tensors whose shape depends on the number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cfp_cli.models.meta_device import on_meta_device
from cfp_cli.models.registry import create
from cfp_cli.models.size_limit import size_limit

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shapes:
    """The tensors of an architecture, with two and with three classes.

    Attributes:
        two: shapes by name with two classes.
        three: shapes by name with three classes.
    """

    two: Mapping[str, Shape]
    three: Mapping[str, Shape]

    @cached_property
    def head(self) -> tuple[str, ...]:
        """Names of the head's tensors, in the order of the state dict."""
        return tuple(name for name, shape in self.two.items() if shape and shape != self.three.get(name))

    def fits(self, name: str, shape: Shape) -> bool:
        """Return whether a tensor has its shape for some number of classes."""
        two = self.two.get(name)
        if two is None or len(two) != len(shape):
            return False
        three = self.three.get(name, two)
        return all(a != b or a == size for a, b, size in zip(two, three, shape, strict=True))

    def class_count(self, state: Mapping[str, Shape]) -> int | None:
        """Read the number of classes from the shapes of the head in a file; None if it has no tensor of the head."""
        for name in reversed(self.head):
            shape, two, three = state.get(name, ()), self.two[name], self.three[name]
            if len(shape) != len(two) or len(two) != len(three):
                continue
            for size, with_two, with_three in zip(shape, two, three, strict=True):
                each = with_three - with_two
                # A head may have several rows for each class, and rows for no class.
                if each and (size - with_two) % each == 0 and (size - with_two) // each + 2 >= 1:
                    return (size - with_two) // each + 2
        return None


def tensor_shapes(arch: str, arch_kwargs: Mapping[str, Any]) -> Shapes:
    """Return the tensor shapes of an architecture. No memory is allocated for weights.

    Raises:
        UsageError: the architecture cannot be built, or is too large.
    """
    states = []
    for classes in (2, 3):
        with on_meta_device(), size_limit(arch):
            states.append(create(arch, classes, **arch_kwargs).state_dict())
    return Shapes(
        *({name: tuple(value.shape) for name, value in state.items() if hasattr(value, "shape")} for state in states)
    )


def head_tensors(arch: str, arch_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the head's tensors, in the order of the state dict. No memory is allocated for weights."""
    return tensor_shapes(arch, arch_kwargs).head
