"""VGG-16 with batch norm, four max-pools and a small head.

Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), whose VGG-16 has no pool after its last convolution, a global
average pool, and a head of two linear layers with batch norm between them.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN = 512


class VGG16BNGAP(nn.Module):
    """VGG-16-BN with a global average pool after its last stage: 14,989,894 parameters at 6 classes.

    Input float32 [N, 3, H, W] with H and W at least 16; output logits float32 [N, classes].

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, widths in enumerate(WIDTHS):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(channels, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def vgg16_bn_gap(classes: int) -> nn.Module:
    """Build VGG-16-BN with a global average pool for `classes` classes."""
    return VGG16BNGAP(classes)
