"""`cfp report`: collect what the commands of a run recorded, measure what they did not, and write the page."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.checkpoints.stored_type import stored_type
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.duplicates import repeated_test_images
from cfp_cli.data.images import sample
from cfp_cli.data.raster import as_colours
from cfp_cli.data.transforms import BrokenImageError, Preprocessing
from cfp_cli.exporting.benchmark import Benchmark, benchmark, count_macs
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import sha256, write_bytes
from cfp_cli.foundation.progress import SILENT, Progress, working
from cfp_cli.foundation.versions import versions
from cfp_cli.graph import channel_sets
from cfp_cli.measuring.intervals import Interval
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.measuring.mistakes import Mistake
from cfp_cli.pruning.plan import Plan
from cfp_cli.report.card import DataFacts, render_card
from cfp_cli.report.collect_layers import collect_layers, set_widths
from cfp_cli.report.page import render_page, require_extra
from cfp_cli.report.page_data import Example, ModelFacts, PageData, Provenance
from cfp_cli.report.verdict import Verdict, give_verdict
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import (
    NO_PERMISSION,
    ModelInput,
    Permission,
    load_for,
    load_teacher,
    scored_data,
    scored_model,
)
from cfp_cli.runs.next_step import next_step
from cfp_cli.runs.output_path import check_output
from cfp_cli.runs.outputs import finetuned_model, pruned_model, recorded_output
from cfp_cli.runs.records import (
    BenchRecord,
    FinetuneRecord,
    Inputs,
    PruneRecord,
    Record,
    ReportMetrics,
    ReportRecord,
    ScoreRecord,
    ShrinkRecord,
    output_files,
)
from cfp_cli.runs.tested import TestSplit, accuracy_change, mistake_images, shown_mistakes
from cfp_cli.scoring.scores import Scores
from cfp_cli.training.history import read_csv

BATCHES = (1, 16)
# Mistakes shown for each class.
WORST = 4
NOT_PRUNED = "The run is not pruned yet. Run cfp prune --ratio 0.95, for example."
NOT_TUNED = (
    "The run is not fine-tuned yet. Run cfp finetune --teachers MODEL, with the scored model, to make the curves."
)
TEACHERS = ("representation teacher", "class-balanced teacher")


@dataclass(frozen=True)
class Reported:
    """A written report.

    Attributes:
        out: the page.
        card: the model card; None if none was written.
        bytes: size of the page.
        layers: number of channel sets on the page.
        left_out: why a section is missing, by the section's id.
        verdict: how much smaller and faster the last network is, and what that costs in accuracy.
        original, final: test metrics of the original and of the last network; None without a test split, and `final`
            before pruning.
        change: 95 % interval of the change of the test accuracy; None if it was not measured.
        mistakes: the worst mistakes of the last network on the test images.
        next: the command that continues the run.
    """

    out: Path
    card: Path | None
    bytes: int
    layers: int
    left_out: dict[str, str]
    verdict: Verdict
    original: Metrics | None
    final: Metrics | None
    change: Interval | None
    mistakes: tuple[Mistake, ...]
    next: str

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "out": str(self.out),
            "card": str(self.card) if self.card else None,
            "bytes": self.bytes,
            "layers": self.layers,
            "left_out": self.left_out,
            "verdict": self.verdict.to_json(),
            "original": self.original.to_json() if self.original else None,
            "final": self.final.to_json() if self.final else None,
            "accuracy_change_interval": list(self.change) if self.change else None,
            "mistakes": [each.to_json() for each in self.mistakes],
        }


def run_report(
    run: Run,
    *,
    out: Path | None = None,
    image: Path | None = None,
    bench: bool = True,
    worst: int = WORST,
    card: Path | None = None,
    batch_size: int = 64,
    permission: Permission = NO_PERMISSION,
    device: torch.device,
    progress: Progress = SILENT,
    split: TestSplit | None = None,
) -> Reported:
    """Write the HTML page of a run.

    Test metrics and latency that the run recorded for the same files are reused; the others are measured now.

    Args:
        run: a run that is scored at least.
        out: page to write, if not `RUN/report.html`.
        image: image whose feature maps are shown; None takes the first scored image.
        bench: measure latency where the run has no record of it.
        worst: number of mistakes to show for each class.
        card: model card to write, a Markdown file; None writes none.
        batch_size: images per batch of a test.
        permission: what the user allows for a model that the run directory names.
        device: where to compute.
        progress: reports progress.
        split: the test images of the run, if networks were tested on them before; their predictions are reused.

    Raises:
        RunError: the run is not scored, or one of its files is missing or has changed since.
        CfpError: an input cannot be used, or jinja2 is not installed.
    """
    began = time.perf_counter()
    require_extra()
    source = scored_model(run, None, permission)
    data, dataset = scored_data(run, None, progress)
    dataset.require_labels("`cfp report`")
    path = out or run.folder / "report.html"
    inputs = [source.path, data.path, *([image] if image is not None else [])]
    check_output(path, inputs=inputs, run=run.folder, own=["report.html"])
    if card is not None:
        check_output(card, inputs=[*inputs, path], run=run.folder, own=["model-card.md"], option="--card")
    scores = Scores.load(recorded_output(run, run.require(ScoreRecord), "scores"))
    network, dataset = load_for(dataset, source, progress)
    network = network.to(device)
    spec = spec_of(network)
    prune, finetune, left_out = _current_records(run, source)
    networks = [_Network("original", source, network)]
    plan = None
    if prune is not None:
        pruned = pruned_model(run, permission)
        networks.append(_Network("pruned", pruned, load_teacher(dataset, pruned, progress).to(device)))
        # The plan comes from the checkpoint: RUN/plan.json may have been overwritten since.
        plan = Plan.from_json(spec_of(networks[1].model).plan, pruned.path)
    if finetune is not None:
        finetuned = finetuned_model(run, permission)
        networks.append(_Network("fine-tuned", finetuned, load_teacher(dataset, finetuned, progress).to(device)))
    test_metrics = split or TestSplit(run, data, dataset, batch_size, progress)
    models = tuple(_facts(each, test_metrics) for each in networks)
    example, tensor = _example(dataset, scores, Preprocessing.of(spec), image)
    with working(progress, "tracing the network"):
        graph = channel_sets(network, tensor.to(device))
    latency = _recorded_latency(run, models) if plan is not None else ()
    if plan is not None and not latency and bench:
        pair = (networks[0], networks[-1])
        latency = tuple(
            benchmark(
                {each.role: each.model for each in pair},
                {each.role: each.file.path for each in pair},
                BATCHES,
                None,
                0.5,
                progress=progress,
            )
        )
    elif not latency:
        left_out["latency"] = "Latency was not measured." if plan is not None else NOT_PRUNED
    tested = [test_metrics.run(each.model, sha256(each.file.path)) for each in (networks[0], networks[-1])]
    change = accuracy_change(tested) if len(networks) > 1 else None
    mistakes, wrong = shown_mistakes(tested[-1], dataset, worst)
    repeated = len(repeated_test_images(dataset))
    page_data = PageData(
        arch=spec.arch,
        classes=spec.classes,
        data=str(data.path),
        test_images=len(dataset.splits.get("test", ())),
        similarity=scores.similarity,
        richness=scores.richness,
        scored_images=scores.images,
        models=models,
        teachers=_teacher_metrics(finetune),
        widths=set_widths(plan) if plan is not None else (),
        layers=collect_layers(scores, plan, graph, tensor.to(device)),
        example=example,
        max_abs_logit_error=plan.max_abs_logit_error if plan is not None else None,
        epochs=read_csv(recorded_output(run, finetune, "history")) if finetune is not None else (),
        best_epoch=finetune.metrics.best_epoch if finetune is not None and finetune.metrics.best_epoch >= 0 else None,
        chosen_by_loss=finetune is not None and finetune.arguments.get("select") == "loss",
        latency=latency,
        lineage=spec_of(networks[-1].model).lineage,
        records=[_provenance(each) for each in run.records if not isinstance(each, ReportRecord)],
        versions=versions(),
        left_out=left_out,
        change=change,
        mistakes=mistake_images(mistakes, tested[-1], dataset),
        wrong=wrong,
        repeated=repeated,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    shrink = _shrink_record(run, models[-1])
    if shrink is not None:
        found = shrink.metrics
        page_data = replace(page_data, frontier=found.frontier, max_loss=found.max_loss, views=found.views)
    content = render_page(page_data)
    write_bytes(path, content)
    outputs = {"report": path}
    if card is not None:
        facts = DataFacts(
            str(data.path),
            dataset.fingerprint,
            {name: len(items) for name, items in dataset.splits.items()},
            dataset.split_origin,
        )
        write_bytes(card, render_card(page_data, spec_of(networks[-1].model), facts).encode("utf-8", "replace"))
        outputs["card"] = card
    run.add(
        ReportRecord(
            arguments={"image": str(image) if image else None, "bench": bench, "batch_size": batch_size},
            seed=0,
            inputs=Inputs(model=source.record(), data=data.record(dataset)),
            outputs=output_files(**outputs),
            seconds=time.perf_counter() - began,
            metrics=ReportMetrics(len(content), left_out),
        )
    )
    return Reported(
        path,
        card,
        len(content),
        len(page_data.layers),
        left_out,
        give_verdict(page_data.original, page_data.final, change, latency, repeated),
        models[0].metrics,
        models[-1].metrics if len(models) > 1 else None,
        change,
        mistakes,
        next_step(run, prune, finetune, permission.arch),
    )


class _Network(NamedTuple):
    """A network of the run: its role on the page, its file, and the loaded model."""

    role: str
    file: ModelInput
    model: nn.Module


def _current_records(run: Run, source: ModelInput) -> tuple[PruneRecord | None, FinetuneRecord | None, dict[str, str]]:
    """Return the newest prune and fine-tuning that started from the scored model, and why sections are left out."""
    prune, finetune = run.latest(PruneRecord), run.latest(FinetuneRecord)
    without_prune = ("channels", "curves", "confusion", "recall", "latency")
    if prune is None:
        return None, None, dict.fromkeys(without_prune, NOT_PRUNED)
    if prune.inputs.model is None or prune.inputs.model.sha256 != sha256(source.path):
        return None, None, dict.fromkeys(without_prune, "The newest prune started from another model.")
    if finetune is None:
        return prune, None, {"curves": NOT_TUNED}
    if finetune.inputs.model is None or finetune.inputs.model.sha256 != prune.outputs["pruned"].sha256:
        return prune, None, {"curves": "The newest fine-tuning started from another pruned model."}
    return prune, finetune, {}


def _facts(network: _Network, test_metrics: TestSplit) -> ModelFacts:
    digest = sha256(network.file.path)
    return ModelFacts(
        role=network.role,
        path=str(network.file.path),
        sha256=digest,
        params=sum(parameter.numel() for parameter in network.model.parameters()),
        macs=count_macs(network.model, spec_of(network.model).input_shape),
        bytes=network.file.path.stat().st_size,
        stored=stored_type(network.file.path, unsafe_pickle=network.file.unsafe_pickle),
        metrics=test_metrics.of(network.model, digest),
    )


def _example(
    dataset: Dataset, scores: Scores, preprocessing: Preprocessing, image: Path | None
) -> tuple[Example, torch.Tensor]:
    """Return the image of the feature maps, as shown and as preprocessed float32 [1, 3, H, W].

    Raises:
        DataError: the image cannot be read.
    """
    if image is None:
        first = sample(dataset, 1, int(scores.options.get("seed", 0)), preprocessing)
        path, label, pixels = first.paths[0], dataset.classes[int(first.labels[0])], first.images[0]
    else:
        labels = {item.path.resolve(): item.label for items in dataset.splits.values() for item in items}
        index = labels.get(image.resolve())
        path, label = image, dataset.classes[index] if index is not None else ""
        try:
            pixels = torch.from_numpy(preprocessing.pixels(image))
        except (BrokenImageError, OSError) as error:
            raise DataError(f"{image} cannot be read ({error}); pass another --image") from error
    return Example(path.name, label, as_colours(pixels.numpy())), preprocessing.normalise(pixels[None])


def _recorded_latency(run: Run, models: tuple[ModelFacts, ...]) -> tuple[Benchmark, ...]:
    """Return the newest recorded benchmark of both the original and the final network; empty without one."""
    roles = {models[0].sha256: models[0].role, models[-1].sha256: models[-1].role}
    for record in reversed(run.records):
        if isinstance(record, BenchRecord):
            files = (file.sha256 for file in record.inputs.models)
            by_hash = dict(zip(files, record.metrics.models, strict=True))
            if roles.keys() <= by_hash.keys():
                return tuple(replace(by_hash[digest], model=role) for digest, role in roles.items())
    return ()


def _shrink_record(run: Run, last: ModelFacts) -> ShrinkRecord | None:
    """Return the newest record of `cfp shrink`, if it wrote the last network."""
    record = run.latest(ShrinkRecord)
    return record if record is not None and record.outputs["shrunk"].sha256 == last.sha256 else None


def _teacher_metrics(record: FinetuneRecord | None) -> dict[str, Metrics]:
    metrics = record.metrics.teachers if record is not None else ()
    return {name: each for name, each in zip(TEACHERS, metrics, strict=False) if each is not None}


def _provenance(record: Record) -> Provenance:
    return Provenance(
        command=record.command,
        line=record.line,
        arguments=record.arguments,
        seed=record.seed,
        inputs={name: (str(each.path), each.sha256) for name, each in record.inputs.by_name.items()},
        outputs={name: (str(each.path), each.sha256) for name, each in record.outputs.items()},
        seconds=record.seconds,
        versions=record.versions,
        finished=record.finished,
    )
