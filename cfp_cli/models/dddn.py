"""DDDN, a classifier of surface defects that is built from octave convolutions.

An octave convolution computes part of its channels at half resolution:
high-frequency output = conv(high) + upsampled conv(low), low-frequency output = conv(pooled high) + conv(low).
Source: Chen et al. 2019, "Drop an Octave" (arXiv 1904.05049); layer table as published with Wang et al. 2023 (doi
10.1109/TII.2023.3288208).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from cfp_cli.foundation.errors import DataError

# Output channels (high, low) of each octave stage, and which stages end in a max-pool.
OCTAVES = ((42, 6), (56, 8), (84, 12), (84, 12), (112, 16), (112, 16), (128, 0))
POOLED = (False, True, False, True, False, False, False)
STEM = 32
HIDDEN = 64
MULTIPLE = 16


def _convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)


class OctaveStage(nn.Module):
    """Octave convolution, batch norm, ReLU, and for some stages a 2x2 max-pool, on both frequencies.

    Input and output are (high [N, Ch, H, W], low [N, Cl, H/2, W/2] or None).

    Args:
        channels_in: input channels (high, low); 0 low channels mean that there is no low input.
        channels_out: output channels (high, low); 0 low channels mean that there is no low output.
        pooled: whether the stage ends in a max-pool.
    """

    def __init__(self, channels_in: tuple[int, int], channels_out: tuple[int, int], *, pooled: bool) -> None:
        super().__init__()
        self.low_to_low = _convolution(channels_in[1], channels_out[1]) if channels_in[1] and channels_out[1] else None
        self.low_to_high = _convolution(channels_in[1], channels_out[0]) if channels_in[1] else None
        self.high_to_low = _convolution(channels_in[0], channels_out[1]) if channels_out[1] else None
        self.high_to_high = _convolution(channels_in[0], channels_out[0])
        self.high_norm = nn.BatchNorm2d(channels_out[0])
        self.low_norm = nn.BatchNorm2d(channels_out[1]) if channels_out[1] else None
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2) if pooled else nn.Identity()

    def forward(self, high: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the high and low output maps."""
        high_sum = self.high_to_high(high)
        if self.low_to_high is not None:
            high_sum = high_sum + functional.interpolate(self.low_to_high(low), scale_factor=2.0, mode="nearest")
        low_sum = None
        if self.high_to_low is not None:
            low_sum = self.high_to_low(functional.avg_pool2d(high, 2))
            if self.low_to_low is not None:
                low_sum = low_sum + self.low_to_low(low)
        high_out = self.pool(self.relu(self.high_norm(high_sum)))
        if low_sum is None or self.low_norm is None:
            return high_out, None
        return high_out, self.pool(self.relu(self.low_norm(low_sum)))


class DDDN(nn.Module):
    """DDDN: 605,446 parameters at 6 classes.

    Input float32 [N, 3, H, W], H and W multiples of 16; output logits float32 [N, classes].

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(3, STEM),
            nn.BatchNorm2d(STEM),
            nn.ReLU(inplace=True),
            _convolution(STEM, STEM),
            nn.BatchNorm2d(STEM),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        inputs = ((STEM, 0), *OCTAVES[:-1])
        self.octaves = nn.ModuleList(
            OctaveStage(before, after, pooled=pooled)
            for before, after, pooled in zip(inputs, OCTAVES, POOLED, strict=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Linear(OCTAVES[-1][0], HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, classes] of images [N, 3, H, W].

        Raises:
            DataError: a side is not a multiple of 16, so the upsampled low maps would not match the high maps.
        """
        if x.shape[2] % MULTIPLE or x.shape[3] % MULTIPLE:
            raise DataError(
                f"dddn needs sides that are multiples of {MULTIPLE}, not {x.shape[2]} x {x.shape[3]}; "
                f"set --input-size {max(1, x.shape[2] // MULTIPLE) * MULTIPLE}"
            )
        high: Tensor = self.stem(x)
        low: Tensor | None = None
        for stage in self.octaves:
            high, low = stage(high, low)
        logits: Tensor = self.head(self.pool(high).flatten(1))
        return logits


def dddn(classes: int) -> nn.Module:
    """Build DDDN for `classes` classes."""
    return DDDN(classes)
