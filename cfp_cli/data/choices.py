"""The names of samplers and augmentations. This module imports nothing heavy, because `--help` reads it."""

from __future__ import annotations

from typing import Literal

Sampling = Literal["instance", "balanced", "sqrt"]
Augment = Literal["none", "paper", "geometric", "strong"]
