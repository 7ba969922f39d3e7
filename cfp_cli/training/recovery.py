"""The short training between two steps of pruning: distillation from the original network alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cfp_cli.checkpoints.spec import describe, spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.scratch import scratch_folder
from cfp_cli.training.finetune import finetune
from cfp_cli.training.options import Amp, TrainOptions

LR = 1e-3


@dataclass(frozen=True)
class Recovery:
    """Trains a pruned network a little.

    Attributes:
        original: the teacher.
        dataset: the images.
        cache_folder: where the teacher's logits are kept from one recovery to the next.
        epochs: of each recovery.
        seed: of every random choice.
        device: where to compute.
        amp: autocast, as of the fine-tuning that follows.
        progress: told of what takes long.
    """

    original: nn.Module
    dataset: Dataset
    cache_folder: Path
    epochs: int
    seed: int
    device: torch.device
    amp: Amp = "off"
    progress: Progress = SILENT

    def recover(self, pruned: nn.Module) -> nn.Module:
        """Train `pruned` in place towards the original's logits and give it back.

        Raises:
            TrainingError: training cannot go on.
        """
        options = TrainOptions(
            epochs=self.epochs, batch_size=64, lr=LR, augment="geometric", seed=self.seed, amp=self.amp
        )
        describe(pruned, spec_of(self.original))
        with scratch_folder() as folder:
            out, last = folder / "best.pt", folder / "last.pt"
            finetune(
                pruned,
                self.dataset,
                [self.original],
                options,
                out=out,
                last=last,
                cache_folder=self.cache_folder,
                device=self.device,
                progress=self.progress,
            )
        return pruned
