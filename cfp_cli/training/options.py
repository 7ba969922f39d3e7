"""What the user may choose about a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from cfp_cli.foundation.errors import UsageError

Schedule = Literal["cosine", "linear", "constant"]
Optimizer = Literal["adam", "adamw", "sgd"]
Sampling = Literal["instance", "balanced", "sqrt"]
Augment = Literal["none", "paper", "geometric", "strong"]
Select = Literal["accuracy", "macro_f1"]
Amp = Literal["off", "auto", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The choices that decide the weights that come out; two runs with the same ones give the same weights.

    Attributes:
        epochs: passes over the training images, E.
        batch_size: images per optimiser step, over all processes together.
        lr: learning rate of the first epoch.
        min_lr: learning rate towards which `cosine` and `linear` fall.
        weight_decay: of the optimiser (for Adam an L2 term, as in the paper).
        schedule: how the learning rate falls from epoch to epoch.
        optimizer: `adam` (.9, .999), `adamw`, or `sgd` with momentum .9.
        sampler: `instance` shuffles; `balanced` draws each class equally often; `sqrt` by the root of its size.
        augment: which views of an image are made.
        views: how many views per image, V; epochs cycle through them.
        seed: every random choice is a function of (seed, epoch, step).
        ema: decay of a running mean of the weights that is then what is evaluated and kept; 0 for none.
        patience: epochs without a better validation figure after which training stops; 0 for never.
        clip_norm: largest norm of the gradient; 0 for no limit.
        select: validation figure by which the best epoch is chosen: the latest within one standard error of the best.
        temperature: T of the distillation loss.
        label_weight: weight of class-balanced cross-entropy beside distillation.
        amp: `bf16` or `fp16` autocast; `auto` takes what a GPU has and float32 on a CPU.
        compile: run the network through `torch.compile`.
    """

    epochs: int = 300
    batch_size: int = 128
    lr: float = 5e-5
    min_lr: float = 1e-6
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    optimizer: Optimizer = "adam"
    sampler: Sampling = "instance"
    augment: Augment = "paper"
    views: int = 8
    seed: int = 0
    ema: float = 0.0
    patience: int = 0
    clip_norm: float = 0.0
    select: Select = "accuracy"
    temperature: float = 2.0
    label_weight: float = 0.0
    amp: Amp = "off"
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot work, before any of it is tried.

        Raises:
            UsageError: a value is outside its range; the message names it.
        """
        for name, least in (("epochs", 1), ("batch_size", 2), ("views", 1), ("seed", 0), ("patience", 0)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"{_flag(name)} is {value}; pass {least} or more")
        for name in ("lr", "min_lr", "weight_decay", "clip_norm", "label_weight", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{_flag(name)} is {value}; pass a number that is not negative")
        for name in ("lr", "temperature"):
            if getattr(self, name) == 0:
                raise UsageError(f"{_flag(name)} is 0; pass a number above 0")
        if not 0 <= self.ema < 1:
            raise UsageError(f"--ema is {self.ema}; pass a decay from 0 (none) to below 1, such as 0.999")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(f"{_flag(name)} is '{value}'; pass one of {', '.join(choices)}")

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch (from 0).

        Cosine: min + (lr - min)(1 + cos(pi e / E)) / 2; linear: lr + (min - lr) e / E.
        """
        done = epoch / self.epochs
        if self.schedule == "cosine":
            return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "linear":
            return self.lr + (self.min_lr - self.lr) * done
        return self.lr

    def to_json(self) -> dict[str, Any]:
        """The options as plain data."""
        return asdict(self)


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "schedule": get_args(Schedule),
    "optimizer": get_args(Optimizer),
    "sampler": get_args(Sampling),
    "augment": get_args(Augment),
    "select": get_args(Select),
    "amp": get_args(Amp),
}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def teacher_options(**changes: Any) -> TrainOptions:
    """The options of a teacher from scratch: Adam at 5e-4, batches of 64, strong augmentation."""
    return TrainOptions(**{"epochs": 60, "batch_size": 64, "lr": 5e-4, "augment": "strong", **changes})
