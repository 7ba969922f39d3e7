"""Plan the candidates of `cfp shrink`, and have the processes make them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from cfp_cli.execution.pool import Pool
from cfp_cli.foundation.content_hash import hash_content
from cfp_cli.foundation.errors import RunError, TargetError
from cfp_cli.pruning.plan import Plan
from cfp_cli.runs.candidate_plans import CandidatePlans
from cfp_cli.runs.candidate_work import CandidateWork, FinetuneJob, Job, RefitJob
from cfp_cli.runs.candidates import Candidate, Candidates
from cfp_cli.runs.inputs import ModelInput
from cfp_cli.runs.pruned_files import prune_record
from cfp_cli.runs.records import FinetuneRecord, PruneRecord

Teachers = Callable[[], Sequence[ModelInput]]


@dataclass
class CandidateMaker:
    """Makes candidates of one run. Only the first process has it.

    Attributes:
        plans: the plans of the run.
        pool: the processes that make the candidates.
        teachers: returns the teachers; called before the first fine-tuning.
        teaching: plain data that identify the teachers.
    """

    plans: CandidatePlans
    pool: Pool[Job, Candidate]
    teachers: Teachers
    teaching: object

    def __post_init__(self) -> None:
        self.work: CandidateWork = self.plans.work
        self.run, self.scored, self.options = self.work.run, self.work.scored, self.work.options
        self.validation, self.permission, self.limit = self.work.validation, self.work.permission, self.work.limit
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

    def refit_job(self, compression: float) -> RefitJob | None:
        """Plan a compression; None if no plan reaches the compression and fits the budgets."""
        began = time.perf_counter()
        try:
            plan = self.plans.nearest(compression)
        except TargetError as error:
            self.progress.say(f"{compression:g}x: {error}")
            return None
        if not self.plans.fits(plan):
            return None
        folder = self._folder(compression, self.plans.key)
        return RefitJob(self.plans.key, compression, plan, time.perf_counter() - began, folder)

    def finetune_job(self, student: Candidate) -> FinetuneJob:
        """Prepare the fine-tuning of a refitted candidate."""
        teachers = self.teachers()
        self.run.add(self.prune_record(student))
        checkpoint, folder = self.stored.path(student, "pruned"), self._folder(student.compression, self.training_key)
        return FinetuneJob(self.training_key, student, checkpoint, teachers, folder)

    def make(self, jobs: Sequence[Job]) -> list[Candidate | Exception]:
        """Make candidates, as many at the same time as there are processes; return them or their errors.

        Raises:
            RunError: this process cannot see the files of another one.
        """
        made = self.pool.run(jobs)
        self.run.reload()
        for each in made:
            if isinstance(each, Candidate) and not self.stored.path(each, each.checkpoint).is_file():
                raise RunError(
                    f"{self.run.folder} has no {each.files[each.checkpoint].path.name} of another process; use a "
                    "folder that all processes share"
                )
        return made

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
        return self.work.load(path)

    def _folder(self, compression: float, key: str) -> Path:
        return self.run.folder / "shrink" / f"{compression:g}x-{key[:8]}"
