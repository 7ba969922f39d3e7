"""The search of `cfp shrink`: which candidates are measured, refitted first, then fine-tuned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cfp_cli.foundation.errors import RunError, TargetError
from cfp_cli.foundation.progress import working
from cfp_cli.measuring.loss_rule import LOOKS, Judged
from cfp_cli.pruning.frontier import (
    LEAST,
    Cost,
    below_first_failure,
    least_compression,
    next_compression,
    remaining_looks,
)
from cfp_cli.runs.candidate_maker import CandidateMaker
from cfp_cli.runs.candidates import Candidate
from cfp_cli.runs.shrink_costs import cost_texts
from cfp_cli.runs.time_limit import OutOfTimeError
from cfp_cli.training.best_epoch import START

_LESS: dict[Cost, str] = {
    "params": "fewer parameters",
    "macs": "fewer multiply-adds",
    "latency": "less latency",
    "bytes": "fewer bytes",
}

# Fine-tuning begins with the smallest candidate whose refit loses at most this many points more than is allowed, or
# two images more.
RECOVERABLE = 1.0
# Factors of the search for that candidate and among fine-tuned ones, which cost minutes each.
STEP, CLOSE = 1.6, 1.3
# The largest compression at which budgets are tried.
LARGEST = 1e6
# How often the estimate of latency is corrected by measuring the largest network that fits the budget.
CORRECTIONS = 3


@dataclass
class Search:
    """Measures candidates of one run, and remembers them in the run directory.

    Attributes:
        maker: makes the candidates.
        seen: the candidates of this search, in the order of their measurement.
    """

    maker: CandidateMaker
    seen: list[Candidate] = field(default_factory=list)

    def __post_init__(self) -> None:
        maker = self.maker
        self.options, self.progress, self.stored = maker.options, maker.progress, maker.stored
        self.original = maker.validation.metrics
        self._spent: dict[bool, list[float]] = {False: [], True: []}

    def judge(self, candidate: Candidate) -> Judged:
        """Judge a candidate."""
        return self.options.rule.judge(self.original, candidate.compared)

    def least(self) -> float:
        """Return the smallest compression that fits all budgets.

        The network there is measured if latency is limited, and the estimate corrected until it fits as well.

        Raises:
            TargetError: no network fits.
        """
        plans, budgets = self.maker.plans, self.options.budgets
        if not budgets:
            return LEAST
        latency = min((each.most for each in budgets if each.cost == "latency"), default=None)
        for _ in range(CORRECTIONS):
            with working(self.progress, "planning for the budgets"):
                least = least_compression(lambda each: plans.fits(plans.for_budgets(each)), LARGEST)
            if latency is None or plans.costs.calibrate(plans.for_budgets(least)) <= latency:
                return least
        return least

    def walk(self, least: float) -> None:
        """Measure refitted candidates until the border of the allowed loss is found, without training.

        If candidates are fine-tuned afterwards, the border of the recoverable loss is found as well.

        Args:
            least: smallest compression that fits the budgets.
        """
        tried: dict[float, bool] = {}
        losses: dict[float, float] = {}

        def measure(compression: float) -> bool:
            candidate = self._measured(compression, lambda each: self.maker.refitted(each, self.seen), trained=False)
            if candidate is None:
                losses[compression] = float("inf")
                return False
            judged = self.judge(candidate)
            losses[compression] = judged.loss
            return judged.passes

        while (following := next_compression(tried, least=least)) is not None and self._may_go_on(False):
            left = remaining_looks(tried, least=least)
            tried[following] = measure(following)
            self._report(following, left)
        if not self.options.finetune:
            return
        most = self._recoverable
        recoverable = {compression: loss <= most for compression, loss in losses.items()}
        known = {"least": least, "close": STEP, "factor": STEP}
        while (following := next_compression(recoverable, **known)) is not None and self._may_go_on(False):
            left = remaining_looks(recoverable, **known)
            measure(following)
            recoverable[following] = losses[following] <= most
            self._report(following, left)

    def train(self, least: float) -> None:
        """Fine-tune candidates near the border: a smaller one while they pass, a larger one when they fail.

        Args:
            least: smallest compression that fits the budgets.
        """
        passing = [each.compression for each in self._passing()]
        tried = {max(passing): True} if passing else {}
        good = (each.compression for each in self.seen if self.judge(each).loss <= self._recoverable)
        start = max(good, default=least)
        if start in tried:
            start *= STEP
        following: float | None = max(float(f"{start:.3g}"), least)
        while following is not None and self._may_go_on(True):
            left = remaining_looks(tried, least=least, factor=STEP, close=CLOSE)
            try:
                tried[following] = self._passes_trained(following)
            except OutOfTimeError as stopped:
                self.progress.say(
                    f"fine-tuning {following:g}x needs {stopped.seconds:.0f} s more than the time limit leaves, so it "
                    "is stopped; repeat the command with a longer --time-limit to continue it"
                )
                return
            self._report(following, left)
            following = next_compression(tried, least=least, factor=STEP, close=CLOSE)

    @property
    def _recoverable(self) -> float:
        """The largest loss of a refitted network from which fine-tuning begins, in points; two images at least."""
        return self.options.rule.max_loss + max(RECOVERABLE, 200 / self.original.images)

    def _passes_trained(self, compression: float) -> bool:
        """Whether the candidate of a compression passes, refitted or else fine-tuned; False if there is no plan."""
        student = self._measured(compression, lambda each: self.maker.refitted(each, self.seen), trained=False)
        if student is None or self.judge(student).passes:
            return student is not None
        # The student is that of another compression if both have the same plan.
        trained = self._measured(student.compression, lambda _: self._finetuned(student), trained=True)
        return trained is not None and self.judge(trained).passes

    def _finetuned(self, student: Candidate) -> Candidate:
        options = self.options.training
        self.progress.say(f"fine-tuning {self._named(student.compression)}, {options.epochs} epochs")
        return self.maker.finetuned(student)

    def choose(self) -> Candidate:
        """Return the smallest candidate that passes below the first failure; if none does, the one with the least loss.

        Raises:
            TargetError: no candidate was measured.
        """
        if not self.seen:
            raise TargetError("no candidate was measured; lower the demands of --round-to, --keep or --ignore")
        if passing := self._passing():
            return min(passing, key=lambda each: (self.costs(each)[self.options.target], self.judge(each).loss))
        return min(self.seen, key=lambda each: (self.judge(each).loss, self.costs(each)[self.options.target]))

    def costs(self, candidate: Candidate) -> dict[Cost, float]:
        """Return the costs of a candidate; latency is an estimate."""
        counted: dict[Cost, float] = {"params": candidate.params, "macs": candidate.macs}
        if not self.maker.costs.measured:
            return counted
        return self.maker.costs.of_plan(self.maker.plan(self.maker.student(candidate)))

    def _passing(self) -> list[Candidate]:
        """Candidates that pass, and below which none of the same kind, refitted or fine-tuned, fails."""
        found = []
        for trained in (False, True):
            kind = [each for each in self.seen if each.trained == trained]
            good = below_first_failure({each.compression: self.judge(each).passes for each in kind})
            found += [each for each in kind if each.compression in good]
        return found

    def confirm(self, candidate: Candidate) -> None:
        """Check that the written checkpoint predicts what was measured.

        Raises:
            RunError: it does not.
        """
        path = self.stored.path(candidate, candidate.checkpoint)
        if self.maker.validation.compare(self.maker.load(path)) != candidate.compared:
            raise RunError(
                f"{path} does not predict what was measured; delete {self.maker.run.folder / 'shrink.json'} and repeat "
                "the command"
            )

    def _may_go_on(self, trained: bool) -> bool:
        """Whether another candidate may be begun: there are looks and time for it. The first one may always."""
        if not self.seen:
            return True
        if len(self.seen) + trained >= LOOKS:
            self.progress.say(
                f"{len(self.seen)} networks were compared on the validation images; no further one is tried"
            )
            return False
        spent = self._spent[trained]
        if not self.maker.limit.allows(max(spent, default=0.0)):
            self.progress.say("the time limit leaves no time for another candidate; using the best one so far")
            return False
        return True

    def _measured(
        self, compression: float, make: Callable[[float], Candidate | None], *, trained: bool
    ) -> Candidate | None:
        """Return a candidate from the run directory, or make it and store it at once; None if no plan reaches it."""
        key = self.maker.training_key if trained else self.maker.plans.key
        again = next((each for each in self.seen if (each.compression, each.trained) == (compression, trained)), None)
        if again is not None:
            return again
        candidate = self.stored.find(key, compression, trained)
        if candidate is not None and trained and self.maker.finetune_record(candidate) is None:
            candidate = None
        if candidate is None:
            candidate = make(compression)
            if candidate is None or candidate in self.seen:
                return candidate
            self.stored.add(candidate)
            self._spent[trained].append(candidate.seconds)
        self.seen.append(candidate)
        return candidate

    def _report(self, compression: float, left: int) -> None:
        """Say how the newest candidate of a compression did, and about how many of its kind follow."""
        candidate = next((each for each in reversed(self.seen) if each.compression == compression), None)
        if candidate is None:
            return
        judged = self.judge(candidate)
        how = "fine-tuned" if candidate.trained else "refitted"
        record = self.maker.finetune_record(candidate)
        if record is not None and record.metrics.best_epoch == START:
            how += " without a gain"
        passes, allowed = "passes" if judged.passes else "fails", self.options.rule.max_loss
        self.progress.say(
            f"{self._named(compression)}, {how}: {cost_texts(self.costs(candidate))}, "
            f"loss {judged.loss:.2f} points (allowed "
            f"{allowed:g}), at most {judged.bound:.2f} with 95 % confidence (allowed "
            f"{allowed + self.options.rule.margin:g}): {passes}{self._outlook(candidate.trained, left)}"
        )

    def _named(self, compression: float) -> str:
        """Name a candidate by its compression, such as `39x fewer parameters`."""
        return f"{compression:g}x {_LESS[self.options.target]}"

    def _outlook(self, trained: bool, left: int) -> str:
        """About how many candidates follow and how long they take; the fine-tunings follow the refits."""
        if not left:
            return ""
        spent = self._spent[trained]
        time_left = f", {_minutes(left * sum(spent) / len(spent))}" if spent else ""
        if trained:
            return f"; about {left} more to fine-tune{time_left}"
        return f"; about {left} more to refit{time_left}{', then fine-tuning' if self.options.finetune else ''}"


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"
