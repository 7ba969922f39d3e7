"""The names of the criteria that score channels. Command-line choices and type annotations derive from them."""

from __future__ import annotations

from typing import Literal, get_args

Similarity = Literal["norm", "ssim", "cosine"]
Richness = Literal["explained-variance", "rank", "effective-rank", "entropy", "nuclear"]

SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)
RICHNESSES: tuple[Richness, ...] = get_args(Richness)

DEFAULT_SIMILARITY: Similarity = "norm"
DEFAULT_RICHNESS: Richness = "explained-variance"
