"""`cfp export`: write a checkpoint for another runtime and compare the two on the images of the run."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from cfp_cli.checkpoints.export_formats import Format
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import Batches, ImageStore, load_images, sample, stratified_sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.exporting.export import ExportReport, export
from cfp_cli.exporting.openvino_file import weights_path
from cfp_cli.exporting.writers import WRITERS
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import (
    NO_PERMISSION,
    DataInput,
    ModelInput,
    Permission,
    fit_to_data,
    scored_data,
    with_or_without_labels,
)
from cfp_cli.runs.output_path import check_output
from cfp_cli.runs.outputs import is_file_of, newest_model
from cfp_cli.runs.records import ExportRecord, Inputs, ScoreRecord, output_files

IMAGES_TO_COMPARE = 512
IMAGES_TO_CALIBRATE = 128


def run_export(
    run: Run,
    model: ModelInput | None,
    data: DataInput | None,
    path: Path,
    format: Format,
    *,
    int8: bool = False,
    batch_size: int = 64,
    seed: int = 0,
    permission: Permission = NO_PERMISSION,
    progress: Progress = SILENT,
) -> ExportReport:
    """Export a checkpoint and compare file and checkpoint on test images, or on generated images without data.

    Args:
        run: the run directory; it gets a record if the model belongs to the run.
        model: the checkpoint; None takes the newest of the run, from `cfp prune` or `cfp finetune`.
        data: the images; None takes those of the run, if the model belongs to the run.
        path: file to write; for OpenVINO, the `.xml` file.
        format: `onnx`, `pt2` or `openvino`.
        int8: also quantise to 8 bits; a stratified sample of training images calibrates it.
        batch_size: images per batch when int8 accuracy is measured.
        seed: seed of the image samples.
        permission: what the user allows for a model that the run directory names.
        progress: reports progress.

    Raises:
        CfpError: an input does not fit, a package is missing, or the file differs from the checkpoint.
    """
    began = time.perf_counter()
    source = model or newest_model(run, permission)
    if model is None:
        progress.say(f"exporting {source.path}, the newest checkpoint of {run.folder}")
    inputs = [source.path, *([data.path] if data is not None else [])]
    for each in (path, weights_path(path)) if format == "openvino" else (path,):
        check_output(each, inputs=inputs, run=run.folder)
    network = source.load(progress)
    of_run = is_file_of(run, sha256(source.path))
    source_of_images, dataset = data, None
    if data is not None:
        source_of_images = data = with_or_without_labels(data, network, source.path, progress)
        dataset = data.open(progress)
    elif of_run and run.latest(ScoreRecord) is not None:
        source_of_images, dataset = scored_data(run, None, progress)
    samples, calibration, evaluation = None, None, None
    if dataset is not None:
        network, dataset = fit_to_data(network, dataset, source.path, progress)
        preprocessing = Preprocessing.of(spec_of(network))
        store = load_images(dataset, _held_out(dataset), preprocessing, progress=progress)
        samples = _images(store, IMAGES_TO_COMPARE, seed)
        if int8:
            dataset.require_labels("--int8")
            train = sample(dataset, IMAGES_TO_CALIBRATE, seed, preprocessing, progress)
            calibration, evaluation = _images(train, IMAGES_TO_CALIBRATE, seed), store.batches(batch_size)
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
    if of_run:
        images = source_of_images.record(dataset) if source_of_images is not None and dataset is not None else None
        run.add(
            ExportRecord(
                arguments={"format": format, "int8": int8, "batch_size": batch_size},
                seed=seed,
                inputs=Inputs(model=source.record(), data=images),
                outputs=output_files(**WRITERS[format].files(path)),
                seconds=time.perf_counter() - began,
                metrics=report,
            )
        )
    return report


def _held_out(dataset: Dataset) -> str:
    """Return the split to compare on: test, or validation without one.

    Raises:
        DataError: the set has neither.
    """
    for name in ("test", "val"):
        if name in dataset.splits:
            return name
    raise DataError(f"{dataset.root} has no test split; add {dataset.root / 'test'}, or pass other --data")


def _images(store: ImageStore, count: int, seed: int) -> Tensor:
    indices = stratified_sample(store.labels, count, seed)
    batches: Batches = store.batches(len(indices), indices)
    return torch.cat([images for images, _ in batches])
