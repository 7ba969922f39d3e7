"""The names of samplers, augmentations and data set layouts. Nothing heavy is imported, because `--help` reads it."""

from __future__ import annotations

from typing import Literal

Sampling = Literal["instance", "balanced", "sqrt"]
Augment = Literal["none", "paper", "geometric", "strong"]
# Number of bits of white in images of more than 8 bits; 1 for numbers from 0 to 1.
BitDepth = Literal[1, 8, 10, 12, 14, 16, 32]
Layout = Literal["neu", "gc10", "x-sdd", "elpv"]
