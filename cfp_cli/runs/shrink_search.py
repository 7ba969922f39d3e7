"""The search of `cfp shrink`: measures candidates on the validation images, first refitted, then fine-tuned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.images import Batches, load_images, sample
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.foundation.content_hash import hash_content
from cfp_cli.foundation.errors import RunError, TargetError
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.progress import working
from cfp_cli.graph import ChannelGraph
from cfp_cli.measuring.loss_rule import LOOKS, Compared, Judged
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.measuring.predictions import Predictions, predict
from cfp_cli.pruning.frontier import LEAST, below_first_failure, least_compression, next_compression, remaining_looks
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.planning import make_plan
from cfp_cli.pruning.pruner import Pruner
from cfp_cli.pruning.reconstruct import RecordedOutputs
from cfp_cli.pruning.refit import Refit
from cfp_cli.runs.candidates import Candidate, Candidates
from cfp_cli.runs.directory import Run
from cfp_cli.runs.finetune import run_finetune
from cfp_cli.runs.inputs import ModelInput, Permission, load_for
from cfp_cli.runs.pruned_files import prune_record, save_pruned
from cfp_cli.runs.records import FinetuneRecord, PruneRecord, output_files
from cfp_cli.runs.scored_network import ScoredNetwork
from cfp_cli.runs.shrink_options import ShrinkOptions
from cfp_cli.runs.time_limit import OutOfTimeError, TimeLimit
from cfp_cli.training.history import EpochRow
from cfp_cli.training.loop import Listener, ShowEpochs
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.state import OtherRunError

# Images that candidates are refitted to: half of those of `cfp prune`, which refits a single network.
IMAGES = 512
# Fine-tuning begins with the smallest candidate whose refit loses at most this many points more than is allowed, or
# two images more.
RECOVERABLE = 1.0
# Factors of the search for that candidate and among fine-tuned ones, which cost minutes each.
STEP, CLOSE = 1.6, 1.3
# A plan whose compression is less than the desired one by this factor is another one.
CLOSEST = 1.1
# The largest compression at which budgets are tried.
LARGEST = 1e6

Teachers = Callable[[], Sequence[ModelInput]]


@dataclass
class Search:
    """Measures candidates of one run, and remembers them in the run directory.

    Attributes:
        run: the run directory.
        scored: the original; its data have no test split.
        options: the options.
        teachers: returns the teachers; called before the first fine-tuning.
        teaching: plain data that identify the teachers.
        permission: what the user allows for model files.
        show_epochs: opens a context that shows the epochs of a training.
        limit: the time limit.
        seen: the candidates of this search, in the order of their measurement.
        balanced: whether a class-balanced teacher was trained in this search.
    """

    run: Run
    scored: ScoredNetwork
    options: ShrinkOptions
    teachers: Teachers
    teaching: object
    permission: Permission
    show_epochs: ShowEpochs
    limit: TimeLimit
    seen: list[Candidate] = field(default_factory=list)
    balanced: bool = False

    def __post_init__(self) -> None:
        scored, options = self.scored, self.options
        self.progress = scored.progress
        self.stored = Candidates(self.run.folder)
        store = load_images(scored.dataset, "val", scored.preprocessing, progress=self.progress)
        self._validation = store.batches(options.batch_size)
        self._images: Batches = sample(
            scored.dataset, IMAGES, options.seed, scored.preprocessing, self.progress
        ).batches(options.batch_size)
        self._original = self._predict(scored.network)
        classes = spec_of(scored.network).classes
        self.original: Metrics = compute_metrics(self._original.classes, self._original.labels, classes)
        options.rule.require_images(self.original)
        self._pruner = Pruner(self._images, progress=self.progress)
        self.graph: ChannelGraph = scored.graph(self._pruner)
        self._spent: dict[bool, list[float]] = {False: [], True: []}
        self._pruning_key = hash_content(
            {
                "model": sha256(scored.model.path),
                "spec": spec_of(scored.network).to_json(),
                "scores": sha256(self.run.scores),
                "data": [scored.dataset.fingerprint, dict(scored.dataset.split_origin)],
                "images": IMAGES,
                "prune": replace(options.prune(2.0), ratio=0.0).__dict__,
                "seed": options.seed,
                "batch_size": options.batch_size,
            }
        )
        self._training_key = hash_content(
            {"prune": self._pruning_key, "training": options.training.to_json(), "teachers": self.teaching}
        )

    def judge(self, candidate: Candidate) -> Judged:
        """Judge a candidate."""
        return self.options.rule.judge(self.original, candidate.compared)

    def least(self) -> float:
        """Return the smallest compression that fits all budgets.

        Raises:
            TargetError: no network fits.
        """
        budgets = self.options.budgets
        if not budgets:
            return LEAST

        def fits(compression: float) -> bool:
            plan = self._nearest_plan(compression)
            return all(each.fits(plan.params_after, plan.macs_after) for each in budgets)

        with working(self.progress, "planning for the budgets"):
            return least_compression(fits, LARGEST)

    def walk(self, least: float) -> None:
        """Measure refitted candidates until the border of the allowed loss is found, without training.

        If candidates are fine-tuned afterwards, the border of the recoverable loss is found as well.

        Args:
            least: smallest compression that fits the budgets.
        """
        tried: dict[float, bool] = {}
        losses: dict[float, float] = {}

        def measure(compression: float) -> bool:
            candidate = self._measured(compression, self._refitted, trained=False)
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
        student = self._measured(compression, self._refitted, trained=False)
        if student is None or self.judge(student).passes:
            return student is not None
        # The student is that of another compression if both have the same plan.
        trained = self._measured(student.compression, lambda _: self._finetuned(student), trained=True)
        return trained is not None and self.judge(trained).passes

    def choose(self) -> Candidate:
        """Return the smallest candidate that passes below the first failure; if none does, the one with the least loss.

        Raises:
            TargetError: no candidate was measured.
        """
        if not self.seen:
            raise TargetError("no candidate was measured; lower the demands of --round-to, --keep or --ignore")
        cost = "macs" if self.options.target == "macs" else "params"
        if passing := self._passing():
            return min(passing, key=lambda each: (getattr(each, cost), self.judge(each).loss))
        return min(self.seen, key=lambda each: (self.judge(each).loss, getattr(each, cost)))

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
        if self._compare(self._load(path)) != candidate.compared:
            raise RunError(
                f"{path} does not predict what was measured; delete {self.run.folder / 'shrink.json'} and repeat the "
                "command"
            )

    def plan(self, candidate: Candidate) -> Plan:
        """Return the plan of a candidate that was refitted."""
        return Plan.load(self.stored.path(candidate, "plan"))

    def record_prune(self, candidate: Candidate) -> PruneRecord:
        """Return the record of the prune of a refitted candidate."""
        files = {name: self.stored.path(candidate, name) for name in ("pruned", "plan")}
        return prune_record(
            self.scored,
            self.plan(candidate),
            files,
            {**self.options.prune(candidate.compression).__dict__, "rounds": 1},
            self.options.seed,
            {"before": self.original, "reconstructed": candidate.compared.metrics},
            candidate.seconds,
        )

    def student(self, candidate: Candidate) -> Candidate:
        """Return the refitted network from which a candidate was fine-tuned; itself if it was not."""
        if not candidate.trained:
            return candidate
        found = self.stored.find(self._pruning_key, candidate.compression, False)
        assert found is not None
        return found

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
        if not self.limit.allows(max(spent, default=0.0)):
            self.progress.say("the time limit leaves no time for another candidate; using the best one so far")
            return False
        return True

    def _measured(
        self, compression: float, make: Callable[[float], Candidate | None], *, trained: bool
    ) -> Candidate | None:
        """Return a candidate from the run directory, or make it and store it at once; None if no plan reaches it."""
        key = self._training_key if trained else self._pruning_key
        again = next((each for each in self.seen if (each.compression, each.trained) == (compression, trained)), None)
        if again is not None:
            return again
        candidate = self.stored.find(key, compression, trained)
        if candidate is not None and trained and self.finetune_record(candidate) is None:
            candidate = None
        if candidate is None:
            candidate = make(compression)
            if candidate is None or candidate in self.seen:
                return candidate
            self.stored.add(candidate)
            self._spent[trained].append(candidate.seconds)
        self.seen.append(candidate)
        return candidate

    def _nearest_plan(self, compression: float) -> Plan:
        """Return the plan that is nearest to a compression; small networks have few sizes."""
        scored, options = self.scored, self.options.prune(compression)
        return make_plan(scored.network, scored.scores, options, graph=self.graph, tolerance=1.0)

    def _plan(self, compression: float) -> Plan:
        """Return the plan that is nearest to a compression.

        Raises:
            TargetError: it belongs to a much larger network.
        """
        plan = self._nearest_plan(compression)
        reached = 1 / max(1 - plan.achieved, 1e-9)
        if reached * CLOSEST < compression:
            raise TargetError(
                f"the nearest network has {reached:.3g}x; floors, roundings or frozen channels allow no other"
            )
        return plan

    @cached_property
    def _recorded(self) -> RecordedOutputs:
        device = self.scored.device
        batches = [images.to(device) for images, _ in self._images]
        with full_precision():
            return RecordedOutputs.of(self.scored.network, self.graph, batches, progress=self.progress)

    def _refitted(self, compression: float) -> Candidate | None:
        """Prune to a compression, prove and refit; None if no plan reaches the compression.

        If another compression had the same plan, its candidate is returned: one network is never measured twice.
        """
        try:
            plan = self._plan(compression)
        except TargetError as error:
            self.progress.say(f"{compression:g}x: {error}")
            return None
        if not all(each.fits(plan.params_after, plan.macs_after) for each in self.options.budgets):
            return None
        for each in self.seen:
            if not each.trained and each.params == plan.params_after and self.plan(each).sets == plan.sets:
                return each
        # The outputs of the original are recorded once for all candidates, which the time of the first does not show.
        recorded = self._recorded
        began = time.perf_counter()
        pruner = replace(self._pruner, refit=Refit(recorded=recorded))
        pruned, plan = pruner.carry_out(self.scored.network, plan, graph=self.graph, scores=self.scored.scores)
        compared = self._compare(pruned)
        folder = self._folder(compression, self._pruning_key)
        files = {"pruned": folder / "pruned.pt", "plan": folder / "plan.json"}
        save_pruned(self.scored, pruned, plan, files["pruned"], files["plan"])
        return Candidate(
            self._pruning_key,
            compression,
            False,
            plan.params_after,
            plan.macs_after,
            compared,
            time.perf_counter() - began,
            output_files(**files),
        )

    def _finetuned(self, student: Candidate) -> Candidate:
        """Fine-tune a refitted candidate.

        Raises:
            OutOfTimeError: it would end after the time limit.
        """
        teachers = self.teachers()
        began = time.perf_counter()
        self.run.add(self.record_prune(student))
        folder = self._folder(student.compression, self._training_key)
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
        compared = self._compare(self._load(files["finetuned"]))
        return Candidate(
            self._training_key,
            student.compression,
            True,
            student.params,
            student.macs,
            compared,
            time.perf_counter() - began,
            output_files(**files),
        )

    @contextmanager
    def within_limit(self, options: TrainOptions) -> Iterator[Listener]:
        """Show the epochs of a training, and stop it after an epoch if it cannot end within the time limit."""
        with self.show_epochs(options) as listen:

            def watch(rows: Sequence[EpochRow]) -> None:
                if listen is not None:
                    listen(rows)
                else:
                    self.progress.say(rows[-1].summary(options.epochs))
                needed = (options.epochs - len(rows)) * sum(row.seconds for row in rows) / len(rows)
                if not self.limit.allows(needed):
                    raise OutOfTimeError(needed - max(self.limit.remaining, 0.0))

            yield watch

    def _folder(self, compression: float, key: str) -> Path:
        return self.run.folder / "shrink" / f"{compression:g}x-{key[:8]}"

    def _load(self, path: Path) -> nn.Module:
        network, _ = load_for(self.scored.dataset, ModelInput(path, self.permission.arch, known=True), self.progress)
        return network.to(self.scored.device)

    def _predict(self, network: nn.Module) -> Predictions:
        batches = self._validation
        return predict(network, self.progress.track(batches, "evaluating", total=len(batches)))

    def _compare(self, network: nn.Module) -> Compared:
        original: Tensor = self._original.classes
        predicted = self._predict(network)
        return Compared.of(original, predicted.classes, predicted.labels, tuple(self.original.per_class))

    def _report(self, compression: float, left: int) -> None:
        """Say how the newest candidate of a compression did, and about how many follow."""
        candidate = next((each for each in reversed(self.seen) if each.compression == compression), None)
        if candidate is None:
            return
        judged = self.judge(candidate)
        how = "fine-tuned" if candidate.trained else "refitted"
        spent = self._spent[candidate.trained]
        time_left = f", {_minutes(left * sum(spent) / len(spent))} left" if spent and left else ""
        follow = f"; about {left} more{time_left}" if left else ""
        self.progress.say(
            f"{compression:g}x {how}: {candidate.params:,} parameters, {candidate.macs / 1e6:,.1f} M multiply-adds, "
            f"loss {judged.loss:.2f} points (at most {judged.bound:.2f}): {'passes' if judged.passes else 'fails'}"
            f"{follow}"
        )


def resumed(train: Callable[[bool], None]) -> None:
    """Continue a training where it was interrupted, or start it if the state is of another training."""
    try:
        train(True)
    except OtherRunError:
        train(False)


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"
