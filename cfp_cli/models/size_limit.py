"""Stops the construction of a network that grows too large, such as by arguments that come from a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

from cfp_cli.foundation.errors import UsageError

# Numbers in all parameters and buffers together: 4 GiB of float32.
MAX_NUMBERS = 2**30
# Modules, parameters and buffers together.
MAX_PARTS = 2**15


@contextmanager
def size_limit(arch: str) -> Iterator[None]:
    """Count the modules, parameters and buffers that are registered inside the block.

    Raises:
        UsageError: there are more than `MAX_PARTS`, or they hold more than `MAX_NUMBERS` numbers.
    """
    parts, numbers = 0, 0

    def count(_module: nn.Module, _name: str, value: Any) -> None:
        nonlocal parts, numbers
        parts += 1
        if value is not None and not isinstance(value, nn.Module) and not nn.parameter.is_lazy(value):
            numbers += value.numel()
        if parts > MAX_PARTS or numbers > MAX_NUMBERS:
            raise UsageError(
                f"architecture '{arch}' has more than {MAX_PARTS:,} parts or {MAX_NUMBERS:,} numbers with these "
                "arguments; save the network again with the right ones"
            )

    with ExitStack() as stack:
        for register in (
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
            hooks.register_module_module_registration_hook,
        ):
            stack.callback(register(count).remove)
        yield
