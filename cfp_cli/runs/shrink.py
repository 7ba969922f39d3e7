"""`cfp shrink`: from a trained classifier to the smallest network whose validation result is within a loss."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cfp_cli.data.without_labels import has_labels
from cfp_cli.execution import distributed
from cfp_cli.execution.pool import Pool
from cfp_cli.foundation.errors import DataError, GraphError
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.runs.candidate_maker import CandidateMaker
from cfp_cli.runs.candidate_plans import CandidatePlans
from cfp_cli.runs.candidate_work import CandidateWork, Job
from cfp_cli.runs.candidates import Candidate
from cfp_cli.runs.directory import Run
from cfp_cli.runs.export import run_export
from cfp_cli.runs.if_installed import if_installed
from cfp_cli.runs.inputs import NO_PERMISSION, DataInput, ModelInput, Permission, load_for
from cfp_cli.runs.network_check import returns_logits
from cfp_cli.runs.output_path import check_output
from cfp_cli.runs.records import Inputs, ScoreRecord, ShrinkMetrics, ShrinkRecord, output_files
from cfp_cli.runs.report import run_report
from cfp_cli.runs.said_once import SaidOnce
from cfp_cli.runs.score import ScoreOptions, run_score
from cfp_cli.runs.scored_network import ScoredNetwork
from cfp_cli.runs.shrink_options import ShrinkOptions
from cfp_cli.runs.shrink_result import finish, frontier_point, over_budget, test_split, tested_once, write_chosen
from cfp_cli.runs.shrink_search import Search
from cfp_cli.runs.shrink_teachers import DefaultTeachers, teaching
from cfp_cli.runs.shrunk import Shrunk
from cfp_cli.runs.time_limit import TimeLimit
from cfp_cli.runs.validation import Validation


def run_shrink(
    run: Run,
    model: ModelInput,
    data: DataInput,
    options: ShrinkOptions,
    *,
    teachers: Sequence[ModelInput] = (),
    permission: Permission = NO_PERMISSION,
    device: torch.device,
    progress: Progress = SILENT,
) -> Shrunk:
    """Find the smallest network that passes `options.rule`, and write it to `RUN/shrunk.pt`.

    Refitted candidates come first, then fine-tuned ones near the border. Each result is stored at once, so a repeated
    command goes on where an interrupted one stopped. Test images are read once, at the end.

    If torchrun started several processes, each makes a part of the candidates. The first one plans and chooses, and all
    return its result.

    Args:
        run: the run directory.
        model: the trained classifier.
        data: the images.
        options: the options.
        teachers: one or two teachers of the fine-tuning; empty uses `model`, and if the classes are unbalanced also a
            class-balanced teacher, which is trained from it.
        permission: what the user allows for model files that the run directory names.
        device: where to compute.
        progress: reports progress.

    Raises:
        TargetError: no network fits the budgets.
        StoppedError: another process failed.
        CfpError: an input cannot be used, or a stage fails.
    """
    began, limit = time.perf_counter(), TimeLimit(options.time_limit)
    progress = SaidOnce(progress)
    out = run.folder / "shrunk.pt"
    check_output(out, inputs=[model.path, data.path], run=run.folder, own=[out.name], option="--run")
    workers, device = distributed.join(device)
    if not has_labels(data.path):
        data, options = _without_labels(data, options, progress)
    validation = _validation(run, model, replace(data, test=False), options, device, progress)
    _score(run, model, data, options, device, progress)
    scored = ScoredNetwork.open(run, model, permission, device, progress, replace(data, test=False))
    # Only the first process may write to the cache of other commands.
    cache = run.folder / "cache" if workers.first else run.folder / "shrink" / f"cache-{workers.rank}"
    work = CandidateWork(run, scored, options, validation, permission, limit, cache)
    pool: Pool[Job, Candidate] = Pool(workers.patient(), work.do)
    if not workers.first:
        shrunk: Shrunk = pool.serve()
        return shrunk
    with pool.ending() as end, distributed.alone():
        shrunk = _search(work, pool, out, data, teachers, began)
        end(shrunk)
    return shrunk


def _search(
    work: CandidateWork,
    pool: Pool[Job, Candidate],
    out: Path,
    data: DataInput,
    teachers: Sequence[ModelInput],
    began: float,
) -> Shrunk:
    """Search for the smallest network, and write and test it; this runs in the first process only."""
    run, scored, options, permission = work.run, work.scored, work.options, work.permission
    device, progress = scored.device, scored.progress
    default = DefaultTeachers()
    maker = CandidateMaker(
        CandidatePlans(work),
        pool,
        lambda: tuple(teachers) or default.of(maker),
        teaching(scored, teachers),
    )
    search = Search(maker)
    least = search.least()
    search.walk(least)
    if options.finetune:
        search.train(least)
    chosen = search.choose()
    search.confirm(chosen)
    write_chosen(maker, chosen, out)
    finished = finish(maker, maker.load(out))
    split = test_split(maker, data)
    original_test, test, change = tested_once(maker, chosen, split)
    judged = search.judge(chosen)
    exceeded = over_budget(options.budgets, finished)
    points = tuple(frontier_point(search, each, each is chosen) for each in search.seen)
    metrics = ShrinkMetrics(
        points,
        options.rule.max_loss,
        options.rule.metric,
        judged.passes and not exceeded,
        search.original,
        original_test,
        chosen.compared.metrics,
        test,
        finished.before if finished else None,
        finished.after if finished else None,
        finished.bytes if finished else None,
        exceeded,
        data.labels,
        maker.validation.views,
        search.complete,
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
    # Most of the report is about classes, which images without labels do not have.
    reported = data.labels and if_installed(
        progress,
        lambda: run_report(run, bench=False, permission=permission, device=device, progress=progress, split=split).out,
    )
    plan = maker.plan(maker.student(chosen))
    return Shrunk(
        metrics,
        judged,
        next(each for each in points if each.chosen),
        plan.params_before,
        plan.macs_before,
        change,
        out,
        exported,
        reported or None,
        time.perf_counter() - began,
        record.line,
    )


def _without_labels(data: DataInput, options: ShrinkOptions, progress: Progress) -> tuple[DataInput, ShrinkOptions]:
    """Return the input of images without labels, and the options without fine-tuning, which chooses by labels here.

    Raises:
        DataError: the metric needs labels.
    """
    if options.rule.metric != "agreement":
        raise DataError(
            f"{data.path} has no class folders, so only the agreement with the original can be measured; pass "
            f"--metric agreement, or arrange the images as {data.path}/CLASS/*"
        )
    progress.say(
        f"{data.path} has no class folders, so networks are compared with the original's predictions, and are not "
        "fine-tuned; `cfp finetune` can do that afterwards"
    )
    return replace(data, labels=False), replace(options, finetune=False)


def _validation(
    run: Run, model: ModelInput, data: DataInput, options: ShrinkOptions, device: torch.device, progress: Progress
) -> Validation:
    """Evaluate the original, and warn of few validation images before any longer work."""
    network, dataset = load_for(data.open(progress), model, progress)
    if not returns_logits(network):
        raise GraphError(f"{model.path} returns no logits [images, classes], which this command needs; use `cfp score`")
    cache = run.folder / "cache"
    validation = Validation(
        network.to(device), dataset, options.batch_size, options.training.augment, options.seed, cache, progress
    )
    if warning := options.rule.warning(validation.metrics.images):
        progress.say(warning)
    return validation


def _score(
    run: Run, model: ModelInput, data: DataInput, options: ShrinkOptions, device: torch.device, progress: Progress
) -> None:
    """Score the model, unless the run has scores of this model and these images; all processes share the work."""
    workers = distributed.current()
    if workers.broadcast(workers.first and _is_scored(run, model, data)):
        progress.say(f"using the scores in {run.scores}")
        return
    progress.say("scoring the channels")
    scoring = ScoreOptions(seed=options.seed)
    run_score(run, model, data, scoring, require_labels=data.labels, device=device, progress=progress)
    # The first process writes the scores and their record.
    workers.barrier()
    run.reload()


def _is_scored(run: Run, model: ModelInput, data: DataInput) -> bool:
    record = run.latest(ScoreRecord)
    if record is None or record.inputs.model is None or record.inputs.data is None:
        return False
    dataset = data.open(SILENT, compare_splits=False)
    same_data = replace(record.inputs.data, path=data.path.resolve()) == data.record(dataset)
    same_model = model.path.is_file() and record.inputs.model.sha256 == sha256(model.path)
    return same_model and same_data and _intact(run, record)


def _intact(run: Run, record: ScoreRecord) -> bool:
    written = record.outputs.get("scores")
    return written is not None and run.scores.is_file() and sha256(run.scores) == written.sha256


def _arguments(options: ShrinkOptions) -> dict[str, Any]:
    return {**asdict(options), "budgets": [str(each) for each in options.budgets]}
