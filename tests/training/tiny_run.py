"""A training run small enough to be killed many times: random images, a network with batch norm and dropout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cfp_cli.foundation.files import write_atomic
from cfp_cli.training.loop import TrainingData, TrainingFiles

CLASSES = ("crack", "hole", "stain")


class TensorViews:
    """Views in a tensor float32 [N, V, 3, H, W]."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.key = f"tensor-{float(pixels.double().sum())}"

    @property
    def views(self) -> int:
        return self.pixels.shape[1]

    def __len__(self) -> int:
        return len(self.pixels)

    def get(self, indices, views) -> Tensor:
        return self.pixels[torch.as_tensor(indices), torch.as_tensor(views)]


class Shuffle:
    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def epoch(self, number: int):
        return np.random.default_rng([self.seed, number]).permutation(self.count)


class Batches(list):
    """A loader."""


def network(seed: int = 0, *, dropout: float = 0.2, norm: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, stride=2, bias=not norm),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(8, len(CLASSES)),
        )


def images(count: int = 45, views: int = 3, size: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy images whose class is the index of the brightest channel: float32 [N, V, 3, H, W] and labels int64 [N]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    pixels = torch.rand(count, views, 3, size, size, generator=generator)
    pixels[torch.arange(count), :, labels] += 0.35
    return pixels, labels


def data(count: int = 45, views: int = 3) -> TrainingData:
    pixels, labels = images(count, views)
    test_pixels, test_labels = images(30, 1, seed=1)
    validation = Batches([(test_pixels[:16, 0], test_labels[:16]), (test_pixels[16:, 0], test_labels[16:])])
    return TrainingData(TensorViews(pixels), labels, Shuffle(count), validation, CLASSES)


def save(path: Path, model: nn.Module) -> None:
    write_atomic(path, lambda file: torch.save(model.state_dict(), file))


def files(folder: Path, every: float = 0.0) -> TrainingFiles:
    return TrainingFiles(folder / "best.pt", folder / "last.pt", save, folder / "history.csv", every=every)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(_bits(first[name]), _bits(second[name])) for name in first)


def _bits(value: Tensor) -> Tensor:
    return value.contiguous().flatten().view(torch.uint8)
