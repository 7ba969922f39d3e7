"""Generated images of steel. Without images of the user, a file is compared with its checkpoint on them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.data.raster import Raster
from cfp_cli.data.synthetic import CLASSES, SIZES, render
from cfp_cli.data.transforms import Preprocessing

_PER_CLASS = 8


def procedural_images(spec: ModelSpec) -> Tensor:
    """Return eight images of each kind of defect, float32 [48, C, H, W], preprocessed for the network.

    All channels of an image are equal.
    """
    side = min(max(*spec.input_size, SIZES[0]), SIZES[1])
    pixels = [
        Raster((Image.fromarray(render(label, side, (0, index))),)).resized(spec.input_size).channels_first()
        for label in CLASSES
        for index in range(_PER_CLASS)
    ]
    pixels = [np.repeat(each, spec.channels, axis=0) for each in pixels]
    return Preprocessing.of(spec).normalise(torch.from_numpy(np.stack(pixels)))
