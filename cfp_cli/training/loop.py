"""The one training loop, of teachers and students alike.

A run is a row of steps, each a pure function of the state before it and of (seed, epoch, step). The state is written
between two steps now and then, and when the run is interrupted; a killed run goes on from there to the same weights,
bit for bit, on the same number of threads.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.execution import distributed, launch
from cfp_cli.foundation.errors import TrainingError
from cfp_cli.foundation.files import remove_leftovers, require_writable
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Loader, Metrics, evaluate
from cfp_cli.models.state_dict import load_state
from cfp_cli.training.history import EpochRow, History, TensorBoard, write_csv
from cfp_cli.training.interrupt import Interrupt, Stop
from cfp_cli.training.learner import Learner
from cfp_cli.training.loss import Draw, Objective
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.order import Order, Sampler, Views, step_seed
from cfp_cli.training.restart import mark_of
from cfp_cli.training.state import OtherRunError, copy_flushed, finite, read_state, write_state

Listener = Callable[[Sequence[EpochRow]], None]


@dataclass(frozen=True)
class Data:
    """What a network is trained on and chosen by.

    Attributes:
        views: the training images.
        labels: int64 [N] of the training images.
        sampler: their order in each epoch.
        validation: (images float32 [n, 3, H, W], labels int64 [n]) to choose the best epoch by.
        classes: class names in the order of the logits.
    """

    views: Views
    labels: Tensor
    sampler: Sampler
    validation: Loader
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """Where a run keeps what it makes; each file is written whole or not at all.

    Attributes:
        best: the weights of the best epoch.
        last: everything needed to go on.
        save: writes a network to a path, atomically.
        history: one line per epoch, as CSV; None for no such file.
        tensorboard: folder of TensorBoard logs; None for none.
        every: seconds from one write to the next at least, and more where writing would take over a twentieth of the
            time; 0 writes after each step.
    """

    best: Path
    last: Path
    save: Callable[[Path, nn.Module], None]
    history: Path | None = None
    tensorboard: Path | None = None
    every: float = 10.0


def fit(
    model: nn.Module,
    data: Data,
    objective: Objective,
    options: TrainOptions,
    files: Files,
    *,
    identity: dict[str, Any] | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
    listen: Listener | None = None,
    description: str = "training",
) -> History:
    """Train a network, choose its best epoch on the validation split, and leave that epoch's weights in it.

    That is the latest that is no worse than the best figure by more than one standard error of their difference (after
    the rule of Breiman et al., 1984): of hundreds of epochs the very best owes it to luck with a few images, a later
    one has been trained longer at a lower rate.

    Args:
        model: changed in place; gives logits float32 [n, classes].
        data: what to train on.
        objective: what to minimise.
        options: the choices that decide the result.
        files: where to keep it.
        identity: plain data that tells this run from others, such as hashes of its inputs; checked on resume.
        resume: go on from `files.last` where there is one.
        device: where to compute.
        progress: told of each batch.
        listen: called with all rows after each epoch, on the first process; without it `progress` is told each epoch.
        description: of the progress.

    Raises:
        TrainingError: the loss or a weight became NaN or infinite (the last good state is named), or `files.last`
            belongs to another run.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state has been written.
    """
    device = torch.device(device)
    training = _Training(model, data, objective, options, files, identity or {}, device, listen, progress)
    training.tidy(resume)
    if resume:
        training.restore()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), Interrupt(patient=launch.launched()) as interrupt:
        try:
            for _ in progress.track(training.work(interrupt), description, total=training.steps_left()):
                pass
        except Stop:
            training.save()
            raise
    return training.finish()


class _Training:
    """A run in progress: the state that a checkpoint holds, and how a step changes it."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        objective: Objective,
        options: TrainOptions,
        files: Files,
        identity: dict[str, Any],
        device: torch.device,
        listen: Listener | None,
        progress: Progress,
    ) -> None:
        self.workers = distributed.current()
        self.learner = Learner(model, options, device, self.workers)
        self.data, self.objective, self.options, self.files, self.device = data, objective, options, files, device
        self.listen, self.progress = listen, progress
        self.identity = {**identity, "world_size": self.workers.world_size, **options.to_json()}
        self.labels = data.labels.to(device)
        self.order = Order(
            data.sampler, data.views, options.batch_size, options.seed, self.workers.rank, self.workers.world_size
        )
        self.best = copy.deepcopy(model).requires_grad_(False).eval()
        self.best_epoch, self.best_score, self.best_error, self.better_epoch = -1, -1.0, 0.0, -1
        self.epoch, self.step, self.stopped = 0, 0, False
        self.rows: list[EpochRow] = []
        # Of the epoch in hand: loss and its two shares summed over the images, how many those are, and the time spent.
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.images, self.seconds = 0, 0.0
        self.written_best = -1
        self.written_at, self.write_seconds = time.monotonic(), 0.0
        self.board: TensorBoard | None = None

    def tidy(self, resume: bool) -> None:
        """Delete what killed runs left half written and, unless it is to be resumed, the state of an earlier run.

        Else a kill before the first state is written would leave that of the wrong run.
        """
        if not self.workers.first:
            return
        for path in (self.files.best, self.files.last, self.files.history):
            if path:
                require_writable(path.parent)
                remove_leftovers(path.parent, path.name)
        if not resume:
            self._forget()

    def _forget(self) -> None:
        """Delete the state of an earlier run, then the mark that says so."""
        self.files.last.unlink(missing_ok=True)
        mark_of(self.files.last).unlink(missing_ok=True)

    def steps_left(self) -> int:
        """How many optimiser steps are still to be made, unless patience ends first."""
        return 0 if self.stopped else (self.options.epochs - self.epoch) * self.order.steps - self.step

    def work(self, interrupt: Interrupt) -> Iterator[int]:
        """Make the remaining steps, giving each one's number in its epoch."""
        if self.files.tensorboard and self.workers.first:
            self.board = TensorBoard(self.files.tensorboard, self.epoch)
        while self.epoch < self.options.epochs and not self.stopped:
            while self.step < self.order.steps:
                self._train_step(interrupt)
                interrupt.check()
                self._save_if_due()
                yield self.step
            self._close_epoch(interrupt)
            self._save_if_due()

    def _train_step(self, interrupt: Interrupt) -> None:
        started = time.perf_counter()
        images, views, whole = self.order.batch(self.epoch, self.step)
        losses = self.learner.learn(
            self.data.views.get(images, views),
            Draw(images, views, self.labels[torch.from_numpy(images).to(self.device)], self.epoch),
            self.objective,
            share=len(images) / whole,
            step=self.epoch * self.order.steps + self.step,
            seed=step_seed(self.options.seed, self.epoch, self.step, self.workers.rank),
        )
        self.sums += self._over_processes(losses * len(images), interrupt)
        self.images += whole
        self.step += 1
        # Reading a figure waits for a GPU; a NaN stays in the sums, so looking now and then is enough.
        if self.device.type == "cpu" or self.step % 32 == 0 or self.step == self.order.steps:
            self._refuse(not bool(torch.isfinite(self.sums).all()), "the loss became NaN or infinite")
        self.seconds += time.perf_counter() - started

    def _over_processes(self, losses: Tensor, interrupt: Interrupt) -> Tensor:
        """Losses summed over the processes, which learn on the way whether one of them is interrupted."""
        if self.workers.world_size == 1:
            return losses
        figures = self.workers.all_reduce(torch.cat([losses, losses.new_tensor([float(interrupt.requested)])]))
        interrupt.requested = bool(figures[3] > 0)
        return figures[:3]

    def _close_epoch(self, interrupt: Interrupt) -> None:
        started, candidate = time.perf_counter(), self.learner.candidate
        self._refuse(not finite(candidate), "a weight became NaN or infinite")
        metrics = self._validate(candidate, interrupt)
        loss, first, second = (self.sums / self.images).tolist()
        row = EpochRow(
            epoch=self.epoch,
            loss=loss,
            loss_rl=first if self.objective.teachers else None,
            loss_cl=second if self.objective.teachers > 1 else None,
            mix=self.objective.mix(self.epoch),
            lr=self.options.learning_rate(self.epoch),
            accuracy=metrics.accuracy,
            macro_precision=metrics.macro_precision,
            macro_recall=metrics.macro_recall,
            macro_f1=metrics.macro_f1,
            balanced_accuracy=metrics.balanced_accuracy,
            images_per_second=self.images / max(self.seconds, 1e-9),
            seconds=self.seconds + time.perf_counter() - started,
        )
        self.rows.append(row)
        self._choose(candidate, metrics)
        self.epoch, self.step, self.images, self.seconds = self.epoch + 1, 0, 0, 0.0
        self.sums.zero_()
        if self.workers.first:
            self._tell(row)

    def _choose(self, candidate: nn.Module, metrics: Metrics) -> None:
        """Keep the weights unless an epoch was better beyond chance, and stop where none has been for long."""
        score = metrics.accuracy if self.options.select == "accuracy" else metrics.macro_f1
        if score > self.best_score:
            self.better_epoch, self.best_score = self.epoch, score
            # Of the difference of two epochs, each of which is measured.
            self.best_error = math.sqrt(2) * metrics.standard_error(self.options.select)
        if score >= self.best_score - self.best_error:
            copy_flushed(candidate, self.best)
            self.best_epoch = self.epoch
        self.stopped = bool(self.options.patience) and self.epoch - self.better_epoch >= self.options.patience

    def _validate(self, candidate: nn.Module, interrupt: Interrupt) -> Metrics:
        """The first process's metrics, on every process."""
        metrics: Metrics | None = None
        if self.workers.first:
            loader = _Checked(self.data.validation, interrupt, self.workers)
            try:
                metrics = evaluate(candidate, loader, self.data.classes)
            except TrainingError:
                self._refuse(True, "a logit became NaN or infinite")
        shared = self.workers.broadcast(metrics)
        assert shared is not None
        return shared

    def _tell(self, row: EpochRow) -> None:
        if self.board:
            self.board.write(row)
        if self.listen:
            self.listen(tuple(self.rows))
        else:
            self.progress.say(
                f"epoch {row.epoch + 1}/{self.options.epochs}: loss {row.loss:.4f}, accuracy {row.accuracy:.2%}, "
                f"macro F1 {row.macro_f1:.2%}, {row.images_per_second:.0f} images/s"
            )

    def _refuse(self, broken: bool, what: str) -> None:
        if not broken:
            return
        good = (
            f"the last good state is {self.files.last}"
            if self.files.last.exists()
            else "no good state had been written"
        )
        raise TrainingError(
            f"{what} in epoch {self.epoch + 1}; {good}, start anew with a lower --lr or with --clip-norm 1"
        )

    def _save_if_due(self) -> None:
        wait = max(self.files.every, 20 * self.write_seconds) if self.files.every else 0.0
        if time.monotonic() - self.written_at >= wait:
            self.save()

    def save(self) -> None:
        """Write the best weights, the history and the state, each atomically."""
        if not self.workers.first:
            return
        self._refuse(not finite(self.learner.model), "a weight became NaN or infinite")
        started = time.monotonic()
        # The state is written last: a kill before it repeats the epoch, with the same result.
        if self.best_epoch != self.written_best:
            self.files.save(self.files.best, self.best)
            self.written_best = self.best_epoch
        if self.files.history:
            write_csv(self.files.history, self.rows)
        write_state(self.files.last, self.identity, self._state())
        self.written_at = time.monotonic()
        self.write_seconds = self.written_at - started

    def _state(self) -> dict[str, Any]:
        return {
            **self.learner.state(),
            "best": self.best.state_dict(),
            "rows": [row.to_json() for row in self.rows],
            "sums": self.sums,
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def restore(self) -> None:
        """Take up the state of `files.last` where there is one; the first process's, on every process."""
        state: dict[str, Any] | None = None
        if self.workers.first and self.files.last.exists():
            try:
                state = read_state(self.files.last, self.identity)
            except OtherRunError:
                if not mark_of(self.files.last).exists():
                    raise
                self._forget()
            mark_of(self.files.last).unlink(missing_ok=True)
        state = self.workers.broadcast(state)
        if state is None:
            return
        self.learner.restore(state)
        self.best.load_state_dict(state["best"])
        self.rows = [EpochRow.from_json(row) for row in state["rows"]]
        self.sums.copy_(state["sums"])
        for name in _PLAIN:
            setattr(self, name, state[name])

    def finish(self) -> History:
        """Write the end of the run, leave the best weights in the network, and give the history."""
        self.save()
        if self.board:
            self.board.close()
        best = self.workers.broadcast({name: value.cpu() for name, value in self.best.state_dict().items()})
        model = self.learner.model
        load_state(model, best)
        model.to(memory_format=torch.contiguous_format).eval()
        val = evaluate(model, self.data.validation, self.data.classes)
        seconds = sum(row.seconds for row in self.rows)
        return History(tuple(self.rows), self.best_epoch, seconds, val)


_PLAIN = ("epoch", "step", "best_epoch", "best_score", "best_error", "better_epoch", "stopped", "images", "seconds")


class _Checked:
    """Validation batches between which an interruption is taken; with several processes only a step takes one."""

    def __init__(self, loader: Loader, interrupt: Interrupt, workers: distributed.Workers) -> None:
        self.loader, self.interrupt, self.alone = loader, interrupt, workers.world_size == 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            if self.alone:
                self.interrupt.check()
            yield batch

    def __len__(self) -> int:
        return len(self.loader)
