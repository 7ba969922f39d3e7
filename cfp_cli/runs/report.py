"""`cfp report`: gather what a run did, measure what it did not record, and write the page."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cfp_cli.checkpoints.checkpoint import spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import load_images, sample
from cfp_cli.data.transforms import BrokenImageError, Preprocessing
from cfp_cli.exporting.benchmark import Benchmark, benchmark, count_macs
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import sha256, write_bytes
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.versions import versions
from cfp_cli.graph import channel_sets
from cfp_cli.measuring.latency import Latency
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.pruning.plan import Plan
from cfp_cli.report.contents import Contents, Example, ModelFacts, metrics_from_json
from cfp_cli.report.layers import layers, widths
from cfp_cli.report.page import require_extra, to_html
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import DataInput, ModelInput, load_for, scored_data, scored_model
from cfp_cli.runs.outputs import written
from cfp_cli.scoring.scores import Scores
from cfp_cli.training.history import read_csv

BATCHES = (1, 16)
NOT_PRUNED = "The run has no prune step."
NOT_TUNED = "The run has no fine-tuning step."


@dataclass(frozen=True)
class Reported:
    """What a report came to.

    Attributes:
        out: the page.
        bytes: its size.
        layers: channel sets that it shows.
        left_out: why a section is missing, by its id.
    """

    out: Path
    bytes: int
    layers: int
    left_out: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {"out": str(self.out), "bytes": self.bytes, "layers": self.layers, "left_out": self.left_out}


def report_step(
    run: Run,
    *,
    out: Path | None = None,
    image: Path | None = None,
    bench: bool = True,
    batch_size: int = 64,
    device: torch.device,
    progress: Progress = SILENT,
) -> Reported:
    """Write the page of a run; writes `RUN/report.html`.

    Test metrics and latency that the run recorded of the same files are taken from there; others are measured now.

    Args:
        run: a run that is scored at least.
        out: where the page goes, if not `RUN/report.html`.
        image: image of the feature maps; None takes the first of the images that were scored.
        bench: measure latency where the run has not.
        batch_size: images a batch of a test.
        device: where to compute.
        progress: told of what takes long.

    Raises:
        RunError: the run is not scored, or one of its files is gone or has changed since.
        CfpError: an input cannot be used, or the extra `report` is missing.
    """
    began = time.perf_counter()
    require_extra()
    source = scored_model(run, None)
    data, dataset = scored_data(run, None, progress)
    scores = Scores.load(run.scores)
    network = load_for(dataset, source, progress).to(device)
    spec = spec_of(network)
    steps, left_out = _current(run, source)
    networks = [("original", source, network)]
    plan = None
    if "prune" in steps:
        for role, command in (("pruned", "prune"), ("fine-tuned", "finetune")):
            if command in steps:
                made = written(run, command)
                networks.append((role, made, load_for(dataset, made, progress).to(device)))
        # The checkpoint's own plan: RUN/plan.json may have been written again since.
        plan = Plan.from_json(spec_of(networks[1][2]).plan or {})
    measured = _Measured(run, data, dataset, batch_size, progress)
    models = tuple(_facts(role, file, model, measured) for role, file, model in networks)
    example, tensor = _example(dataset, scores, Preprocessing.of(spec), image)
    graph = channel_sets(network, tensor.to(device))
    latency = _recorded_latency(run, models) if len(models) > 1 else ()
    if len(models) > 1 and not latency and bench:
        last = networks[-1]
        pair = {"original": network, last[0]: last[2]}
        files = {"original": source.path, last[0]: last[1].path}
        latency = tuple(benchmark(pair, files, BATCHES, None, 0.5, progress=progress))
    elif not latency:
        left_out["latency"] = "Latency was not measured." if plan is not None else NOT_PRUNED
    rows = read_csv(run.folder / "history.csv") if "finetune" in steps else ()
    contents = Contents(
        arch=spec.arch,
        classes=spec.classes,
        data=str(data.path),
        test_images=len(dataset.splits.get("test", ())),
        similarity=scores.similarity,
        richness=scores.richness,
        scored_images=scores.images,
        models=models,
        teachers=_teachers(steps.get("finetune")),
        widths=widths(plan) if plan is not None else (),
        layers=layers(scores, plan, graph, tensor.to(device)),
        example=example,
        max_abs_logit_error=plan.max_abs_logit_error if plan is not None else None,
        epochs=rows,
        best_epoch=steps["finetune"]["metrics"]["best_epoch"] if rows else None,
        latency=latency,
        lineage=spec_of(networks[-1][2]).lineage,
        steps=[each for each in run.steps if each["command"] != "report"],
        versions=versions(),
        left_out=left_out,
    )
    content = to_html(contents)
    path = out or run.folder / "report.html"
    write_bytes(path, content)
    run.record(
        "report",
        arguments={"image": str(image) if image else None, "bench": bench, "batch_size": batch_size},
        seed=0,
        inputs={"model": source.record(), "data": data.record(dataset)},
        seconds=time.perf_counter() - began,
        metrics={"bytes": len(content), "left_out": left_out},
        outputs={"report": str(path.resolve()), "report_sha256": sha256(path)},
    )
    return Reported(path, len(content), len(contents.layers), left_out)


def _current(run: Run, source: ModelInput) -> tuple[dict[str, Any], dict[str, str]]:
    """The newest prune and fine-tuning that follow from the model that was scored, and why sections are left out."""
    prune, finetune = run.latest("prune"), run.latest("finetune")
    digest = sha256(source.path)
    if prune is None or prune["inputs"]["model"]["sha256"] != digest:
        why = NOT_PRUNED if prune is None else "The run was pruned from another model than it is scored with now."
        return {}, dict.fromkeys(("channels", "curves", "confusion", "recall", "latency"), why)
    if finetune is None or finetune["inputs"]["model"]["sha256"] != prune["outputs"]["pruned_sha256"]:
        why = NOT_TUNED if finetune is None else "The run's fine-tuning was of another pruned model."
        return {"prune": prune}, {"curves": why}
    return {"prune": prune, "finetune": finetune}, {}


class _Measured:
    """Test metrics by file: recorded ones where file, images and splits are the same, else measured now."""

    def __init__(self, run: Run, data: DataInput, dataset: Dataset, batch_size: int, progress: Progress) -> None:
        self.dataset, self.batch_size, self.progress = dataset, batch_size, progress
        self.known: dict[str, Metrics] = {}
        step = run.latest("finetune")
        # Another seed may have made other splits of the same images.
        own = data.record(dataset)
        if step is not None and {**step["inputs"]["data"], "path": own["path"]} == own:
            metrics = step["metrics"]
            if metrics["test"] is not None:
                self.known[step["outputs"]["finetuned_sha256"]] = metrics_from_json(metrics["test"])
            for number, each in enumerate(metrics["teachers"], 1):
                if each is not None:
                    self.known[step["inputs"][f"teacher_{number}"]["sha256"]] = metrics_from_json(each)

    def of(self, model: nn.Module, digest: str) -> Metrics | None:
        """Metrics on the test split; None where the data have none."""
        if digest not in self.known:
            if "test" not in self.dataset.splits:
                return None
            spec = spec_of(model)
            store = load_images(self.dataset, "test", Preprocessing.of(spec), progress=self.progress)
            self.known[digest] = evaluate(
                model, store.batches(self.batch_size), self.dataset.classes, progress=self.progress
            )
        return self.known[digest]


def _facts(role: str, file: ModelInput, model: nn.Module, measured: _Measured) -> ModelFacts:
    digest = sha256(file.path)
    return ModelFacts(
        role=role,
        path=str(file.path),
        sha256=digest,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=count_macs(model, spec_of(model).input_size),
        bytes=file.path.stat().st_size,
        metrics=measured.of(model, digest),
    )


def _example(
    dataset: Dataset, scores: Scores, preprocessing: Preprocessing, image: Path | None
) -> tuple[Example, torch.Tensor]:
    """The image of the feature maps, as pixels and as float32 [1, 3, H, W].

    Raises:
        DataError: it cannot be read.
    """
    if image is None:
        store = sample(dataset, 1, int(scores.options.get("seed", 0)), preprocessing)
        path, label, pixels = store.paths[0], dataset.classes[int(store.labels[0])], store.images[0]
    else:
        known = {item.path.resolve(): item.label for items in dataset.splits.values() for item in items}
        index = known.get(image.resolve())
        path, label = image, dataset.classes[index] if index is not None else ""
        try:
            pixels = torch.from_numpy(preprocessing.pixels(image))
        except (BrokenImageError, OSError) as error:
            raise DataError(f"{image} cannot be read ({error}); pass another --image") from error
    return Example(path.name, label, pixels.numpy()), preprocessing.normalise(pixels[None])


def _recorded_latency(run: Run, models: tuple[ModelFacts, ...]) -> tuple[Benchmark, ...]:
    """What the newest `cfp bench` of both the original and the final network measured; empty without one."""
    wanted = {models[0].sha256: models[0].role, models[-1].sha256: models[-1].role}
    for step in reversed(run.steps):
        if step["command"] != "bench":
            continue
        hashes = [entry["sha256"] for name, entry in step["inputs"].items() if name.startswith("model_")]
        found = dict(zip(hashes, step["metrics"]["models"], strict=True))
        if wanted.keys() <= found.keys():
            return tuple(_benchmark(role, found[digest]) for digest, role in wanted.items())
    return ()


def _benchmark(role: str, data: dict[str, Any]) -> Benchmark:
    times = tuple(Latency(**each) for each in data["latency_ms"])
    height, width = data["input_size"]
    return Benchmark(role, data["params"], data["macs"], data["bytes"], (height, width), times)


def _teachers(step: dict[str, Any] | None) -> dict[str, Metrics]:
    if step is None:
        return {}
    names = ("representation teacher", "class-balanced teacher")
    return {
        names[place]: metrics_from_json(each)
        for place, each in enumerate(step["metrics"]["teachers"])
        if each is not None
    }
