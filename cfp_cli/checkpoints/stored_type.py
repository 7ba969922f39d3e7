"""The type of the numbers in a model file, which decides its size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cfp_cli.checkpoints.read import read_contents

# A type with a smaller part of the bytes is not mentioned, such as the counters of batch norms.
_SMALL = 0.1


def stored_type(path: Path, *, unsafe_pickle: bool = False) -> str:
    """Return the type of the tensors of a model file, such as `float16`, or `float16 and float32` if it has both.

    Args:
        path: the file.
        unsafe_pickle: also read files that can run code.

    Raises:
        CheckpointError: the file cannot be read.
    """
    sizes: Counter[str] = Counter()
    for candidate in read_contents(path, unsafe_pickle=unsafe_pickle).candidates:
        for value in candidate.state.values():
            sizes[str(value.dtype).removeprefix("torch.")] += value.numel() * value.element_size()
    return " and ".join(name for name, size in sizes.most_common() if size >= _SMALL * sizes.total())
