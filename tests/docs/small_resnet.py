"""A residual network with the module names of torchvision, a hundredth of the size."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

WIDTHS = (16, 16, 32, 48)


class SmallResNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        channels = WIDTHS[0]
        for number, width in enumerate(WIDTHS, start=1):
            stride = 1 if number == 1 else 2
            shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            self.add_module(f"layer{number}", nn.Sequential(BasicBlock(channels, width, stride, shortcut)))
            channels = width
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(x.mean((2, 3)))


def small_resnet(*, weights: None = None, num_classes: int = 1000) -> nn.Module:
    return SmallResNet(num_classes)


# torchvision lists only its own factories.
small_resnet.__module__ = ResNet.__module__
