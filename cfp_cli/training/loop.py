"""The training loop of teachers and students.

Each optimiser step is a pure function of the state before it and of (seed, epoch, step). The loop saves the state
between steps at intervals, and when the run is interrupted. A killed run resumes from the saved state and ends with the
same weights, bit for bit, on the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfp_cli.execution import distributed, launch
from cfp_cli.foundation.errors import NotFiniteError, TrainingError
from cfp_cli.foundation.files import remove_leftovers, require_writable
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Loader, Metrics, compute_metrics
from cfp_cli.measuring.output_error import output_error
from cfp_cli.measuring.predictions import predict_logits
from cfp_cli.models.state_dict import load_state
from cfp_cli.training.batch_plan import BatchPlan, ImageSampler, ViewSource, step_seed
from cfp_cli.training.best_epoch import START, BestEpoch, Validation
from cfp_cli.training.history import EpochRow, History, TensorBoard, write_csv
from cfp_cli.training.interrupt import Interrupt, Stop
from cfp_cli.training.loss import Batch, Objective
from cfp_cli.training.norm_statistics import update_statistics
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.restart import mark_of
from cfp_cli.training.state import OtherRunError, finite, read_state, write_state
from cfp_cli.training.state_check import check_state
from cfp_cli.training.trainer import Trainer

Listener = Callable[[Sequence[EpochRow]], None]
# A context manager that shows the epochs of a training; it receives the options of the training.
ShowEpochs = Callable[[TrainOptions], AbstractContextManager[Listener | None]]


@dataclass(frozen=True)
class TrainingData:
    """The images of a run.

    Attributes:
        views: the training images and their views.
        labels: int64 [N], the labels of the training images.
        sampler: chooses the training images of each epoch.
        validation: batches (images float32 [n, 3, H, W], labels int64 [n]), from which the best epoch is chosen.
        classes: class names in the order of the logits.
        teacher: the network with whose outputs those of the candidates are compared on the validation images, in place
            of labels; None compares with the labels.
        val_views: batches of views of the validation images, one view after another, on which the distillation loss is
            measured too.
    """

    views: ViewSource
    labels: Tensor
    sampler: ImageSampler
    validation: Loader
    classes: tuple[str, ...]
    teacher: nn.Module | None = None
    val_views: Loader | None = None


@dataclass(frozen=True)
class TrainingFiles:
    """The files that a run writes, each atomically.

    Attributes:
        best: checkpoint of the best epoch.
        last: state file, from which an interrupted run resumes.
        save: writes a network to a path, atomically.
        history: CSV file with one line per epoch, or None.
        tensorboard: folder of TensorBoard logs, or None.
        every: least number of seconds between two saves. The interval is longer if saving takes more than a twentieth
            of the time. 0 saves after each step.
    """

    best: Path
    last: Path
    save: Callable[[Path, nn.Module], None]
    history: Path | None = None
    tensorboard: Path | None = None
    every: float = 10.0


def fit(
    model: nn.Module,
    data: TrainingData,
    objective: Objective,
    options: TrainOptions,
    files: TrainingFiles,
    *,
    identity: dict[str, Any] | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
    listen: Listener | None = None,
    keep_start: bool = False,
    description: str = "training",
) -> History:
    """Train a network, choose its best epoch on the validation split, and load that epoch's weights into it.

    `BestEpoch` describes the choice.

    Args:
        model: the network, which returns logits float32 [n, classes]; its weights are changed.
        data: the training and validation images.
        objective: the loss.
        options: the training options.
        files: the files to write.
        identity: plain data that identifies the run, such as hashes of its inputs; compared on resume.
        resume: continue from `files.last` if it exists.
        device: the device of the computation.
        progress: reports progress.
        listen: called with all rows after each epoch, on the first process. Without it, `progress` prints one line per
            epoch.
        keep_start: also choose from the network as it was before training, as epoch -1. On the validation split the
            result is then not worse than the start.
        description: text of the progress bar.

    Raises:
        TrainingError: the loss or a weight became NaN or infinite (the message names the last saved state), or
            `files.last` belongs to another run.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the state was saved.
    """
    device = torch.device(device)
    run = _Run(model, data, objective, options, files, identity or {}, device, listen, progress)
    run.clean_up(resume)
    if resume:
        run.restore()
    run.keep_start = keep_start
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), Interrupt(patient=launch.launched()) as interrupt:
        try:
            for _ in progress.track(run.steps(interrupt), description, total=run.remaining_steps()):
                pass
        except Stop:
            run.save()
            raise
    return run.finish()


class _Run:
    """A run in progress, with all state that the state file contains."""

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        objective: Objective,
        options: TrainOptions,
        files: TrainingFiles,
        identity: dict[str, Any],
        device: torch.device,
        listen: Listener | None,
        progress: Progress,
    ) -> None:
        self.workers = distributed.current()
        example = data.views.get(np.array([0, len(data.views) - 1]), np.zeros(2, np.int64))
        self.trainer = Trainer(
            model,
            options,
            device,
            self.workers,
            example,
            student=objective.teachers > 0,
            all_outputs=data.teacher is not None,
        )
        self.data, self.objective, self.options, self.files, self.device = data, objective, options, files, device
        self.listen, self.progress = listen, progress
        self.identity = {**identity, "world_size": self.workers.world_size, **options.to_json()}
        self.labels = data.labels.to(device)
        self.plan = BatchPlan(
            data.sampler, data.views, options.batch_size, options.seed, self.workers.rank, self.workers.world_size
        )
        self.best = BestEpoch(model, options.select, options.patience)
        self.epoch, self.step = 0, 0
        self.rows: list[EpochRow] = []
        self.keep_start = False
        # Sums over the images of the current epoch of the loss and the losses to each teacher; their number; the time.
        self.loss_sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.images, self.seconds = 0, 0.0
        self.saved_best_epoch: int | None = None
        self.saved_at, self.save_seconds = time.monotonic(), 0.0
        self.board: TensorBoard | None = None

    def clean_up(self, resume: bool) -> None:
        """Delete temporary files of killed runs and, unless the run is resumed, the state of an earlier run.

        If the earlier state stayed, and this run were killed before its first save, a resume would use the wrong state.
        """
        if not self.workers.first:
            return
        for path in (self.files.best, self.files.last, mark_of(self.files.last), self.files.history):
            if path:
                require_writable(path.parent)
                remove_leftovers(path.parent, path.name)
        if not resume:
            self._delete_earlier_state()

    def _delete_earlier_state(self) -> None:
        """Delete the state file of an earlier run, then its mark."""
        self.files.last.unlink(missing_ok=True)
        mark_of(self.files.last).unlink(missing_ok=True)

    def remaining_steps(self) -> int:
        """The number of remaining optimiser steps, if the run does not stop early."""
        return 0 if self.best.stopped else (self.options.epochs - self.epoch) * self.plan.steps_per_epoch - self.step

    def _steps_made(self) -> int:
        """The number of optimiser steps made, over all epochs."""
        return self.epoch * self.plan.steps_per_epoch + self.step

    def steps(self, interrupt: Interrupt) -> Iterator[int]:
        """Make the remaining optimiser steps, and yield after each one the number of steps made in its epoch."""
        if self.files.tensorboard and self.workers.first:
            self.board = TensorBoard(self.files.tensorboard, self.epoch)
        if self.keep_start and self.best.is_empty:
            self._measure_start(interrupt)
        while self.epoch < self.options.epochs and not self.best.stopped:
            while self.step < self.plan.steps_per_epoch:
                self._train_step(interrupt)
                interrupt.check()
                self._save_if_due()
                yield self.step
            self._close_epoch(interrupt)
            self._save_if_due()

    def _measure_start(self, interrupt: Interrupt) -> None:
        """Make the network before training the first candidate for the best epoch."""
        metrics, loss = self._validate(self.trainer.model, interrupt)
        self.best.update(self.trainer.model, metrics, START, loss)
        if self.workers.first:
            figures = (
                f"val accuracy {metrics.accuracy:.2%}, macro-F1 {metrics.macro_f1:.2%}"
                if isinstance(metrics, Metrics)
                else f"val error of the outputs {metrics:.2%}"
            )
            distance = f", val loss {loss:.4f}" if loss is not None else ""
            self.progress.say(f"before training: {figures}{distance}")

    def _train_step(self, interrupt: Interrupt) -> None:
        started = time.perf_counter()
        images, views, batch_size = self.plan.batch(self.epoch, self.step)
        step = self._steps_made()
        losses = self.trainer.train_step(
            self.data.views.get(images, views),
            Batch(images, views, self.labels[torch.from_numpy(images).to(self.device)], self.epoch),
            self.objective,
            share=len(images) / batch_size,
            step=step,
            lr=self.options.learning_rate(step, self.plan.steps_per_epoch),
            seed=step_seed(self.options.seed, self.epoch, self.step, self.workers.rank),
        )
        self.loss_sums += self._sum_over_processes(losses * len(images), interrupt)
        self.images += batch_size
        self.step += 1
        # Reading a value waits for the GPU. A NaN stays in the sums, so a check every 32 steps is enough there.
        if self.device.type == "cpu" or self.step % 32 == 0 or self.step == self.plan.steps_per_epoch:
            self._require(bool(torch.isfinite(self.loss_sums).all()), "the loss became NaN or infinite")
        self.seconds += time.perf_counter() - started

    def _sum_over_processes(self, losses: Tensor, interrupt: Interrupt) -> Tensor:
        """Sum losses over the processes. If one process is interrupted, all are marked as interrupted."""
        if self.workers.world_size == 1:
            return losses
        sums = self.workers.all_reduce(torch.cat([losses, losses.new_tensor([float(interrupt.requested)])]))
        interrupt.requested = bool(sums[3] > 0)
        return sums[:3]

    def _close_epoch(self, interrupt: Interrupt) -> None:
        started, candidate = time.perf_counter(), self.trainer.candidate
        self._require(finite(candidate), "a weight became NaN or infinite")
        update_statistics(candidate, self.data.views, self.options, self.epoch)
        validation, val_loss = self._validate(candidate, interrupt)
        metrics = validation if isinstance(validation, Metrics) else None
        loss, first, second = (self.loss_sums / self.images).tolist()
        row = EpochRow(
            epoch=self.epoch,
            loss=loss,
            loss_rl=first if self.objective.teachers else None,
            loss_cl=second if self.objective.teachers > 1 else None,
            mix=self.objective.mix(self.epoch),
            lr=self.options.learning_rate(self._steps_made() - 1, self.plan.steps_per_epoch),
            accuracy=metrics.accuracy if metrics else None,
            macro_precision=metrics.macro_precision if metrics else None,
            macro_recall=metrics.macro_recall if metrics else None,
            macro_f1=metrics.macro_f1 if metrics else None,
            balanced_accuracy=metrics.balanced_accuracy if metrics else None,
            images_per_second=self.images / max(self.seconds, 1e-9),
            seconds=self.seconds + time.perf_counter() - started,
            output_error=validation if isinstance(validation, float) else None,
            val_loss=val_loss,
        )
        self.rows.append(row)
        self.best.update(candidate, validation, self.epoch, val_loss)
        self.epoch, self.step, self.images, self.seconds = self.epoch + 1, 0, 0, 0.0
        self.loss_sums.zero_()
        if self.workers.first:
            self._report(row)

    def _validate(self, candidate: nn.Module, interrupt: Interrupt) -> tuple[Validation, float | None]:
        """Measure on the first process, and return the result and the distillation loss on every process."""
        measured: tuple[Validation, float | None] | None = None
        if self.workers.first:
            watched = partial(_InterruptibleLoader, interrupt=interrupt, workers=self.workers)
            try:
                measured = self._measure(candidate, watched)
            except NotFiniteError:
                self._require(False, "a logit became NaN or infinite")
            error = measured[0] if measured else None
            self._require(not isinstance(error, float) or math.isfinite(error), "an output became NaN or infinite")
        shared = self.workers.broadcast(measured)
        assert shared is not None
        return shared

    def _measure(self, network: nn.Module, watched: Callable[[Loader], Loader]) -> tuple[Validation, float | None]:
        images = watched(self.data.validation)
        if self.data.teacher is not None:
            return output_error(network, self.data.teacher, images, classes=len(self.data.classes)), None
        logits, labels = predict_logits(network, images)
        metrics = compute_metrics(logits.argmax(1), labels, self.data.classes)
        if self.data.val_views is not None:
            logits = torch.cat([logits, predict_logits(network, watched(self.data.val_views))[0]])
        return metrics, self.objective.validation_loss(logits)

    def _report(self, row: EpochRow) -> None:
        if self.board:
            self.board.write(row)
        if self.listen:
            self.listen(tuple(self.rows))
        else:
            self.progress.say(row.summary(self.options.epochs))

    def _require(self, valid: bool, failure: str) -> None:
        """Raise a `TrainingError` that names the last saved state, unless `valid`."""
        if valid:
            return
        state = (
            f"the last good state is {self.files.last}"
            if self.files.last.exists()
            else "no good state had been written"
        )
        raise TrainingError(
            f"training diverged, {failure} in epoch {self.epoch + 1}; {state}; "
            "train again with a lower --lr or with --clip-norm 1"
        )

    def _save_if_due(self) -> None:
        interval = max(self.files.every, 20 * self.save_seconds) if self.files.every else 0.0
        if time.monotonic() - self.saved_at >= interval:
            self.save()

    def save(self) -> None:
        """Write the best weights, the history and the state, each atomically."""
        if not self.workers.first:
            return
        self._require(finite(self.trainer.model), "a weight became NaN or infinite")
        started = time.monotonic()
        # Write the state last. If the process is killed before that, the resumed run repeats the epoch and rewrites
        # the same checkpoint.
        if self.best.epoch != self.saved_best_epoch:
            self.files.save(self.files.best, self.best.model)
            self.saved_best_epoch = self.best.epoch
        if self.files.history:
            write_csv(self.files.history, self.rows)
        write_state(self.files.last, self.identity, self._state())
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - started

    def _state(self) -> dict[str, Any]:
        return {
            **self.trainer.state(),
            **self.best.state(),
            "rows": [row.to_json() for row in self.rows],
            "sums": self.loss_sums,
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def restore(self) -> None:
        """Continue from `files.last` if it exists. The first process reads it for all processes."""
        state: dict[str, Any] | None = None
        if self.workers.first and self.files.last.exists():
            try:
                state = read_state(self.files.last, self.identity)
                check_state(self.files.last, state, self._state(), self.trainer.parameters)
            except OtherRunError:
                if not mark_of(self.files.last).exists():
                    raise
                self._delete_earlier_state()
            mark_of(self.files.last).unlink(missing_ok=True)
        state = self.workers.broadcast(state)
        if state is None:
            return
        self.trainer.restore(state)
        self.best.restore(state)
        self.rows = [EpochRow.from_json(row) for row in state["rows"]]
        self.loss_sums.copy_(state["sums"])
        for name in _COUNTERS:
            setattr(self, name, state[name])

    def finish(self) -> History:
        """Save the final state, load the best weights into the network, and return the history."""
        self.save()
        if self.board:
            self.board.close()
        best = self.workers.broadcast({name: value.cpu() for name, value in self.best.model.state_dict().items()})
        model = self.trainer.model
        load_state(model, best)
        model.to(memory_format=torch.contiguous_format).eval()
        val, _ = self._measure(model, lambda loader: loader)
        seconds = sum(row.seconds for row in self.rows)
        rows, epoch = tuple(self.rows), self.best.epoch
        if isinstance(val, float):
            return History(rows, epoch, seconds, None, output_error=val)
        return History(rows, epoch, seconds, val)


_COUNTERS = ("epoch", "step", "images", "seconds")


class _InterruptibleLoader:
    """Validation batches, with a check for interruptions between them.

    With several processes the checks are left out, because only a training step marks all processes as interrupted.
    """

    def __init__(self, loader: Loader, interrupt: Interrupt, workers: distributed.Workers) -> None:
        self.loader, self.interrupt, self.alone = loader, interrupt, workers.world_size == 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            if self.alone:
                self.interrupt.check()
            yield batch

    def __len__(self) -> int:
        return len(self.loader)
