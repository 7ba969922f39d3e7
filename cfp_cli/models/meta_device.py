"""Builds networks on the meta device, where tensors have shapes but no memory."""

from __future__ import annotations

import builtins
import importlib
import io
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch


@contextmanager
def on_meta_device() -> Generator[None]:
    """Make the tensors of a network on the meta device, but those of modules that are imported inside on the CPU.

    A factory may import modules when it is called. Tensors that they make when they are imported, such as attributes of
    a class, stay for all networks that are built later.

    What a factory prints is dropped, and so are warnings: PyTorch warns of each tensor if a factory loads weights,
    which these tensors cannot hold. The network is built again on a device with memory, and warnings appear then.
    """
    statement, function = builtins.__import__, importlib.import_module
    builtins.__import__, importlib.import_module = _on_cpu(statement), _on_cpu(function)
    try:
        with (
            torch.device("meta"),
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        builtins.__import__, importlib.import_module = statement, function


def _on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    outermost = True

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal outermost
        if not outermost:
            # Also an import by `torch.device` itself.
            return function(*args, **kwargs)
        outermost = False
        try:
            with torch.device("cpu"):
                return function(*args, **kwargs)
        finally:
            outermost = True

    return call
