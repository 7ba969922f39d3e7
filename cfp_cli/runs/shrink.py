"""`cfp shrink`: from a trained classifier to the smallest network whose validation result is within a loss."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cfp_cli.data.dataset import Dataset
from cfp_cli.execution import launch
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.files import sha256, write_bytes
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.typed_json import to_json
from cfp_cli.measuring.intervals import Interval
from cfp_cli.measuring.loss_rule import Judged
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.report.frontier import FrontierPoint
from cfp_cli.runs.candidates import Candidate
from cfp_cli.runs.directory import Run
from cfp_cli.runs.export import run_export
from cfp_cli.runs.if_installed import if_installed
from cfp_cli.runs.inputs import NO_PERMISSION, DataInput, ModelInput, Permission, load_for, scored_data
from cfp_cli.runs.output_path import check_output
from cfp_cli.runs.records import Inputs, ScoreRecord, ShrinkMetrics, ShrinkRecord, output_files
from cfp_cli.runs.report import run_report
from cfp_cli.runs.score import ScoreOptions, run_score
from cfp_cli.runs.scored_network import ScoredNetwork
from cfp_cli.runs.shrink_options import ShrinkOptions
from cfp_cli.runs.shrink_search import Search, resumed
from cfp_cli.runs.tested import TestSplit, accuracy_change
from cfp_cli.runs.time_limit import TimeLimit
from cfp_cli.runs.train import run_train
from cfp_cli.training.loop import ShowEpochs
from cfp_cli.training.options import TrainOptions

# A second teacher is trained if a class has this many times the images of another one.
UNBALANCED = 2.0
# The training of that teacher, from the original.
BALANCED = TrainOptions.preset("teacher", epochs=5, lr=2e-4, sampler="balanced", views=4)


@dataclass(frozen=True)
class Shrunk:
    """The result of `cfp shrink`.

    Attributes:
        metrics: what was measured.
        judged: the judgement on the chosen network.
        chosen: the chosen point of the frontier.
        params_before, macs_before: costs of the original.
        change: 95 % interval of the change of the test accuracy; None without a test split.
        out: the checkpoint.
        export, report: further files; None if their package is not installed.
        seconds: how long the command took.
        line: the command line that repeats it.
    """

    metrics: ShrinkMetrics
    judged: Judged
    chosen: FrontierPoint
    params_before: int
    macs_before: int
    change: Interval | None
    out: Path
    export: Path | None
    report: Path | None
    seconds: float
    line: tuple[str, ...]

    @property
    def compression(self) -> float:
        """Parameters of the original divided by those of the chosen network."""
        return self.params_before / self.chosen.params

    @property
    def macs_ratio(self) -> float:
        """Multiply-adds of the original divided by those of the chosen network."""
        return self.macs_before / self.chosen.macs

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        metrics = self.metrics

        def full(each: Metrics | None) -> dict[str, Any] | None:
            return each.to_json() if each is not None else None

        return {
            "out": str(self.out),
            "met": metrics.met,
            "loss": self.judged.loss,
            "bound": self.judged.bound,
            "compression": self.compression,
            "macs_ratio": self.macs_ratio,
            "latency_ratio": None,
            "val": full(metrics.val),
            "test": full(metrics.test),
            "teacher": {"val": full(metrics.original_val), "test": full(metrics.original_test)},
            "accuracy_change_interval": list(self.change) if self.change else None,
            "frontier": [{**to_json(each), "val": each.val.to_json()} for each in metrics.frontier],
            "export": str(self.export) if self.export else None,
            "report": str(self.report) if self.report else None,
            "seconds": self.seconds,
            "command": shlex.join(self.line),
        }


def run_shrink(
    run: Run,
    model: ModelInput,
    data: DataInput,
    options: ShrinkOptions,
    *,
    teachers: Sequence[ModelInput] = (),
    permission: Permission = NO_PERMISSION,
    device: torch.device,
    show_epochs: ShowEpochs,
    progress: Progress = SILENT,
) -> Shrunk:
    """Find the smallest network that passes `options.rule`, and write it to `RUN/shrunk.pt`.

    Refitted candidates come first, then fine-tuned ones near the border. Each result is stored at once, so a repeated
    command goes on where an interrupted one stopped. Test images are read once, at the end.

    Args:
        run: the run directory.
        model: the trained classifier.
        data: the images.
        options: the options.
        teachers: one or two teachers of the fine-tuning; empty uses `model`, and if the classes are unbalanced also a
            class-balanced teacher, which is trained from it.
        permission: what the user allows for model files that the run directory names.
        device: where to compute.
        show_epochs: opens a context that shows the epochs of a training.
        progress: reports progress.

    Raises:
        TargetError: no network fits the budgets, or too few validation images.
        CfpError: an input cannot be used, or a stage fails.
    """
    if launch.launched():
        raise UsageError("cfp shrink runs in one process; start it without torchrun")
    began, limit = time.perf_counter(), TimeLimit(options.time_limit)
    out = run.folder / "shrunk.pt"
    check_output(out, inputs=[model.path, data.path], run=run.folder, own=[out.name], option="--run")
    _score(run, model, data, options, device, progress)
    scored = ScoredNetwork.open(run, model, permission, device, progress, replace(data, test=False))
    search = Search(
        run,
        scored,
        options,
        lambda: tuple(teachers) or _default_teachers(search, device),
        _teaching(scored, teachers),
        permission,
        show_epochs,
        limit,
    )
    least = search.least()
    search.walk(least)
    if options.finetune:
        search.train(least)
    chosen = search.choose()
    search.confirm(chosen)
    _write(run, search, chosen, out)
    original_test, test, change = _test(run, scored, search, chosen, data, options)
    judged = search.judge(chosen)
    points = tuple(_point(search, each, each is chosen) for each in search.seen)
    metrics = ShrinkMetrics(
        points,
        options.rule.max_loss,
        options.rule.margin,
        options.rule.metric,
        judged.passes,
        search.original,
        original_test,
        chosen.compared.metrics,
        test,
    )
    record = ShrinkRecord(
        arguments=_arguments(options),
        seed=options.seed,
        inputs=Inputs(
            model=scored.model.record(),
            data=scored.data.record(scored.dataset),
            teachers=tuple(each.record() for each in teachers),
        ),
        outputs=output_files(shrunk=out),
        seconds=time.perf_counter() - began,
        metrics=metrics,
    )
    run.add(record)
    small = ModelInput(out, permission.arch, known=True)
    exported = if_installed(
        progress,
        lambda: run_export(run, small, None, run.folder / "shrunk.onnx", "onnx", progress=progress).path,
    )
    reported = if_installed(
        progress,
        lambda: run_report(run, bench=False, permission=permission, device=device, progress=progress).out,
    )
    plan = search.plan(search.student(chosen))
    return Shrunk(
        metrics,
        judged,
        next(each for each in points if each.chosen),
        plan.params_before,
        plan.macs_before,
        change,
        out,
        exported,
        reported,
        time.perf_counter() - began,
        record.line,
    )


def _score(
    run: Run, model: ModelInput, data: DataInput, options: ShrinkOptions, device: torch.device, progress: Progress
) -> None:
    """Score the model, unless the run has scores of this model and these images."""
    record = run.latest(ScoreRecord)
    if record is not None and record.inputs.model is not None and record.inputs.data is not None:
        dataset = data.open(SILENT, compare_splits=False)
        same_data = replace(record.inputs.data, path=data.path.resolve()) == data.record(dataset)
        same_model = model.path.is_file() and record.inputs.model.sha256 == sha256(model.path)
        if same_model and same_data and _intact(run, record):
            progress.say(f"using the scores in {run.scores}")
            return
    progress.say("scoring the channels")
    scoring = ScoreOptions(seed=options.seed)
    run_score(run, model, data, scoring, require_labels=True, device=device, progress=progress)


def _intact(run: Run, record: ScoreRecord) -> bool:
    written = record.outputs.get("scores")
    return written is not None and run.scores.is_file() and sha256(run.scores) == written.sha256


def _balance(dataset: Dataset) -> float:
    """Images of the largest class divided by those of the smallest one that has any, in the training split."""
    counts = [each for each in dataset.counts("train") if each]
    return max(counts) / min(counts)


def _teaching(scored: ScoredNetwork, teachers: Sequence[ModelInput]) -> object:
    """What identifies the teachers, before those that are not given are trained."""
    if teachers:
        return [sha256(each.path) for each in teachers if each.path.is_file()]
    balanced = _balance(scored.dataset) >= UNBALANCED
    return ["original", BALANCED.to_json()] if balanced else ["original"]


def _default_teachers(search: Search, device: torch.device) -> tuple[ModelInput, ...]:
    """The original, and if the classes are unbalanced a class-balanced teacher, trained from it."""
    scored, run = search.scored, search.run
    ratio = _balance(scored.dataset)
    if ratio < UNBALANCED:
        return (scored.model,)
    out = run.folder / "shrink" / "class-balanced.pt"
    options = replace(BALANCED, seed=search.options.seed)
    if not search.balanced:
        scored.progress.say(
            f"the largest class has {ratio:.1f} times the images of the smallest, so a class-balanced teacher is "
            f"trained, {options.epochs} epochs; pass --teachers {scored.model.path} to leave it out"
        )

        def train(resume: bool) -> None:
            with search.within_limit(options) as listen:
                run_train(
                    scored.data,
                    None,
                    out,
                    options,
                    init=scored.model,
                    resume=resume,
                    device=device,
                    progress=scored.progress,
                    listen=listen,
                )

        resumed(train)
        search.balanced = True
    return scored.model, ModelInput(out, search.permission.arch, known=True)


def _write(run: Run, search: Search, chosen: Candidate, out: Path) -> None:
    """Write the chosen network and the files that the other commands of the run read, and add their records."""
    student = search.student(chosen)
    copies = {run.pruned: (student, "pruned"), run.plan: (student, "plan")}
    if chosen.trained:
        copies |= {run.finetuned: (chosen, "finetuned"), run.folder / "history.csv": (chosen, "history")}
    for target, (candidate, name) in {**copies, out: (chosen, chosen.checkpoint)}.items():
        write_bytes(target, search.stored.path(candidate, name).read_bytes())
    finetune = search.finetune_record(chosen)
    # The newest records are those of the chosen network, whatever was tried after it.
    run.add(search.record_prune(student))
    if finetune is not None:
        run.add(finetune)


def _test(
    run: Run, scored: ScoredNetwork, search: Search, chosen: Candidate, data: DataInput, options: ShrinkOptions
) -> tuple[Metrics | None, Metrics | None, Interval | None]:
    """Return test metrics of the original and of the chosen network, and the interval of the change of accuracy."""
    source, dataset = scored_data(run, data)
    dataset = dataset.in_order(scored.dataset.classes)
    if "test" not in dataset.splits:
        return None, None, None
    split = TestSplit(run, source, dataset, options.batch_size, scored.progress)
    path = search.stored.path(chosen, chosen.checkpoint)
    network, _ = load_for(dataset, ModelInput(path, search.permission.arch, known=True), scored.progress)
    pair = ((scored.network, sha256(scored.model.path)), (network.to(scored.device), sha256(path)))
    change = accuracy_change([split.run(*each) for each in pair])
    original, small = (split.of(*each) for each in pair)
    return original, small, change


def _point(search: Search, candidate: Candidate, chosen: bool) -> FrontierPoint:
    judged = search.judge(candidate)
    return FrontierPoint(
        compression=candidate.compression,
        trained=candidate.trained,
        params=candidate.params,
        macs=candidate.macs,
        val=candidate.compared.metrics,
        loss=judged.loss,
        bound=judged.bound,
        passes=judged.passes,
        chosen=chosen,
        seconds=candidate.seconds,
    )


def _arguments(options: ShrinkOptions) -> dict[str, Any]:
    return {**asdict(options), "budgets": [str(each) for each in options.budgets]}
