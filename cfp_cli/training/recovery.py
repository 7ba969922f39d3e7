"""The short training between two rounds of pruning, by distillation from the original network."""

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


@dataclass(frozen=True)
class Recovery:
    """Trains a pruned network for a few epochs.

    Attributes:
        original: the original network, which is the teacher.
        dataset: the dataset.
        cache_folder: folder of the teacher's logits, which all recoveries share.
        epochs: number of epochs of each recovery.
        seed: seed of all random choices.
        device: the device of the computation.
        amp: autocast precision, the same as in the fine-tuning that follows.
        progress: reports progress.
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
        """Train `pruned` in place with the logits of the original as targets, and return it.

        Raises:
            TrainingError: the loss or a weight became NaN or infinite.
        """
        options = TrainOptions.preset("student", epochs=self.epochs, ema=0.0, seed=self.seed, amp=self.amp)
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
