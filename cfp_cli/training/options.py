"""The options of a training run, and the named presets.

The fields of `TrainOptions` are the only list of these options: the command line builds its options from them. This
module imports nothing heavy, because `--help` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cfp_cli.data.choices import Augment, Sampling
from cfp_cli.foundation.errors import UsageError

Schedule = Literal["cosine", "linear", "constant"]
Optimizer = Literal["adam", "adamw", "sgd"]
Select = Literal["accuracy", "macro_f1", "loss"]
Amp = Literal["off", "auto", "bf16", "fp16"]
Preset = Literal["paper", "teacher", "student", "short"]

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "paper": {"epochs": 300, "batch_size": 128, "lr": 5e-5, "warmup": 0.0, "augment": "paper", "ema": 0.0},
    "teacher": {"epochs": 60, "batch_size": 64, "lr": 5e-4, "warmup": 0.0, "augment": "strong", "ema": 0.0},
    "student": {"epochs": 120, "batch_size": 64, "lr": 3e-4, "warmup": 1.0, "augment": "geometric", "ema": 0.99},
    "short": {
        "epochs": 40,
        "batch_size": 64,
        "lr": 1e-3,
        "warmup": 1.0,
        "augment": "geometric",
        "ema": 0.99,
        "views": 6,
        # The first candidate is the network before training, so a run that gains nothing ends after half its epochs.
        "patience": 20,
    },
}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of a training run. Runs with equal options, data and initial weights give equal weights.

    `epochs`, `batch_size`, `lr`, `warmup`, `augment` and `ema` have no default. `TrainOptions.preset(name, ...)` takes
    them from a preset: `teacher` (the default of `cfp train`), `student` (the default of `cfp finetune`), `short` (the
    fine-tuning of `cfp shrink`), or `paper` (the fine-tuning of Wang et al., IEEE TII 2023, doi
    10.1109/TII.2023.3288208).
    """

    epochs: int = field(metadata={"help": "Passes over the training images.", "minimum": 1, "maximum": 100_000})
    batch_size: int = field(
        metadata={"help": "Images per optimiser step, summed over all processes.", "minimum": 2, "maximum": 65_536},
    )
    lr: float = field(metadata={"help": "Learning rate at the start, or after the warm-up."})
    warmup: float = field(metadata={"help": "Epochs over which the learning rate rises from 0 to --lr; 0 is off."})
    min_lr: float = field(default=1e-6, metadata={"help": "Final learning rate of the cosine and linear schedules."})
    weight_decay: float = field(
        default=5e-4, metadata={"help": "Weight decay. For Adam it is an L2 term, as in the paper."}
    )
    schedule: Schedule = field(default="cosine", metadata={"help": "How the learning rate changes over the epochs."})
    optimizer: Optimizer = field(
        default="adam", metadata={"help": "Optimiser. Adam uses betas 0.9 and 0.999, SGD a momentum of 0.9."}
    )
    sampler: Sampling = field(
        default="instance",
        metadata={
            "help": "instance shuffles the images; balanced draws every class equally often; sqrt draws a class in "
            "proportion to the square root of its size."
        },
    )
    augment: Augment = field(
        metadata={
            "help": "Views of an image. none: the resized image; paper: flips and centre crops; geometric: flips, "
            "right-angle turns and random crops; strong: geometric with smaller crops, brightness and contrast."
        }
    )
    views: int = field(
        default=8,
        metadata={
            "help": "Views of each image; epochs use them in turn. paper always has 8, none has 1.",
            "minimum": 1,
            "maximum": 1_000,
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of all random choices.", "minimum": 0})
    ema: float = field(
        metadata={"help": "Decay of a moving average of the weights, which is evaluated and saved; 0 is off."}
    )
    patience: int = field(
        default=0,
        metadata={
            "help": "Stop after this many epochs without a better validation result; 0 is off.",
            "minimum": 0,
            "maximum": 100_000,
        },
    )
    clip_norm: float = field(default=0.0, metadata={"help": "Largest norm of the gradient; 0 is off."})
    select: Select = field(
        default="accuracy",
        metadata={
            "help": "Validation metric by which the kept epoch is chosen: of the epochs within one standard error of "
            "the best value, the latest, or with teachers the one with the smallest distillation loss. loss: the one "
            "with the smallest distillation loss of all."
        },
    )
    temperature: float = field(
        default=2.0, metadata={"help": "Temperature of the distillation loss.", "distillation": True}
    )
    label_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of class-balanced cross-entropy, which is added to the distillation loss.",
            "distillation": True,
        },
    )
    val_views: int = field(
        default=0,
        metadata={
            "help": "Views of each validation image on which its distillation loss is measured too.",
            "minimum": 0,
            "maximum": 1_000,
            "distillation": True,
        },
    )
    freeze_norm: bool = field(
        default=False,
        metadata={
            "help": "Keep the statistics of batch norm as they are before training. This suits a network that a refit "
            "has fitted to its original.",
            "distillation": True,
        },
    )
    amp: Amp = field(
        default="off",
        metadata={"help": "Autocast precision. auto is bf16 or fp16 on a GPU and float32 on a CPU."},
    )
    compile: bool = field(default=False, metadata={"help": "Use torch.compile."})

    @classmethod
    def preset(cls, name: Preset, **changes: Any) -> TrainOptions:
        """The options of a preset; `changes` replace single values.

        Raises:
            UsageError: the preset is unknown, or a value is not allowed.
        """
        if name not in PRESETS:
            raise UsageError(f"unknown preset '{name}'; use one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            UsageError: a value is not allowed; the message names the option.
        """
        kinds = get_type_hints(type(self))
        for option in fields(self):
            value, kind = getattr(self, option.name), kinds[option.name]
            if get_origin(kind) is Literal:
                if value not in get_args(kind):
                    raise UsageError(f"{_flag(option)} is '{value}'; pass one of {', '.join(get_args(kind))}")
            elif kind is int:
                least, most = option.metadata["minimum"], option.metadata.get("maximum")
                if value < least:
                    raise UsageError(f"{_flag(option)} is {value}; pass {least} or more")
                if most is not None and value > most:
                    raise UsageError(f"{_flag(option)} is {value}; pass {most} or less")
            elif kind is float and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{_flag(option)} is {value}; pass a number that is not negative")
        if self.lr == 0:
            raise UsageError("--lr is 0; pass a number above 0")
        if self.temperature == 0:
            raise UsageError("--temperature is 0; pass a number above 0")
        if self.ema >= 1:
            raise UsageError(f"--ema is {self.ema}; pass a decay from 0 (off) to below 1, such as 0.999")

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of an optimiser step.

        With d = step / (epochs steps_per_epoch), cosine: min + (lr - min)(1 + cos(pi d)) / 2; linear:
        lr + (min - lr) d; constant: lr. During the warm-up this is multiplied by (step + 1) / (warmup steps_per_epoch).

        Args:
            step: index of the step, from 0 over all epochs.
            steps_per_epoch: the number of steps of an epoch.
        """
        done = step / (self.epochs * steps_per_epoch)
        rate = self.lr
        if self.schedule == "cosine":
            rate = self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2
        elif self.schedule == "linear":
            rate = self.lr + (self.min_lr - self.lr) * done
        warm_up_steps = self.warmup * steps_per_epoch
        return rate * min(1.0, (step + 1) / warm_up_steps) if warm_up_steps else rate

    def to_json(self) -> dict[str, Any]:
        """The options as plain data."""
        return asdict(self)


def _flag(option: Field[Any]) -> str:
    return "--" + option.name.replace("_", "-")
