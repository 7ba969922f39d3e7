"""`cfp export`: a checkpoint to a file for another runtime, compared on the images of the run."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from cfp_cli.checkpoints.checkpoint import spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import Batches, ImageStore, load_images, sample, stratified_sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.exporting.export import ExportReport, Format, export
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import require_writable, sha256
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import DataInput, ModelInput, fit_classes, scored_data
from cfp_cli.runs.outputs import belongs, written

COMPARED = 512
CALIBRATED = 128


def export_step(
    run: Run,
    model: ModelInput | None,
    data: DataInput | None,
    path: Path,
    format: Format,
    *,
    int8: bool = False,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ExportReport:
    """Export a checkpoint; file and checkpoint are compared on test images, procedural ones where no data are known.

    Args:
        run: the run directory; the step is recorded there when the model is one of the run's.
        model: the checkpoint; None takes what the run's fine-tuning wrote.
        data: the images; None takes those of the run, where the model is one of the run's.
        path: file to write.
        format: `onnx` or `pt2`.
        int8: also quantise to 8 bits, calibrated on a stratified sample of training images.
        batch_size: images a batch when int8 accuracy is measured.
        seed: seed of the samples of images.
        progress: told of what takes long.

    Raises:
        CfpError: an input does not fit, a package is missing, or the file answers differently.
    """
    began = time.perf_counter()
    source = model or written(run, "finetune")
    network = source.load(progress)
    require_writable(path.parent)
    ours = belongs(run, sha256(source.path))
    given, dataset = data, None
    if data is not None:
        dataset = data.open(progress)
    elif ours and run.latest("score") is not None:
        given, dataset = scored_data(run, None, progress)
    samples, calibration, evaluation = None, None, None
    if dataset is not None:
        network = fit_classes(network, dataset, source.path, progress)
        preprocessing = Preprocessing.of(spec_of(network))
        store = load_images(dataset, _held_out(dataset), preprocessing, progress=progress)
        samples = _images(store, COMPARED, seed)
        if int8:
            train = sample(dataset, CALIBRATED, seed, preprocessing, progress)
            calibration, evaluation = _images(train, CALIBRATED, seed), store.batches(batch_size)
    report = export(
        network,
        path,
        format,
        samples=samples,
        int8=int8,
        calibration=calibration,
        evaluation=evaluation,
        progress=progress,
    )
    if ours:
        inputs = {"model": source.record()}
        if given is not None and dataset is not None:
            inputs["data"] = given.record(dataset)
        run.record(
            "export",
            arguments={"format": format, "int8": int8, "batch_size": batch_size},
            seed=seed,
            inputs=inputs,
            seconds=time.perf_counter() - began,
            metrics={name: value for name, value in report.to_json().items() if name != "path"},
            outputs={"export": str(path.resolve()), "export_sha256": sha256(path)},
        )
    return report


def _held_out(dataset: Dataset) -> str:
    """The split to compare on: test, else validation.

    Raises:
        DataError: the set has neither.
    """
    for name in ("test", "val"):
        if name in dataset.splits:
            return name
    raise DataError(f"{dataset.root} has no test split; add {dataset.root / 'test'} or use other --data")


def _images(store: ImageStore, count: int, seed: int) -> Tensor:
    chosen = stratified_sample(store.labels, count, seed)
    batches: Batches = store.batches(len(chosen), chosen)
    return torch.cat([images for images, _ in batches])
