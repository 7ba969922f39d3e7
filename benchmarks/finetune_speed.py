"""Seconds for an epoch of fine-tuning a heavily pruned student, by four methods in one run.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/finetune_speed.py DATA --threads 2 --out finetune_speed.json

DATA holds `train/CLASS/*`, such as the NEU-CLS steel images. For a 39x VGG-16 and a 59x ResNet-50 (uniform widths,
random weights: speed does not depend on them) at 64 and 128 pixels:

- student: cross-entropy on cached views without a teacher, the lower bound of an epoch;
- cached: two teachers whose logits are read from the teacher cache, as in `cfp finetune`;
- uncached: the same loop, with both teachers run on every batch;
- published: the loop of the authors' scripts. Pillow reads each batch, which is augmented again and passes through both
  full-size teachers (one of them in train mode) and the student, in torch's default memory layout.

Validation is not measured. The methods take turns and the fastest epoch of each counts, so that other load on the
machine favours none. `cpu_seconds` is the processor time of all threads, which such load hardly changes. Uncached and
published run on fewer images and are scaled to an epoch. Set OMP_WAIT_POLICY=PASSIVE: without it, waiting
threads keep the cores busy, and on a machine with other load an optimiser step takes many times longer.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from cfp_cli.data.dataset import Dataset, Item, open_dataset
from cfp_cli.data.samplers import Sampler
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.views import ViewStore
from cfp_cli.execution.processor import processor
from cfp_cli.foundation.files import write_json
from cfp_cli.models import resize
from cfp_cli.models.registry import create
from cfp_cli.training.loop import TrainingData, TrainingFiles, fit
from cfp_cli.training.loss import Batch, CrossEntropy, Distillation, Objective, kd, mix
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.teacher_cache import teacher_logits
from cfp_cli.training.training_images import TrainingImages

# Share of the channels that each layer keeps, for 39x and 59x fewer parameters.
STUDENTS = {"vgg16_bn_gap": ("39x VGG-16", 0.1596), "torchvision:resnet50": ("59x ResNet-50", 0.1285)}
OPTIONS = TrainOptions.preset("paper")
Seconds = tuple[float, float]


def main() -> None:
    """Measure, and write or print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=512, help="images of a measured epoch")
    parser.add_argument(
        "--slow-images", type=int, default=128, help="images of a measured epoch of uncached and published"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--archs", nargs="+", default=list(STUDENTS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dataset = open_dataset(arguments.data)
    results = [
        Bench(arch, size, dataset, arguments.images, arguments.slow_images).run(arguments.rounds)
        for arch in arguments.archs
        for size in arguments.sizes
    ]
    report = {
        "machine": machine(arguments.threads),
        "epoch_images": len(dataset.split("train")),
        "batch_size": OPTIONS.batch_size,
        "results": results,
    }
    if arguments.out:
        write_json(arguments.out, report)
    else:
        print(json.dumps(report, indent=2))


class Bench:
    """One student at one input size."""

    def __init__(self, arch: str, size: int, dataset: Dataset, count: int, slow_count: int) -> None:
        self.name, share = STUDENTS[arch]
        self.size, self.epoch_images, self.classes = size, len(dataset.split("train")), dataset.classes
        self.teachers = [create(arch, len(dataset.classes)).eval() for _ in range(2)]
        self.student = shrunk(arch, len(dataset.classes), share)
        items = dataset.split("train")
        chosen = [items[index] for index in np.random.default_rng(0).permutation(len(items))[:count]]
        self.slow_items = chosen[:slow_count]
        self.views, self.slow_views, self.few_views = (
            self._views(dataset, part) for part in (chosen, self.slow_items, chosen[:16])
        )

    def _views(self, dataset: Dataset, items: Sequence[Item]) -> ViewStore:
        part = replace(dataset, splits={"train": tuple(items)})
        return TrainingImages(part, OPTIONS).views(Preprocessing((self.size, self.size)))

    def run(self, rounds: int) -> dict[str, object]:
        """Measure all methods in turn."""
        # Speed does not depend on the values of the logits.
        tables = [
            np.random.default_rng(seed).normal(size=(len(self.views), self.views.views, len(self.classes))).astype("f4")
            for seed in range(2)
        ]
        cached = Distillation(tables, OPTIONS.epochs)
        methods: dict[str, Callable[[], Seconds]] = {
            "student": lambda: self.epoch(CrossEntropy(), self.views),
            "cached": lambda: self.epoch(cached, self.views),
            "uncached": lambda: self.epoch(Live(self.teachers, self.slow_views), self.slow_views),
            "published": self.published,
        }
        measured: dict[str, list[Seconds]] = {method: [] for method in methods}
        for turn in range(rounds):
            for method, measure in methods.items():
                if turn == 0 or method in ("student", "cached"):
                    measured[method].append(measure())
                    wall, cpu = measured[method][-1]
                    print(
                        f"{self.name} {self.size} px {method}: {wall * self.epoch_images:.2f} s an epoch, "
                        f"{cpu * self.epoch_images:.2f} s of processor",
                        file=sys.stderr,
                    )
        wall, cpu = (
            {method: min(pair[kind] for pair in pairs) * self.epoch_images for method, pairs in measured.items()}
            for kind in (0, 1)
        )
        return {
            "student": self.name,
            "pixels": self.size,
            "compression": round(parameters(self.teachers[0]) / parameters(self.student), 2),
            "seconds": {method: round(value, 3) for method, value in wall.items()},
            "cpu_seconds": {method: round(value, 3) for method, value in cpu.items()},
            "cached_over_student": round(wall["cached"] / wall["student"], 3),
            "cached_over_student_cpu": round(cpu["cached"] / cpu["student"], 3),
            "published_over_cached": round(wall["published"] / wall["cached"], 2),
            "published_over_cached_cpu": round(cpu["published"] / cpu["cached"], 2),
            "cache_seconds_per_teacher": round(self.cache_seconds(), 2),
        }

    def epoch(self, objective: Objective, views: ViewStore) -> Seconds:
        """Wall and processor seconds for an image in the second epoch of a run; the first epoch is warm-up."""
        model = copy.deepcopy(self.student)
        marks: list[Seconds] = []
        validation = [(torch.zeros(1, 3, self.size, self.size), torch.zeros(1, dtype=torch.int64))]
        data = TrainingData(views, views.labels, Sampler("instance", views.labels, 0), validation, self.classes)
        with tempfile.TemporaryDirectory() as folder:
            files = TrainingFiles(
                Path(folder) / "best.pt", Path(folder) / "last.pt", lambda path, network: None, every=1e9
            )
            fit(
                model,
                data,
                objective,
                replace(OPTIONS, epochs=2),
                files,
                listen=lambda rows: marks.append((time.perf_counter(), time.process_time())),
            )
        return (marks[1][0] - marks[0][0]) / len(views), (marks[1][1] - marks[0][1]) / len(views)

    def published(self) -> Seconds:
        """Wall and processor seconds for an image in the authors' loop."""
        augment = transforms.Compose(
            [
                transforms.RandomChoice([transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]),
                transforms.RandomChoice([transforms.CenterCrop(self.size), transforms.Resize((self.size, self.size))]),
                transforms.ToTensor(),
            ]
        )
        student = copy.deepcopy(self.student).train()
        first, second = copy.deepcopy(self.teachers[0]).eval(), copy.deepcopy(self.teachers[1]).train()
        optimizer = torch.optim.Adam(student.parameters(), OPTIONS.lr, weight_decay=OPTIONS.weight_decay)
        spent: list[Seconds] = []
        for _ in range(2):
            wall, cpu = time.perf_counter(), time.process_time()
            for start in range(0, len(self.slow_items), OPTIONS.batch_size):
                items = self.slow_items[start : start + OPTIONS.batch_size]
                images = torch.stack([augment(Image.open(item.path).convert("RGB")) for item in items])
                logits = student(images)
                with torch.no_grad():
                    targets = first(images), second(images)
                loss = 0.9 * kd(logits, targets[0], 2.0) + 0.1 * kd(logits, targets[1], 2.0)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            spent.append((time.perf_counter() - wall, time.process_time() - cpu))
        return min(pair[0] for pair in spent) / len(self.slow_items), min(pair[1] for pair in spent) / len(
            self.slow_items
        )

    def cache_seconds(self) -> float:
        """Wall seconds to cache one teacher for all views of an epoch, extrapolated from a few images."""
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            teacher_logits(self.teachers[0], self.few_views, len(self.classes), Path(folder))
            return (time.perf_counter() - began) / len(self.few_views) * self.epoch_images


class Live:
    """The distillation loss with both teachers run on each batch, in eval mode."""

    teachers = 2

    def __init__(self, networks: Sequence[nn.Module], views: ViewStore) -> None:
        self.networks = [copy.deepcopy(network).to(memory_format=torch.channels_last) for network in networks]
        self.views = views

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """See `Objective`."""
        images = self.views.get(batch.image_indices, batch.view_indices).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            targets = [network(images) for network in self.networks]
        first, second = (kd(logits, target, 2.0) for target in targets)
        share = mix(batch.epoch, OPTIONS.epochs)
        return torch.stack([share * first + (1 - share) * second, first.detach(), second.detach()])

    def mix(self, epoch: int) -> float:
        """See `Objective`."""
        return mix(epoch, OPTIONS.epochs)

    def validation_loss(self, logits: Tensor) -> None:
        """None: nothing is validated here."""
        return


def shrunk(arch: str, classes: int, share: float) -> nn.Module:
    """A network with `share` of the channels of each layer and new random weights."""
    model = create(arch, classes)
    kept = {3: 3, classes: classes}
    small_shapes = {
        name: tuple(
            kept.get(length, max(1, round(length * share))) if axis < 2 else length
            for axis, length in enumerate(value.shape)
        )
        for name, value in model.state_dict().items()
    }
    resize.resize_tensors(model, small_shapes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d):
            module.reset_parameters()
    return model


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(value.numel() for value in model.parameters())


def machine(threads: int) -> dict[str, object]:
    """Facts about the machine and the versions."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


if __name__ == "__main__":
    main()
