"""Make the candidates of `cfp shrink`: refit a plan, and fine-tune the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from cfp_cli.execution.full_precision import full_precision
from cfp_cli.foundation.content_hash import hash_content
from cfp_cli.foundation.errors import TargetError
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.reconstruct import RecordedOutputs
from cfp_cli.pruning.refit import Refit
from cfp_cli.runs.candidate_plans import CandidatePlans
from cfp_cli.runs.candidates import Candidate, Candidates
from cfp_cli.runs.finetune import run_finetune
from cfp_cli.runs.inputs import ModelInput, Permission, load_for
from cfp_cli.runs.pruned_files import prune_record, save_pruned
from cfp_cli.runs.records import FinetuneRecord, PruneRecord, output_files
from cfp_cli.runs.time_limit import OutOfTimeError, TimeLimit
from cfp_cli.runs.validation import Validation
from cfp_cli.training.history import EpochRow
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.state import OtherRunError

Teachers = Callable[[], Sequence[ModelInput]]


@dataclass
class CandidateMaker:
    """Makes candidates of one run.

    Attributes:
        plans: the plans of the run.
        validation: the original on the validation images.
        teachers: returns the teachers; called before the first fine-tuning.
        teaching: plain data that identify the teachers.
        permission: what the user allows for model files.
        limit: the time limit.
    """

    plans: CandidatePlans
    validation: Validation
    teachers: Teachers
    teaching: object
    permission: Permission
    limit: TimeLimit

    def __post_init__(self) -> None:
        self.run, self.scored, self.options = self.plans.run, self.plans.scored, self.plans.options
        self.progress, self.costs = self.plans.progress, self.plans.costs
        self.stored = Candidates(self.run.folder)

    @cached_property
    def training_key(self) -> str:
        """Hash of everything that a fine-tuned candidate depends on, except its compression."""
        return hash_content(
            {"prune": self.plans.key, "training": self.options.training.to_json(), "teachers": self.teaching}
        )

    def plan(self, candidate: Candidate) -> Plan:
        """Return the plan of a candidate that was refitted."""
        return Plan.load(self.stored.path(candidate, "plan"))

    def refitted(self, compression: float, seen: Sequence[Candidate]) -> Candidate | None:
        """Prune to a compression, prove and refit; None if no plan reaches the compression and fits the budgets.

        Args:
            compression: the compression.
            seen: candidates that were made. If one has the same plan, it is returned: one network is never measured
                twice.
        """
        # The outputs of the original are recorded once for all candidates, which the time of the first does not show.
        recorded = self._recorded
        began = time.perf_counter()
        try:
            plan = self.plans.nearest(compression)
        except TargetError as error:
            self.progress.say(f"{compression:g}x: {error}")
            return None
        if not self.plans.fits(plan):
            return None
        for each in seen:
            if not each.trained and each.params == plan.params_after and self.plan(each).sets == plan.sets:
                return each
        pruner = replace(self.plans.pruner, refit=Refit(recorded=recorded))
        pruned, plan = pruner.carry_out(self.scored.network, plan, graph=self.plans.graph, scores=self.scored.scores)
        compared = self.validation.compare(pruned)
        folder = self._folder(compression, self.plans.key)
        files = {"pruned": folder / "pruned.pt", "plan": folder / "plan.json"}
        save_pruned(self.scored, pruned, plan, files["pruned"], files["plan"])
        return Candidate(
            self.plans.key,
            compression,
            False,
            plan.params_after,
            plan.macs_after,
            compared,
            time.perf_counter() - began,
            output_files(**files),
        )

    def finetuned(self, student: Candidate) -> Candidate:
        """Fine-tune a refitted candidate.

        Raises:
            OutOfTimeError: it would end after the time limit.
        """
        teachers = self.teachers()
        began = time.perf_counter()
        self.run.add(self.prune_record(student))
        folder = self._folder(student.compression, self.training_key)
        files = {"finetuned": folder / "finetuned.pt", "history": folder / "history.csv"}
        options = self.options.training

        def finetune(resume: bool) -> None:
            with self.within_limit(options) as listen:
                run_finetune(
                    self.run,
                    ModelInput(self.stored.path(student, "pruned"), self.permission.arch),
                    self.scored.data,
                    teachers,
                    options,
                    resume=resume,
                    out=files["finetuned"],
                    history_file=files["history"],
                    permission=self.permission,
                    device=self.scored.device,
                    progress=self.progress,
                    listen=listen,
                )

        resumed(finetune)
        compared = self.validation.compare(self.load(files["finetuned"]))
        return Candidate(
            self.training_key,
            student.compression,
            True,
            student.params,
            student.macs,
            compared,
            time.perf_counter() - began,
            output_files(**files),
        )

    def prune_record(self, candidate: Candidate) -> PruneRecord:
        """Return the record of the prune of a refitted candidate."""
        return prune_record(
            self.scored,
            self.plan(candidate),
            {name: self.stored.path(candidate, name) for name in ("pruned", "plan")},
            {**self.options.prune(candidate.compression, self.plans.round_to).__dict__, "rounds": 1},
            self.options.seed,
            {"before": self.validation.metrics, "reconstructed": candidate.compared.metrics},
            candidate.seconds,
        )

    def finetune_record(self, candidate: Candidate) -> FinetuneRecord | None:
        """Return the record of the fine-tuning of a candidate; None if it was not fine-tuned."""
        return next(
            (
                each
                for each in reversed(self.run.records)
                if isinstance(each, FinetuneRecord) and each.outputs["finetuned"] == candidate.files.get("finetuned")
            ),
            None,
        )

    def student(self, candidate: Candidate) -> Candidate:
        """Return the refitted network from which a candidate was fine-tuned; itself if it was not."""
        if not candidate.trained:
            return candidate
        found = self.stored.find(self.plans.key, candidate.compression, False)
        assert found is not None
        return found

    def load(self, path: Path) -> nn.Module:
        """Load a network that was written, on the device."""
        network, _ = load_for(self.scored.dataset, ModelInput(path, self.permission.arch, known=True), self.progress)
        return network.to(self.scored.device)

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
        batches = [images.to(device) for images, _ in self.plans.images]
        with full_precision():
            return RecordedOutputs.of(self.scored.network, self.plans.graph, batches, progress=self.progress)

    def _folder(self, compression: float, key: str) -> Path:
        return self.run.folder / "shrink" / f"{compression:g}x-{key[:8]}"


def resumed(train: Callable[[bool], None]) -> None:
    """Continue a training where it was interrupted, or start it if the state is of another training."""
    try:
        train(True)
    except OtherRunError:
        train(False)
