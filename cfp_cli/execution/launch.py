"""Which of several processes this one is, as torchrun says in the environment; needs no torch."""

from __future__ import annotations

import os

from cfp_cli.foundation.errors import UsageError

_ADVICE = "start several processes with torchrun, or unset RANK and WORLD_SIZE"


def launched() -> bool:
    """Whether torchrun, or another launcher, started this process as one of several.

    Raises:
        UsageError: RANK or WORLD_SIZE is invalid; the message names the value.
    """
    return world_size() > 1 and "RANK" in os.environ


def world_size() -> int:
    """Return how many processes were started; 1 without a launcher.

    Raises:
        UsageError: WORLD_SIZE is not a positive integer.
    """
    size = _number("WORLD_SIZE", 1)
    if size < 1:
        raise UsageError(f"WORLD_SIZE is {size}, not a positive integer; {_ADVICE}")
    return size


def rank() -> int:
    """Return which process this is; 0 without a launcher.

    Raises:
        UsageError: RANK is not an integer from 0 to WORLD_SIZE - 1.
    """
    if not launched():
        return 0
    number = _number("RANK", 0)
    if not 0 <= number < world_size():
        raise UsageError(f"RANK is {number}, not in 0 to {world_size() - 1}; {_ADVICE}")
    return number


def local_rank() -> int:
    """Return which of the processes on this machine this is; 0 without a launcher.

    Raises:
        UsageError: LOCAL_RANK is not an integer of at least 0.
    """
    number = _number("LOCAL_RANK", 0)
    if number < 0:
        raise UsageError(f"LOCAL_RANK is {number}, not an integer of at least 0; {_ADVICE}")
    return number


def _number(name: str, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{name} is '{text}', not an integer; {_ADVICE}") from error
