"""The names of samplers, augmentations and data set layouts. Nothing heavy is imported, because `--help` reads it."""

from __future__ import annotations

from typing import Literal

Sampling = Literal["instance", "balanced", "sqrt"]
Augment = Literal["none", "paper", "geometric", "strong"]
Layout = Literal["neu", "gc10", "x-sdd", "elpv"]
