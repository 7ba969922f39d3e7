"""Matrices, feature maps and photographs as PNG images that the page embeds as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import squareform

# From similar to different. The lightness rises with every colour, so that the order is visible in print and to
# colour-blind readers.
_RAMP = ((12, 34, 84), (33, 96, 170), (96, 160, 214), (176, 208, 232), (246, 248, 250))
_COLOURS = 64
_GREYS = 32


def distance_matrix(
    distance: NDArray[np.float32], order: NDArray[np.int64], side: int
) -> tuple[str, float, tuple[int, int]]:
    """Draw the square matrix of distances between channels.

    Args:
        distance: condensed distances, float32 [C(C-1)/2].
        order: order of the channels, int64 [C].
        side: largest width and height in pixels; larger matrices are averaged down.

    Returns:
        The image as a data URI; the distance of its lightest colour, the 99th percentile, so that one outlier does not
        darken everything else; and the width and height of the image.
    """
    square = squareform(distance)[np.ix_(order, order)].astype(np.float32) if len(order) > 1 else np.zeros((1, 1), "f4")
    top = float(np.percentile(distance, 99)) if distance.size else 0.0
    picture = Image.fromarray(square)
    if len(square) > side:
        picture = picture.resize((side, side), Image.Resampling.BOX)
    scaled = np.clip(np.asarray(picture) / top, 0, 1) if top > 0 else np.zeros_like(np.asarray(picture))
    indexed = Image.fromarray((scaled * (_COLOURS - 1)).round().astype(np.uint8))
    indexed.putpalette([channel for colour in ramp() for channel in colour])
    return _png(indexed), top, indexed.size


def ramp() -> list[tuple[int, int, int]]:
    """Return the colours of the matrix, from similar to different."""
    positions = np.linspace(0, len(_RAMP) - 1, _COLOURS)
    channels = [np.interp(positions, range(len(_RAMP)), [colour[i] for colour in _RAMP]).round() for i in range(3)]
    return [(int(r), int(g), int(b)) for r, g, b in zip(*channels, strict=True)]


def feature_map(values: NDArray[np.float32], side: int) -> str:
    """Draw one map [H, W] as a data URI, from black (smallest value) to white (largest); a constant map is black."""
    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    if max(picture.size) > side:
        scale = side / max(picture.size)
        width, height = (max(1, round(length * scale)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    pixels = np.asarray(picture)
    span = float(pixels.max() - pixels.min())
    levels = (pixels - pixels.min()) / span * (_GREYS - 1) if span > 0 else np.zeros_like(pixels)
    return _png(Image.fromarray((levels.round() * (255 / (_GREYS - 1))).round().astype(np.uint8)))


def photograph(pixels: NDArray[np.uint8], side: int = 192) -> str:
    """Draw an image, uint8 [3, H, W], as a data URI, at most `side` pixels wide and high; a grey image stays grey."""
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if (pixels[0] == pixels[1]).all() and (pixels[1] == pixels[2]).all():
        picture = picture.convert("L")
    picture.thumbnail((side, side))
    return _png(picture)


def _png(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
