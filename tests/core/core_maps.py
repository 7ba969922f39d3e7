"""Maps of every kind that networks produce, and of degenerate kinds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]

SIZES = [
    (1, 1),
    (1, 7),
    (7, 1),
    (2, 2),
    (5, 3),
    (7, 7),
    (8, 8),
    (9, 14),
    (14, 14),
    (28, 28),
    (31, 33),
    (33, 40),
    (56, 56),
]


def relu(rng: np.random.Generator, count: int, height: int, width: int) -> Maps:
    """Smooth maps after a ReLU, rounded to 4 decimals as the paper does: some dead, some with dead rows and columns."""
    coarse = rng.standard_normal((count, -(-height // 4), -(-width // 4))).repeat(4, axis=1).repeat(4, axis=2)
    shift = rng.uniform(-2, 2, (count, 1, 1))
    maps = coarse[:, :height, :width] + 0.3 * rng.standard_normal((count, height, width)) + shift
    return np.maximum(maps, 0).round(4).astype(np.float32)


def low_rank(rng: np.random.Generator, count: int, height: int, width: int) -> Maps:
    """Products of thin float32 integer factors, exactly of the ranks 0, 1, 2, ... up to full and again."""
    most = min(height, width)
    maps = np.zeros((count, height, width), np.float32)
    for index in range(count):
        inner = index % (most + 1)
        left = rng.integers(-3, 4, (height, inner))
        maps[index] = left @ rng.integers(-3, 4, (inner, width))
    return maps


def graded(rng: np.random.Generator, count: int, height: int, width: int) -> Maps:
    """Singular values falling geometrically through the threshold, to different depths."""
    most = min(height, width)
    maps = np.zeros((count, height, width), np.float32)
    for index in range(count):
        left, _ = np.linalg.qr(rng.standard_normal((height, most)))
        right, _ = np.linalg.qr(rng.standard_normal((width, most)))
        maps[index] = (left * np.logspace(0, -2 - index % 7, most)) @ right.T
    return maps


def structured(rng: np.random.Generator, count: int, height: int, width: int) -> Maps:
    """Constant, one pixel, one row, one column, identity, a checkerboard, dead, minus zero, tiny and huge ones."""
    eye = np.eye(height, width)
    checks = np.add.outer(np.arange(height), np.arange(width)) % 2
    noise = rng.standard_normal((height, width))
    pixel, row, column = np.zeros((3, height, width))
    pixel[-1, -1] = row[height // 2] = column[:, width // 2] = 1
    kinds = [eye * 0, -0.0 * eye, eye, checks, noise, pixel, row, column, eye + 1e-3, noise * 1e30, noise * 1e-30]
    kinds += [np.full((height, width), 0.3), noise * 1e-41, np.sign(noise) * 3e38, np.tril(noise), noise + noise[::-1]]
    return np.stack([kinds[index % len(kinds)] for index in range(count)]).astype(np.float32)


def gaussian(rng: np.random.Generator, count: int, height: int, width: int) -> Maps:
    """Full rank."""
    return rng.standard_normal((count, height, width)).astype(np.float32)


KINDS = {"relu": relu, "low-rank": low_rank, "graded": graded, "structured": structured, "gaussian": gaussian}


def tap(seed: int, images: int, channels: int, height: int, width: int) -> Maps:
    """Maps [N, C, H, W] with dead channels, one that is dead on some images, one constant, and two that are equal."""
    rng = np.random.default_rng(seed)
    maps = relu(rng, images * channels, height, width).reshape(images, channels, height, width)
    if channels >= 5:
        maps[:, 0] = 0
        maps[::2, 1] = 0
        maps[:, 2] = 0.25
        maps[:, 4] = maps[:, 3]
    return maps
