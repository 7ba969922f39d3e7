"""Generated images of steel. Without images of the user, a file is compared with its checkpoint on them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.data.synthetic import CLASSES, SIZES, render
from cfp_cli.data.transforms import Preprocessing, channels_first, resized

_PER_CLASS = 8


def procedural_images(spec: ModelSpec) -> Tensor:
    """Return eight images of each kind of defect, float32 [48, 3, H, W], preprocessed for the network."""
    side = min(max(*spec.input_size, SIZES[0]), SIZES[1])
    pixels = [
        channels_first(resized(Image.fromarray(render(label, side, (0, index))).convert("RGB"), spec.input_size))
        for label in CLASSES
        for index in range(_PER_CLASS)
    ]
    return Preprocessing.of(spec).normalise(torch.from_numpy(np.stack(pixels)))
