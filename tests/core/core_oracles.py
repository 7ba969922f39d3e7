"""The definitions of the scores in NumPy and SciPy, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.stats import entropy as shannon

EPSILON = 2.0**-23


def singular_values(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Singular values in descending order of maps [..., H, W]."""
    return np.linalg.svd(maps.astype(np.float64), compute_uv=False)


def rank(maps: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number of singular values above the largest one times max(H, W) times 2^-23."""
    values = singular_values(maps)
    return (values > values[..., :1] * (max(maps.shape[-2:]) * EPSILON)).sum(axis=-1)


def margin(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Relative distance from the threshold of the singular value that is nearest to it, infinite for all zeros."""
    values = singular_values(maps)
    threshold = values[..., :1] * (max(maps.shape[-2:]) * EPSILON)
    with np.errstate(invalid="ignore", divide="ignore"):
        nearest = np.abs(values / threshold - 1).min(axis=-1)
    return np.where(threshold[..., 0] > 0, nearest, np.inf)


def norm_distance(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over images of |norm_i - norm_j| / H, condensed."""
    norms = np.sqrt((maps.astype(np.float64) ** 2).sum(axis=(2, 3)))
    return pdist(norms.T, "cityblock") / (len(maps) * maps.shape[2])


def _pair_mean(maps: NDArray[np.float32], distance) -> NDArray[np.float64]:
    wide = maps.astype(np.float64)
    first, second = np.triu_indices(maps.shape[1], 1)
    return np.mean([[distance(image, i, j) for i, j in zip(first, second, strict=True)] for image in wide], axis=0)


def cosine_distance(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over images of 1 - cosine, condensed; dead beside dead is 0, dead beside live 1."""

    def one(image: NDArray[np.float64], i: int, j: int) -> float:
        lengths = np.linalg.norm(image[i]), np.linalg.norm(image[j])
        if min(lengths) == 0:
            return float(max(lengths) > 0)
        return 1 - float((image[i] * image[j]).sum() / (lengths[0] * lengths[1]))

    return _pair_mean(maps, one)


def window_starts(side: int) -> list[int]:
    """Where windows of 8 pixels at stride 4 begin, the last flush with the border; one where the side is shorter."""
    if side <= 8:
        return [0]
    return sorted({*range(0, side - 7, 4), side - 8})


def ssim_distance(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over images of 1 - mean SSIM over windows, condensed."""

    def one(image: NDArray[np.float64], i: int, j: int) -> float:
        span = image.max() - image.min()
        if span == 0:
            return 0.0
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        found = []
        for row in window_starts(image.shape[1]):
            for column in window_starts(image.shape[2]):
                x = image[i, row : row + 8, column : column + 8].ravel()
                y = image[j, row : row + 8, column : column + 8].ravel()
                (vx, cov), (_, vy) = np.cov(x, y, bias=True) if x.size > 1 else np.zeros((2, 2))
                mx, my = x.mean(), y.mean()
                found.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
        return 1 - float(np.mean(found))

    return _pair_mean(maps, one)


def entropy(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over images of the entropy in bits of the 256-bin histogram over the range of all channels' values."""
    total = np.zeros(maps.shape[1])
    for image in maps.astype(np.float64):
        low, high = image.min(), image.max()
        if high > low:
            total += [shannon(np.histogram(map_, bins=256, range=(low, high))[0], base=2) for map_ in image]
    return total / len(maps)


def effective_rank(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over images of exp of the entropy of the singular values as shares of their sum; 0 for a dead map."""
    values = singular_values(maps)
    live = values.sum(axis=-1) > 0
    found = np.zeros(live.shape)
    found[live] = np.exp(shannon(values[live], axis=-1))
    return found.mean(axis=0)


def nuclear(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over images of the nuclear norm / (sqrt(min(H, W)) * Frobenius norm); 0 for a dead map."""
    wide = maps.astype(np.float64)
    above = np.linalg.norm(wide, "nuc", axis=(2, 3))
    below = np.sqrt(min(maps.shape[2:])) * np.linalg.norm(wide, "fro", axis=(2, 3))
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0).mean(axis=0)


def explained_variance(values: NDArray[np.float64], most: int | None = None) -> NDArray[np.float64]:
    """Of channels [samples, C], the share of variance that the channels chosen before each one leave unexplained.

    Each choice is by trying: the regression of all channels on those chosen and one more. Only the first `most` choices
    are made.
    """
    channels = values.shape[1]
    whole = values - values.mean(axis=0)
    shares, chosen = np.zeros(channels), []

    def left(columns: list[int]) -> float:
        basis = np.linalg.qr(whole[:, columns])[0]
        return float(np.square(whole - basis @ (basis.T @ whole)).sum())

    for _ in range(channels if most is None else most):
        others = [channel for channel in range(channels) if channel not in chosen]
        best = min(others, key=lambda channel: left([*chosen, channel]))
        share = left(chosen) / np.square(whole).sum()
        if share < 1e-6:
            break
        shares[best] = share
        chosen.append(best)
    return shares
