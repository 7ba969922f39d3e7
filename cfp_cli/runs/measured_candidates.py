"""The candidates of one search of `cfp shrink`: taken from the run directory, or made and stored at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cfp_cli.pruning.plan import Plan
from cfp_cli.runs.candidate_maker import CandidateMaker
from cfp_cli.runs.candidate_work import Job, RefitJob
from cfp_cli.runs.candidates import Candidate
from cfp_cli.runs.time_limit import OutOfTimeError


@dataclass
class MeasuredCandidates:
    """The candidates of one search.

    Attributes:
        maker: makes the candidates.
        seen: the candidates, in the order of their measurement.
        seconds: how long those took that this search made, refitted (False) and fine-tuned (True) ones.
    """

    maker: CandidateMaker
    seen: list[Candidate] = field(default_factory=list)
    seconds: Mapping[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})

    def refitted(self, compressions: Sequence[float]) -> dict[float, Candidate | None]:
        """Return the refitted candidate of each compression; None if no plan reaches one and fits the budgets.

        If a plan is that of another compression, its candidate is returned: one network is never measured twice.
        """
        return self._measured(compressions, self.maker.refit_job, trained=False)

    def finetuned(self, students: Mapping[float, Candidate]) -> dict[float, Candidate | None]:
        """Return the fine-tuned candidates of refitted ones, by compression.

        Raises:
            OutOfTimeError: a fine-tuning would end after the time limit; the others are stored.
        """
        return self._measured(list(students), lambda each: self.maker.finetune_job(students[each]), trained=True)

    def free(self, compression: float, trained: bool) -> Candidate | None:
        """Return a candidate that this search or an earlier command measured; None if there is none."""
        return self._seen(compression, trained) or self._stored(compression, trained)

    def _measured(
        self, compressions: Sequence[float], prepare: Callable[[float], Job | None], *, trained: bool
    ) -> dict[float, Candidate | None]:
        found: dict[float, Candidate | None] = {}
        jobs: dict[float, Job] = {}
        same: dict[float, float] = {}
        for compression in compressions:
            found[compression] = self._known(compression, trained)
            job = prepare(compression) if found[compression] is None else None
            if isinstance(job, RefitJob):
                found[compression] = self._twin(job.plan)
                equal = _equal(job.plan, jobs)
                if equal is not None:
                    same[compression] = equal
            if job is not None and found[compression] is None and compression not in same:
                jobs[compression] = job
        errors: list[Exception] = []
        for compression, candidate in zip(jobs, self.maker.make(list(jobs.values())), strict=False):
            if isinstance(candidate, Exception):
                errors.append(candidate)
                continue
            self.maker.stored.add(candidate)
            self.seen.append(candidate)
            self.seconds[trained].append(candidate.seconds)
            found[compression] = candidate
        if errors:
            # A lack of time is the least of several errors.
            raise min(errors, key=lambda each: isinstance(each, OutOfTimeError))
        return found | {compression: found[equal] for compression, equal in same.items()}

    def _known(self, compression: float, trained: bool) -> Candidate | None:
        """The same, counted among those of this search."""
        candidate = self.free(compression, trained)
        if candidate is not None and self._seen(compression, trained) is None:
            self.seen.append(candidate)
        return candidate

    def _seen(self, compression: float, trained: bool) -> Candidate | None:
        return next((each for each in self.seen if (each.compression, each.trained) == (compression, trained)), None)

    def _stored(self, compression: float, trained: bool) -> Candidate | None:
        maker = self.maker
        candidate = maker.stored.find(maker.training_key if trained else maker.plans.key, compression, trained)
        if candidate is None or (trained and maker.finetune_record(candidate) is None):
            return None
        return candidate

    def _twin(self, plan: Plan) -> Candidate | None:
        """A candidate of this search with the same plan."""
        alike = (each for each in self.seen if not each.trained and each.params == plan.params_after)
        return next((each for each in alike if self.maker.plan(each).sets == plan.sets), None)


def _equal(plan: Plan, jobs: Mapping[float, Job]) -> float | None:
    """The compression of a job with the same plan."""
    alike = (each for each, job in jobs.items() if isinstance(job, RefitJob) and job.plan.sets == plan.sets)
    return next(alike, None)
