"""Six kinds of surface defects of hot-rolled steel, drawn at random as a change of grey value, float32 [S, S].

The shapes follow the usual descriptions of the defects. Position, number, size, direction, strength and sometimes the
sign are random, so that no single pixel is enough to recognise the kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from cfp_cli.data.steel import Canvas, Grey


def scratches(canvas: Canvas) -> Grey:
    """Draw one to three thin, long, slightly curved lines of varying strength; most are bright."""
    paint = np.zeros((canvas.size, canvas.size), np.float32)
    direction, sign = canvas.between(0, np.pi), canvas.sign(0.7)
    for _ in range(canvas.generator.integers(1, 4)):
        along, across = canvas.axes(
            direction + canvas.between(-0.15, 0.15), canvas.between(12, 52), canvas.between(12, 52)
        )
        bent = across - canvas.between(-0.004, 0.004) * along**2
        half = canvas.between(13, 45)
        line = np.exp(-0.5 * (bent / canvas.between(0.45, 0.95)) ** 2) / (1 + np.exp((np.abs(along) - half) / 1.5))
        knots = np.linspace(-64, 64, 17)
        strength = np.interp(along, knots, canvas.generator.uniform(0.45, 1.15, len(knots)))
        paint += (line * strength * canvas.between(0.7, 1.0)).astype(np.float32)
    return np.minimum(paint, 1.2) * np.float32(sign * canvas.between(0.24, 0.46))


def inclusions(canvas: Canvas) -> Grey:
    """Draw one to three irregular slag inclusions, stretched along the rolling direction; most are dark."""
    paint = np.zeros((canvas.size, canvas.size), np.float32)
    for _ in range(canvas.generator.integers(1, 4)):
        angle = canvas.rolling_angle + canvas.between(-0.25, 0.25)
        along, across = canvas.axes(angle, canvas.between(10, 54), canvas.between(10, 54))
        width = canvas.between(1.6, 3.4)
        length = width * canvas.between(2.2, 5.0)
        inside = 1 - (along / length) ** 2 - (across / width) ** 2 + 0.55 * canvas.field(1.1)
        paint = np.maximum(paint, np.asarray(1 / (1 + np.exp(-4 * inside.clip(-8, 8))), np.float32))
    return paint * np.float32(canvas.sign(0.15) * canvas.between(0.21, 0.4))


def pits(canvas: Canvas) -> Grey:
    """Draw many small round holes with a faint bright rim, clustered in corroded areas."""
    density = np.exp(1.3 * canvas.field(canvas.between(6, 12))).ravel()
    count = int(canvas.generator.integers(14, 60))
    pixels = canvas.generator.choice(density.size, count, replace=False, p=density / density.sum(dtype=np.float64))
    paint = np.zeros((canvas.size, canvas.size), np.float32)
    # Drawing holes in three sizes needs only two blurs for each size.
    for part, radius in zip(np.array_split(pixels, 3), (0.75, 1.1, 1.6), strict=True):
        points = np.zeros(density.size, np.float32)
        points[part] = canvas.generator.uniform(0.5, 1.0, len(part))
        points = points.reshape(paint.shape)
        for scale, weight in ((1.0, -1.0), (1.9, 0.3)):
            sigma = radius * scale * canvas.unit
            paint += weight * ndimage.gaussian_filter(points, sigma, mode="constant") * np.float32(2 * np.pi * sigma**2)
    return np.maximum(paint, -1.2) * np.float32(canvas.between(0.22, 0.42))


def patches(canvas: Canvas) -> Grey:
    """Draw large areas of another brightness with a sharp, irregular edge."""
    shape = canvas.field(canvas.between(6, 10)) + 0.2 * canvas.field(1.5)
    edge = np.quantile(shape, 1 - canvas.between(0.15, 0.45))
    inside = np.asarray(1 / (1 + np.exp((-(shape - edge) * 14).clip(-30, 30))), np.float32)
    mottled = 1 + 0.12 * canvas.field(1.2)
    return inside * mottled * np.float32(canvas.sign(0.45) * canvas.between(0.15, 0.32))


def crazing(canvas: Canvas) -> Grey:
    """Draw a net of fine dark cracks of varying strength over the whole image."""
    net = np.zeros((canvas.size, canvas.size), np.float32)
    for _ in range(2):
        wave = canvas.field(canvas.between(2.0, 3.2), stretch=canvas.between(0.8, 1.6))
        # Cracks follow the zero crossings of smooth noise. Dividing by the slope makes all cracks equally wide.
        slopes = np.gradient(wave, 1 / canvas.unit)
        distance = np.abs(wave) / np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + 0.01)
        net = np.maximum(net, np.exp(-0.5 * (distance / 0.55) ** 2).astype(np.float32))
    present = 1 / (1 + np.exp(-2.5 * (canvas.field(8) + canvas.between(0.2, 1.2))))
    return np.asarray(-net * present, np.float32) * np.float32(canvas.between(0.17, 0.34))


def scale(canvas: Canvas) -> Grey:
    """Draw flakes of rolled-in scale over the whole image, short along the rolling direction; most are dark."""
    flakes = canvas.field(canvas.between(0.9, 1.4), stretch=canvas.between(1.3, 2.2))
    spread = 0.5 * canvas.field(canvas.between(7, 12))
    dark = 1 / (1 + np.exp(-5 * (flakes + spread - canvas.between(0.5, 0.9))))
    bright = 1 / (1 + np.exp(-5 * (-flakes + spread - 1.4)))
    return np.asarray(0.5 * bright - dark, np.float32) * np.float32(canvas.between(0.17, 0.34))


DEFECTS: dict[str, Callable[[Canvas], Grey]] = {
    "crazing": crazing,
    "inclusions": inclusions,
    "patches": patches,
    "pits": pits,
    "scale": scale,
    "scratches": scratches,
}
