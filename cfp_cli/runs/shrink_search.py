"""The search of `cfp shrink`: which candidates are measured, refitted first, then fine-tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cfp_cli.foundation.errors import RunError, TargetError
from cfp_cli.foundation.progress import working
from cfp_cli.measuring.loss_rule import LOOKS, METRIC_NAMES, Judged
from cfp_cli.pruning.frontier import (
    CLOSE,
    LEAST,
    Cost,
    below_first_failure,
    least_compression,
    next_compressions,
    remaining_looks,
)
from cfp_cli.runs.candidate_maker import CandidateMaker
from cfp_cli.runs.candidates import Candidate
from cfp_cli.runs.measured_candidates import MeasuredCandidates
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
# That candidate is searched to this factor. Fine-tuned ones follow by this factor, and then closer; they cost minutes.
STEP, CLOSE_TRAINED = 1.6, 1.3
# The largest compression at which budgets are tried.
LARGEST = 1e6
# How often the estimate of latency is corrected by measuring the largest network that fits the budget.
CORRECTIONS = 3


@dataclass
class Search:
    """Measures candidates of one run, and remembers them in the run directory.

    Attributes:
        maker: makes the candidates.
        complete: whether neither the time limit nor the number of looks ended the search.
    """

    maker: CandidateMaker
    complete: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        maker = self.maker
        self.options, self.progress, self.stored = maker.options, maker.progress, maker.stored
        self.original = maker.validation.metrics
        self.measured = MeasuredCandidates(maker)
        self.seen = self.measured.seen

    def judge(self, candidate: Candidate) -> Judged:
        """Judge a candidate."""
        return self.options.rule.judge(candidate.compared)

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
        """Measure refitted candidates until the border is found from which fine-tuning begins, without training.

        If none of them passes, the border of passing candidates is found to a factor `STEP` too. If candidates are not
        fine-tuned, only that border is found, more exactly.

        Args:
            least: smallest compression that fits the budgets.
        """
        if not self.options.finetune:
            self._find_border(least, self._passes, CLOSE)
            return
        then = ", then fine-tuning"
        self._find_border(least, lambda each: self.judge(each).loss.points <= self._recoverable, STEP, then)
        if not self._passing():
            self._find_border(least, self._passes, STEP, then)

    def _find_border(self, least: float, good: Callable[[Candidate], bool], close: float, then: str = "") -> None:
        """Measure refitted candidates until the border between good and other ones is found, to a factor `close`.

        Args:
            least: smallest compression that fits the budgets.
            good: whether a candidate is good.
            close: largest ratio of the two sides of the border.
            then: what follows, for the messages.
        """
        tried: dict[float, bool] = {}
        count = self.maker.pool.size
        while following := self._allowed(next_compressions(tried, count, least=least, close=close), False):
            left, known = remaining_looks(tried, count, least=least, close=close), len(self.seen)
            for compression, candidate in self.measured.refitted(following).items():
                tried[compression] = candidate is not None and good(candidate)
            self._report(self.seen[known:], left, then)

    def train(self, least: float) -> None:
        """Fine-tune candidates near the border: a smaller one while they pass, a larger one when they fail.

        If the time limit ends this, the border of the refitted candidates that pass is found in the remaining time.

        Args:
            least: smallest compression that fits the budgets.
        """
        passing = [each.compression for each in self._passing()]
        tried = {max(passing): True} if passing else {}
        good = (each.compression for each in self.seen if self.judge(each).loss.points <= self._recoverable)
        start = max(good, default=least)
        if start in tried:
            start *= STEP
        count = self.maker.pool.size
        wanted = next_compressions({}, count, least=least, start=start, factor=STEP)
        while following := self._allowed(wanted, True):
            left = remaining_looks(tried, count, least=least, factor=STEP, close=CLOSE_TRAINED)
            try:
                tried |= self._pass_trained(following, left)
            except OutOfTimeError as stopped:
                self.complete = False
                names = " and ".join(f"{each:g}x" for each in following)
                self.progress.say(
                    f"fine-tuning {names} needs {stopped.seconds:.0f} s more than the time limit leaves, so it is "
                    "stopped; repeat the command with a longer --time-limit to continue it"
                )
                break
            wanted = next_compressions(tried, count, least=least, factor=STEP, close=CLOSE_TRAINED)
        if wanted:
            self._find_border(least, self._passes, CLOSE)

    @property
    def _recoverable(self) -> float:
        """The largest loss of a refitted network from which fine-tuning begins, in points; two images at least."""
        return self.options.rule.max_loss + max(RECOVERABLE, 200 / self.original.images)

    def _pass_trained(self, compressions: Sequence[float], left: int) -> dict[float, bool]:
        """Whether the candidate of each compression passes, refitted or else fine-tuned; False if there is no plan.

        Args:
            compressions: the compressions.
            left: about how many follow.

        Raises:
            OutOfTimeError: a fine-tuning would end after the time limit.
        """
        known = len(self.seen)
        students = self.measured.refitted(compressions)
        self._report(self.seen[known:], 0)
        # One that passes above another that failed is lucky, and is fine-tuned too.
        sure = [each for each in self._passing() if not each.trained]
        passes = {each: student in sure for each, student in students.items()}
        # The student is that of another compression if both have the same plan.
        unsure = {each.compression: each for each in students.values() if each is not None and each not in sure}
        for each in unsure:
            self.progress.say(f"fine-tuning {self._named(each)}, {self.options.training.epochs} epochs")
        known = len(self.seen)
        try:
            trained = self.measured.finetuned(unsure)
        finally:
            self._report(self.seen[known:], left)
        for compression, student in students.items():
            candidate = trained.get(student.compression) if student is not None else None
            passes[compression] |= candidate is not None and self._passes(candidate)
        return passes

    def _passes(self, candidate: Candidate) -> bool:
        return self.judge(candidate).passes

    def choose(self) -> Candidate:
        """Return the smallest candidate that passes below the first failure; if none does, the one with the least loss.

        Raises:
            TargetError: no candidate was measured.
        """
        if not self.seen:
            raise TargetError("no candidate was measured; lower the demands of --round-to, --keep or --ignore")
        if passing := self._passing():
            return min(passing, key=lambda each: (self.costs(each)[self.options.target], self.judge(each).loss.points))
        return min(self.seen, key=lambda each: (self.judge(each).loss.most, self.costs(each)[self.options.target]))

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

    def _allowed(self, following: list[float], trained: bool) -> list[float]:
        """Those of the next candidates that may be begun: there are looks and time for them.

        The first one may always. Those that an earlier command measured need no time.
        """
        if not self.seen or not following:
            return following[:LOOKS]
        looks = LOOKS - len(self.seen) - trained
        if looks < 1:
            self.progress.say(
                f"{len(self.seen)} networks were compared on the validation images; no further one is tried"
            )
            self.complete = False
            return []
        spent = self.measured.seconds[trained]
        if not self.maker.limit.allows(max(spent, default=0.0)):
            if free := [each for each in following if self._is_free(each, trained)]:
                return free[:looks]
            self.progress.say("the time limit leaves no time for another candidate; using the best one so far")
            self.complete = False
            return []
        return following[:looks]

    def _is_free(self, compression: float, trained: bool) -> bool:
        """Whether a candidate needs no time: an earlier command measured it, and its refit if it is fine-tuned."""
        refitted = self.measured.free(compression, False)
        if refitted is None:
            return False
        return not trained or self._passes(refitted) or self.measured.free(compression, True) is not None

    def _report(self, candidates: Sequence[Candidate], left: int, then: str = "") -> None:
        """Say how the newest candidates did, about how many of their kind follow, and what follows these."""
        for candidate in candidates:
            outlook = self._outlook(candidate.trained, left) + then if left and candidate is candidates[-1] else ""
            self._report_one(candidate, outlook)

    def _report_one(self, candidate: Candidate, outlook: str) -> None:
        judged = self.judge(candidate)
        how = "fine-tuned" if candidate.trained else "refitted"
        record = self.maker.finetune_record(candidate)
        if record is not None and record.metrics.best_epoch == START:
            how += " without a gain"
        passes, rule = "passes" if judged.passes else "fails", self.options.rule
        recoverable = not judged.passes and judged.loss.points <= self._recoverable
        if self.options.finetune and not candidate.trained and recoverable:
            passes += " without training"
        self.progress.say(
            f"{self._named(candidate.compression)}, {how}: {cost_texts(self.costs(candidate))}, "
            f"loss {judged.loss.points:.2f} ± {judged.loss.standard_error:.2f} points of {METRIC_NAMES[rule.metric]}, "
            f"together {judged.together(rule.max_loss)} (allowed {rule.max_loss:g}): {passes}{outlook}"
        )

    def _named(self, compression: float) -> str:
        """Name a candidate by its compression, such as `39x fewer parameters`."""
        return f"{compression:g}x {_LESS[self.options.target]}"

    def _outlook(self, trained: bool, left: int) -> str:
        """About how many candidates follow and how long they take."""
        spent = self.measured.seconds[trained]
        time_left = f", {_minutes(left * sum(spent) / len(spent))}" if spent else ""
        return f"; about {left} more to {'fine-tune' if trained else 'refit'}{time_left}"


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"
