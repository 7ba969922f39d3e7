"""Checks a training state against the state that the run itself would write, before any of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cfp_cli.foundation.errors import TrainingError
from cfp_cli.foundation.typed_json import FieldError, quoted
from cfp_cli.training.history import EpochRow
from cfp_cli.training.state import ADVICE

# The learning rate is set anew before each step. The state of the optimiser is empty before the first step.
_FREE = ("rows", "optimizer/state", "optimizer/param_groups/0/lr")
# `read_state` checks these.
_HEADER = ("format", "identity")


def check_state(path: Path, state: Mapping[str, Any], own: Mapping[str, Any], parameters: list[Tensor]) -> None:
    """Check that a state has the names, types and shapes of the run's own state, and finite numbers.

    Args:
        path: the file, for messages.
        state: the state that it contains.
        own: the state that the run would write now.
        parameters: the parameters that the optimiser changes, in its order.

    Raises:
        TrainingError: a field is missing, unknown or wrong; the message names it.
    """
    try:
        _check(state, own, "")
        rows = state["rows"]
        if not isinstance(rows, list):
            raise FieldError(f"rows is {quoted(rows)}, not a list")
        for index, row in enumerate(rows):
            if EpochRow.from_json(row, f"rows[{index}]").epoch != index:
                raise FieldError(f"rows[{index}].epoch is not {index}")
        if state["epoch"] != len(rows):
            raise FieldError(f"epoch is {state['epoch']}, but there are {len(rows)} rows")
        if state["step"] < 0 or state["images"] < 0 or state["seconds"] < 0:
            raise FieldError("step, images or seconds is negative")
        if not -1 <= state["best_epoch"] <= len(rows) or not -1 <= state["better_epoch"] <= len(rows):
            raise FieldError(f"best_epoch or better_epoch is not from -1 to {len(rows)}")
        _check_optimizer(state["optimizer"]["state"], parameters)
    except FieldError as error:
        raise TrainingError(f"{path}: {error}; {ADVICE}") from error


def _check(value: Any, own: Any, name: str) -> None:
    if name in _FREE:
        return
    if isinstance(own, Tensor):
        _check_tensor(value, own.shape, own.dtype, name)
    elif isinstance(own, Mapping):
        if not isinstance(value, Mapping):
            raise FieldError(f"{name} is {quoted(value)}, not an object")
        for each in (*own, *value):
            inner = f"{name}/{each}" if name else str(each)
            if each not in value:
                raise FieldError(f"{inner} is missing")
            if each not in own and inner not in _HEADER:
                raise FieldError(f"{inner[:80]!a} is unknown")
        for each, expected in own.items():
            _check(value.get(each), expected, f"{name}/{each}" if name else str(each))
    elif isinstance(own, list):
        if not isinstance(value, list) or len(value) != len(own):
            raise FieldError(f"{name} is {quoted(value)}, not a list of {len(own)}")
        for index, expected in enumerate(own):
            _check(value[index], expected, f"{name}/{index}")
    elif type(value) is not type(own):
        raise FieldError(f"{name} is {quoted(value)}, not {type(own).__name__}")
    elif isinstance(own, float) and value - value != 0:
        raise FieldError(f"{name} is {value}, not a finite number")
    # The other options of the optimiser follow from those of the run.
    elif name.startswith("optimizer/param_groups/") and value != own:
        raise FieldError(f"{name} is {quoted(value)}, not {quoted(own)}")


def _check_optimizer(state: Any, parameters: list[Tensor]) -> None:
    name = "optimizer/state"
    if not isinstance(state, Mapping):
        raise FieldError(f"{name} is {quoted(state)}, not an object")
    for index, values in state.items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(values, Mapping):
            raise FieldError(f"{name}/{quoted(index)} is not the state of one of {len(parameters)} parameters")
        names = set(values)
        if names not in ({"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}):
            raise FieldError(f"{name}/{index} holds {quoted(sorted(map(str, names)))}, not the state of an optimiser")
        for each, value in values.items():
            shape = torch.Size() if each == "step" else parameters[index].shape
            dtype = torch.float32 if each == "step" else parameters[index].dtype
            _check_tensor(value, shape, dtype, f"{name}/{index}/{each}")


def _check_tensor(value: Any, shape: torch.Size, dtype: torch.dtype, name: str) -> None:
    if not isinstance(value, Tensor):
        raise FieldError(f"{name} is {quoted(value)}, not a tensor")
    if value.shape != shape or value.dtype != dtype:
        raise FieldError(f"{name} is {value.dtype} {list(value.shape)}, not {dtype} {list(shape)}")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise FieldError(f"{name} holds NaN or infinity")
