"""Training of a teacher with cross-entropy."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cfp_cli.data.dataset import Dataset
from cfp_cli.data.decoding import DEFAULT_BUDGET
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener
from cfp_cli.training.loss import CrossEntropy
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.train_network import train_network


def train(
    model: nn.Module,
    dataset: Dataset,
    options: TrainOptions,
    out: Path,
    *,
    last: Path | None = None,
    history: Path | None = None,
    tensorboard: Path | None = None,
    resume: bool = False,
    keep_start: bool = False,
    device: torch.device | str = "cpu",
    cache_folder: Path | None = None,
    budget: int = DEFAULT_BUDGET,
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> tuple[nn.Module, History]:
    """Train a teacher, keep its best epoch on the validation split, and test it once.

    The paper (Wang et al., IEEE TII 2023, doi 10.1109/TII.2023.3288208) uses two teachers. Train the representation
    teacher with `sampler="instance"` and the class-balanced teacher with `sampler="balanced"`; the second may start
    from the weights of the first.

    Args:
        model: the network, with a spec; on return it has the weights of the best epoch and is in eval mode.
        dataset: a dataset with the splits `train` and `val`, and optionally `test`.
        options: the training options, such as `TrainOptions.preset("teacher")`.
        out: checkpoint of the best epoch.
        last: state file, from which an interrupted run resumes; by default `out` with the suffix `.last.pt`.
        history: CSV file with one line per epoch; by default `out` with the suffix `.history.csv`.
        tensorboard: folder of TensorBoard logs.
        resume: continue from `last` if it exists.
        keep_start: also choose from the network as it was before training. Use it for a network that works already.
        device: the device of the computation.
        cache_folder: folder for decoded images that exceed the budget.
        budget: largest number of bytes of decoded images in memory, for each split.
        progress: reports progress.
        listen: called with all rows after each epoch.

    Returns:
        The network, and the history with the metrics of the best epoch on `val` and `test`.

    Raises:
        CheckpointError: the network has no spec.
        DataError: the classes differ, a split is missing, or too many images are broken.
        TrainingError: the loss or a weight became NaN or infinite, or `last` belongs to another run.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the state was saved.
    """
    result = train_network(
        model,
        dataset,
        options,
        lambda _images, _device: CrossEntropy(),
        "train",
        keep_start=keep_start,
        teacher_hashes={},
        out=out,
        last=last or out.with_suffix(".last.pt"),
        history=history or out.with_suffix(".history.csv"),
        tensorboard=tensorboard,
        resume=resume,
        device=device,
        cache_folder=cache_folder,
        budget=budget,
        progress=progress,
        listen=listen,
    )
    return model, result
