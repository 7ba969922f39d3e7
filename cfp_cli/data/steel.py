"""Procedural images of rolled steel without defects: texture, lighting and camera sensor.

Grey values are float32 [S, S], about 0 (black) to 1 (white). Lengths are in units of S/64 pixels, so that a larger
image shows the same surface at a higher resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Grey = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Canvas:
    """The size, rolling direction and random generator of one image.

    Attributes:
        size: S, height and width in pixels.
        rolled: axis of [S, S] along which the strip was rolled.
        generator: random generator.
    """

    size: int
    rolled: int
    generator: np.random.Generator

    @property
    def unit(self) -> float:
        """Return the number of pixels of one unit of length."""
        return self.size / 64

    def between(self, low: float, high: float) -> float:
        """Return a random number from `low` to `high`."""
        return float(self.generator.uniform(low, high))

    def sign(self, bright: float) -> float:
        """Return +1 with probability `bright`, else -1."""
        return 1.0 if self.generator.random() < bright else -1.0

    def field(self, length: float, stretch: float = 1.0) -> Grey:
        """Return smooth noise of mean 0 and standard deviation 1, float32 [S, S].

        Args:
            length: correlation length in units.
            stretch: factor on the correlation length along the rolling direction.
        """
        sigma = [length * self.unit] * 2
        sigma[self.rolled] *= stretch
        noise = self.generator.standard_normal((self.size, self.size), dtype=np.float32)
        smooth = ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=3.0)
        return np.asarray((smooth - smooth.mean()) / (smooth.std() + 1e-9), np.float32)

    def axes(self, angle: float, row: float, column: float) -> tuple[Grey, Grey]:
        """Return the coordinates along and across a direction, in units, each float32 [S, S].

        Args:
            angle: angle between the direction and the rows of the image, in radians.
            row: row of the origin, in units.
            column: column of the origin, in units.
        """
        ticks = np.arange(self.size, dtype=np.float32) / self.unit
        rows, columns = ticks[:, None] - row, ticks[None, :] - column
        along = columns * np.cos(angle) + rows * np.sin(angle)
        across = rows * np.cos(angle) - columns * np.sin(angle)
        return along.astype(np.float32), across.astype(np.float32)

    @property
    def rolling_angle(self) -> float:
        """Return the angle between the rolling direction and the rows of the image, in radians."""
        return 0.0 if self.rolled == 1 else np.pi / 2


def surface(canvas: Canvas) -> Grey:
    """Draw steel without a defect: grey level, uneven light, rolling texture, roll marks, grain and specks of dust."""
    along, across = canvas.axes(canvas.between(0, 2 * np.pi), 32, 32)
    image = (
        canvas.between(0.35, 0.65)
        + along * (canvas.between(0, 0.22) / 64)
        + across**2 * (canvas.between(-0.12, 0.12) / 1024)
    )
    image = image + canvas.between(0.015, 0.05) * canvas.field(0.7, stretch=canvas.between(3, 10))
    image += canvas.between(0.0, 0.03) * canvas.field(canvas.between(3, 8))
    marks = ndimage.gaussian_filter1d(
        canvas.generator.standard_normal(canvas.size), canvas.between(0.6, 2.0) * canvas.unit, mode="wrap"
    )
    marks *= canvas.between(0.0, 0.03) / (marks.std() + 1e-9)
    image += marks[:, None] if canvas.rolled == 1 else marks[None, :]
    dust = np.zeros((canvas.size, canvas.size), np.float32)
    for _ in range(canvas.generator.integers(0, 5)):
        row, column = canvas.generator.integers(0, canvas.size, 2)
        dust[row, column] = canvas.sign(0.4) * canvas.between(0.05, 0.25)
    radius = 0.6 * canvas.unit
    image += ndimage.gaussian_filter(dust, radius, mode="constant") * (2 * np.pi * radius**2)
    return np.asarray(image, np.float32)


def photograph(canvas: Canvas, image: Grey) -> npt.NDArray[np.uint8]:
    """Apply the camera to a surface: blur, gain, offset and noise. Returns uint8 [S, S]."""
    blurred = ndimage.gaussian_filter(image, canvas.between(0.25, 0.55) * canvas.unit)
    mean = float(blurred.mean())
    exposed = (blurred - mean) * canvas.between(0.75, 1.3) + mean + canvas.between(-0.12, 0.12)
    noise = canvas.generator.standard_normal(image.shape, dtype=np.float32) * canvas.between(0.008, 0.025)
    pixels: npt.NDArray[np.uint8] = np.clip((exposed + noise) * 255 + 0.5, 0, 255).astype(np.uint8)
    return pixels
