"""Make one candidate of `cfp shrink`: refit a plan, or fine-tune a refitted network. Each process does this alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from cfp_cli.data.images import Batches, sample
from cfp_cli.data.views import WithViews
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.graph import ChannelGraph
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.pruner import Pruner
from cfp_cli.pruning.reconstruct import RecordedOutputs
from cfp_cli.pruning.refit import Refit
from cfp_cli.runs.candidates import Candidate
from cfp_cli.runs.directory import Run
from cfp_cli.runs.finetune import run_finetune
from cfp_cli.runs.inputs import ModelInput, Permission, load_for
from cfp_cli.runs.pruned_files import save_pruned
from cfp_cli.runs.records import output_files
from cfp_cli.runs.scored_network import ScoredNetwork
from cfp_cli.runs.shrink_options import ShrinkOptions
from cfp_cli.runs.time_limit import OutOfTimeError, TimeLimit
from cfp_cli.runs.validation import Validation
from cfp_cli.training.history import EpochRow
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.state import OtherRunError

# Images that candidates are refitted to, with a view of each if the original knows them.
IMAGES = 512


@dataclass(frozen=True)
class RefitJob:
    """A plan that is carried out and refitted.

    Attributes:
        key, compression: of the candidate.
        plan: the plan.
        planning: seconds that the plan took.
        folder: folder of the candidate's files.
    """

    key: str
    compression: float
    plan: Plan
    planning: float
    folder: Path


@dataclass(frozen=True)
class FinetuneJob:
    """A refitted candidate that is fine-tuned.

    Attributes:
        key: of the candidate.
        student: the refitted candidate.
        checkpoint: its file.
        teachers: one or two teachers.
        folder: folder of the candidate's files.
    """

    key: str
    student: Candidate
    checkpoint: Path
    teachers: Sequence[ModelInput]
    folder: Path


Job = RefitJob | FinetuneJob


@dataclass
class CandidateWork:
    """Makes the candidates that this process is given.

    Attributes:
        run: the run directory; all processes see the same files.
        scored: the original; its data have no test split.
        options: the options.
        validation: the original on the validation images.
        permission: what the user allows for model files.
        limit: the time limit.
        cache: folder of the teachers' outputs; no other process writes to it.
    """

    run: Run
    scored: ScoredNetwork
    options: ShrinkOptions
    validation: Validation
    permission: Permission
    limit: TimeLimit
    cache: Path

    def __post_init__(self) -> None:
        scored, options = self.scored, self.options
        self.progress = scored.progress
        images = sample(scored.dataset, IMAGES, options.seed, scored.preprocessing, self.progress)
        self.originals: Batches = images.batches(options.batch_size)
        self.images: Batches | WithViews = (
            WithViews(images, options.training.augment, options.seed, options.batch_size)
            if self.validation.views > 1
            else self.originals
        )
        self.pruner = Pruner(self.images, progress=self.progress)
        self.graph: ChannelGraph = scored.graph(self.pruner)

    def do(self, job: Job) -> Candidate:
        """Make a candidate.

        Raises:
            OutOfTimeError: its fine-tuning would end after the time limit.
            CfpError: it cannot be made.
        """
        return self._refitted(job) if isinstance(job, RefitJob) else self._finetuned(job)

    def load(self, path: Path) -> nn.Module:
        """Load a network that was written, on the device."""
        network, _ = load_for(self.scored.dataset, ModelInput(path, self.permission.arch, known=True), self.progress)
        return network.to(self.scored.device)

    def _refitted(self, job: RefitJob) -> Candidate:
        # The outputs of the original are recorded once for all candidates, which the time of the first does not show.
        recorded = self._recorded
        began = time.perf_counter() - job.planning
        pruner = replace(self.pruner, refit=Refit(recorded=recorded))
        pruned, plan = pruner.carry_out(self.scored.network, job.plan, graph=self.graph, scores=self.scored.scores)
        compared = self.validation.compare(pruned)
        files = {"pruned": job.folder / "pruned.pt", "plan": job.folder / "plan.json"}
        save_pruned(self.scored, pruned, plan, files["pruned"], files["plan"])
        return Candidate(
            job.key,
            job.compression,
            False,
            plan.params_after,
            plan.macs_after,
            compared,
            time.perf_counter() - began,
            output_files(**files),
        )

    def _finetuned(self, job: FinetuneJob) -> Candidate:
        began = time.perf_counter()
        files = {"finetuned": job.folder / "finetuned.pt", "history": job.folder / "history.csv"}
        options = self.options.training

        def finetune(resume: bool) -> None:
            with self.within_limit(options) as listen:
                run_finetune(
                    self.run,
                    ModelInput(job.checkpoint, self.permission.arch),
                    self.scored.data,
                    job.teachers,
                    options,
                    resume=resume,
                    out=files["finetuned"],
                    history_file=files["history"],
                    # Candidates that are trained at the same time, and interrupted, need a state each.
                    last=job.folder / "last.pt",
                    cache=self.cache,
                    permission=self.permission,
                    device=self.scored.device,
                    progress=self.progress,
                    listen=listen,
                )

        resumed(finetune)
        return Candidate(
            job.key,
            job.student.compression,
            True,
            job.student.params,
            job.student.macs,
            self.validation.compare(self.load(files["finetuned"])),
            time.perf_counter() - began,
            output_files(**files),
        )

    @contextmanager
    def within_limit(self, options: TrainOptions) -> Iterator[Listener]:
        """Stop a training after an epoch if it cannot end within the time limit. Its bar shows the progress."""

        def watch(rows: Sequence[EpochRow]) -> None:
            needed = (options.epochs - len(rows)) * sum(row.seconds for row in rows) / len(rows)
            if not self.limit.allows(needed):
                raise OutOfTimeError(needed - max(self.limit.remaining, 0.0))

        yield watch

    @cached_property
    def _recorded(self) -> RecordedOutputs:
        device = self.scored.device
        batches = [images.to(device) for images, _ in self.images]
        with full_precision():
            return RecordedOutputs.of(self.scored.network, self.graph, batches, progress=self.progress)


def resumed(train: Callable[[bool], None]) -> None:
    """Continue a training where it was interrupted, or start it if the state is of another training."""
    try:
        train(True)
    except OtherRunError:
        train(False)
