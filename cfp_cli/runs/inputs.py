"""The model and the data of a command: as given, or as the run directory recorded them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from torch import nn

from cfp_cli.checkpoints.class_order import in_class_order
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.permission import permitted_arch
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.data.class_order import differs_from_text_order
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.data.duplicates import report_images_in_two_splits
from cfp_cli.data.folders import relative_name
from cfp_cli.data.without_labels import has_labels, open_without_labels
from cfp_cli.foundation.errors import DataError, RunError
from cfp_cli.foundation.files import sha256, write_json
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.runs.directory import Run
from cfp_cli.runs.network_check import ONE_LOGIT, returns_logits
from cfp_cli.runs.records import DataRecord, ModelRecord, ScoreRecord

LOGGER = logging.getLogger(__name__)

OTHER_CLASSES = "use the data that it was trained on, or train a new head with `cfp train --init CKPT --new-head`"

NAME_THEM = "the file does not name its classes, so pass --classes with the names in the order of its outputs"


@dataclass(frozen=True)
class Permission:
    """What the user allows in this command for model files that the run directory names. No file can allow it.

    Attributes:
        arch: `--arch`: the code of this factory file may run.
        unsafe_pickle: `--unsafe-pickle`: files that can run code may be loaded.
    """

    arch: str | None = None
    unsafe_pickle: bool = False


NO_PERMISSION = Permission()


@dataclass(frozen=True)
class ModelInput:
    """A model file and how to read it.

    Attributes:
        path: the file.
        arch: architecture, where the file does not name it.
        unsafe_pickle: also load files that can run code.
        input_size: height and width in pixels, where the file does not contain them.
        mean, std: of each channel, or one value for all, where the file does not contain them.
        classes: class names in the order of the logits, where the file does not contain them.
        like: a network of the same run, whose preprocessing is taken where nothing else states it.
        weights: the entry of the file or the prefix of its names that holds the weights, where several fit.
        known: whether an earlier command of the run has reported how the file is read.
        class_file: the file that the class names were read from; no output may replace it.
    """

    path: Path
    arch: str | None = None
    unsafe_pickle: bool = False
    input_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    like: ModelSpec | None = None
    weights: str | None = None
    known: bool = False
    class_file: Path | None = None

    def load(self, progress: Progress = SILENT, *, without_head: bool = False, resize: bool = False) -> nn.Module:
        """Load the network in eval mode, with its spec attached; report assumptions to `progress`, once a run.

        With `without_head`, a file without the head of its architecture is accepted too; with `resize`, the network
        takes the input size of this input, not that of the file. See `load`.

        Raises:
            CheckpointError: the file cannot be read, built or trusted.
        """
        model = load(
            self.path,
            self.arch,
            input_size=self.input_size,
            mean=self.mean,
            std=self.std,
            classes=self.classes,
            weights=self.weights,
            like=self.like,
            unsafe_pickle=self.unsafe_pickle,
            without_head=without_head,
            resize=resize,
            progress=SILENT if self.known else progress,
        )
        spec, params = spec_of(model), sum(parameter.numel() for parameter in model.parameters())
        LOGGER.info("read %s: %s, %d parameters, %d classes", self.path, spec.arch, params, len(spec.classes))
        return model

    def record(self) -> ModelRecord:
        """Return the record of this input for `run.json`."""
        return ModelRecord(
            self.path.resolve(),
            sha256(self.path),
            self.arch,
            self.input_size,
            self.mean,
            self.std,
            self.classes,
            weights=self.weights,
            unsafe_pickle=self.unsafe_pickle,
        )

    @classmethod
    def recorded(cls, record: ModelRecord, file: Path, permission: Permission = NO_PERMISSION) -> ModelInput:
        """Return the input of a record of `file`. Permissions come from the user, not from the record.

        Raises:
            CheckpointError: the record names a factory file that the user did not name.
        """
        arch = permission.arch or record.arch
        if record.arch is not None:
            arch = permitted_arch(record.arch, permission.arch, file)
        return cls(
            record.path,
            arch,
            permission.unsafe_pickle,
            input_size=record.input_size,
            mean=record.mean,
            std=record.std,
            classes=record.classes,
            weights=record.weights,
            known=True,
        )


@dataclass(frozen=True)
class DataInput:
    """A set of images and how it is split.

    Attributes:
        path: folder or list file.
        seed: seed of the splits, where the folder has none.
        val_fraction: part of the training images that becomes the validation split, where the folder has none.
        max_bad: largest accepted fraction of broken images.
        bit_depth: number of bits of white in images of more than 8 bits; None chooses it from a sample.
        test: whether the data have their test split; without it no command can read a test image.
        labels: whether the labels of the images are read. Without, they need no class folders.
    """

    path: Path
    seed: int = 0
    val_fraction: float = 0.15
    max_bad: float = 0.01
    bit_depth: int | None = None
    test: bool = True
    labels: bool = True

    def open(self, progress: Progress = SILENT, *, compare_splits: bool = True) -> Dataset:
        """List the images and their classes.

        Args:
            progress: reports missing images, and images that are in two splits.
            compare_splits: look for images that are in two splits, which reads files of the same size.

        Raises:
            DataError: the path contains no usable images.
        """
        open_images = open_dataset if self.labels else open_without_labels
        dataset = open_images(
            self.path,
            self.seed,
            val_fraction=self.val_fraction,
            max_bad=self.max_bad,
            bit_depth=self.bit_depth,
            progress=progress,
        )
        if not self.test:
            dataset = dataset.without("test")
        if compare_splits:
            report_images_in_two_splits(dataset, progress)
        counts = ", ".join(f"{len(items)} {name}" for name, items in dataset.splits.items())
        LOGGER.info("read %s: %d classes, images: %s", self.path, len(dataset.classes), counts)
        return dataset

    def record(self, dataset: Dataset) -> DataRecord:
        """Return the record of this input for `run.json`."""
        return DataRecord(
            self.path.resolve(),
            dataset.fingerprint,
            self.seed,
            self.val_fraction,
            self.max_bad,
            dataset.bit_depth,
            self.labels,
        )

    @classmethod
    def recorded(cls, record: DataRecord) -> DataInput:
        """Return the input of a record."""
        return cls(
            record.path, record.seed, record.val_fraction, record.max_bad, record.bit_depth, labels=record.labels
        )


def scored_model(run: Run, given: ModelInput | None, permission: Permission = NO_PERMISSION) -> ModelInput:
    """Return the model that the run was scored with. A model that is given must be the same file.

    Raises:
        RunError: the run is not scored yet, or the model is another one or has changed since.
        CheckpointError: the file is missing, or `run.json` names code that the user did not name.
    """
    record = run.require(ScoreRecord).inputs.model
    if record is None:
        raise RunError(f"{run.folder / 'run.json'} does not name the scored model; run `cfp score` again")
    if given is not None:
        permission = Permission(given.arch, given.unsafe_pickle)
    recorded = ModelInput.recorded(record, run.folder / "run.json", permission)
    chosen = recorded if given is None else replace(given, arch=given.arch or recorded.arch)
    if not chosen.path.is_file():
        chosen.load()
    run.require_scored("model", chosen.path, sha256(chosen.path))
    return replace(
        chosen,
        input_size=chosen.input_size or recorded.input_size,
        mean=chosen.mean or recorded.mean,
        std=chosen.std or recorded.std,
        classes=chosen.classes or recorded.classes,
        weights=chosen.weights or recorded.weights,
    )


def scored_data(run: Run, given: DataInput | None, progress: Progress = SILENT) -> tuple[DataInput, Dataset]:
    """Return the data that the run was scored with. Data that are given must be the same images.

    Raises:
        RunError: the run is not scored yet, or the images are others or have changed since.
    """
    record = run.require(ScoreRecord).inputs.data
    if record is None:
        raise RunError(f"{run.folder / 'run.json'} does not name the scored data; run `cfp score` again")
    recorded = DataInput.recorded(record)
    chosen = recorded if given is None else replace(recorded, path=given.path, test=given.test)
    # `cfp score` has compared the splits of the same images.
    dataset = chosen.open(progress, compare_splits=False)
    run.require_scored("data", chosen.path, dataset.fingerprint)
    return chosen, dataset


def with_or_without_labels(data: DataInput, model: nn.Module, path: Path, progress: Progress = SILENT) -> DataInput:
    """Return the input of data with labels if both the data and the network have classes, and else without.

    One line says which commands need labels.

    Args:
        data: the data.
        model: the network, with its spec.
        path: its file.
        progress: gets the line.
    """
    if not data.labels:
        return data
    if not returns_logits(model):
        reason = f"{path} returns no logits [images, classes]"
    elif not has_labels(data.path):
        reason = f"{data.path} has no class folders"
    else:
        return data
    progress.say(
        f"{reason}, so the images are used without labels: no accuracy is measured, and `cfp train`, `predict`, "
        "`compare` and `report` are not available"
    )
    return replace(data, labels=False)


def load_for(dataset: Dataset, model: ModelInput, progress: Progress = SILENT) -> tuple[nn.Module, Dataset]:
    """Load a network for the classes of the data; see `ModelInput.load` and `fit_to_data`."""
    return fit_to_data(model.load(progress), dataset, model.path, progress)


def load_teacher(dataset: Dataset, model: ModelInput, progress: Progress = SILENT) -> nn.Module:
    """Load a network that is only evaluated, for data whose order of classes another network has set.

    Its logits are put into the order of the data.

    Raises:
        DataError: it has other classes than the data.
    """
    network, ordered = load_for(dataset, model, progress)
    if len(ordered.classes) != len(dataset.classes):
        raise DataError(
            f"{model.path} has {len(ordered.classes)} classes but the other network has {len(dataset.classes)}; "
            "pass networks with the same classes"
        )
    return network if ordered.classes == dataset.classes else in_class_order(network, dataset.classes)


def fit_to_data(
    model: nn.Module, dataset: Dataset, path: Path, progress: Progress = SILENT
) -> tuple[nn.Module, Dataset]:
    """Match the classes of a network and of the data by name, and the bit depth.

    The order of the network's logits decides: the data take this order. Data without a train split, such as a lot of
    bad parts, may lack classes of the network. A network without class names takes the names of the data, in the order
    of `class_order`. Images without labels leave all classes as they are. Warn where the network was trained on other
    splits of the same images.

    Returns:
        The network, which has the class names, and the data in the order of its logits.

    Raises:
        DataError: the data have a class that the network does not have, or lack training images of a class.
    """
    spec = _with_bit_depth(spec_of(model), dataset, path, progress)
    describe(model, spec)
    _warn_of_other_splits(spec.lineage, dataset, path, progress)
    if not dataset.labelled:
        return model, dataset
    if not spec.classes:
        raise DataError(
            f"{path} returns no logits [images, classes], so the classes of {dataset.root} are of no use to it; "
            "`cfp score` needs no classes, and for an encoder `cfp train DATA --init CKPT --new-head` trains a head"
        )
    # A file of another tool that does not name its classes has no lineage either.
    unnamed = spec.classes == tuple(str(index) for index in range(len(spec.classes)))
    if unnamed and len(spec.classes) == len(dataset.classes):
        if not spec.lineage and differs_from_text_order(dataset.classes):
            progress.say(
                f"{path} does not name its classes; its outputs are taken in the order of the numbers "
                f"{', '.join(dataset.classes[:3])}, ...; if it was trained with ImageFolder, which sorts them as text, "
                "pass --classes with the names in the order of its outputs"
            )
        return describe(model, replace(spec, classes=dataset.classes)), dataset
    dataset = _with_spelling(dataset, spec.classes, path, progress)
    if spec.classes == dataset.classes:
        return model, dataset
    unknown = [name for name in dataset.classes if name not in spec.classes]
    absent = [name for name in spec.classes if name not in dataset.classes]
    if unknown and len(spec.classes) == len(dataset.classes):
        raise DataError(
            f"{path} and {dataset.root} name their classes differently ('{absent[0]}' is only in the first, "
            f"'{unknown[0]}' only in the second); {OTHER_CLASSES}"
        )
    if len(spec.classes) == 1:
        raise DataError(f"{path} has {ONE_LOGIT}")
    if unknown or (absent and "train" in dataset.splits):
        example = f"'{unknown[0]}' is only in the second" if unknown else f"'{absent[0]}' is only in the first"
        raise DataError(
            f"{path} has {len(spec.classes)} classes but {dataset.root} has {len(dataset.classes)} ({example}); "
            + (NAME_THEM if unnamed and not spec.lineage and "train" not in dataset.splits else OTHER_CLASSES)
        )
    if absent:
        progress.say(f"{dataset.root} has no images of class {', '.join(map(repr, absent[:3]))} of {path}")
    return model, dataset.in_order(spec.classes)


def _with_spelling(dataset: Dataset, classes: Sequence[str], path: Path, progress: Progress) -> Dataset:
    """Return the data with the class names of the network, where they differ only in how they store accents."""
    by_form = {normalize("NFC", name): name for name in classes}
    names = tuple(by_form.get(normalize("NFC", name), name) for name in dataset.classes)
    if names == dataset.classes or len(by_form) < len(classes):
        return dataset
    name = next(name for name, own in zip(names, dataset.classes, strict=True) if name != own)
    progress.say(f"{path} and {dataset.root} store the accents of '{name}' differently; it is taken for the same class")
    return replace(dataset, classes=names)


def _with_bit_depth(spec: ModelSpec, dataset: Dataset, path: Path, progress: Progress) -> ModelSpec:
    """Return the spec with the bit depth that it stores, or else with that of the data."""
    if spec.bit_depth is not None and dataset.bit_depth not in (None, spec.bit_depth):
        progress.say(
            f"{path} was trained with a bit depth of {spec.bit_depth}, which is used; {dataset.root} has one of "
            f"{dataset.bit_depth}"
        )
    return replace(spec, bit_depth=spec.bit_depth or dataset.bit_depth)


def _warn_of_other_splits(
    lineage: Sequence[Mapping[str, Any]], dataset: Dataset, path: Path, progress: Progress
) -> None:
    for entry in lineage:
        splits = entry.get("splits", dataset.split_origin)
        if entry.get("data") == dataset.fingerprint and splits != dataset.split_origin:
            then, now = (
                "; ".join(f"{name} {origin}" for name, origin in each.items())
                for each in (splits, dataset.split_origin)
            )
            progress.say(
                f"warning: {path} was trained on other splits of these images (then: {then}; now: {now}), so test "
                "images may be among its training images; pass the --seed of the training"
            )
            return


def write_splits(run: Run, dataset: Dataset) -> None:
    """Write `RUN/splits.json`: the images of each split, and where each split comes from."""
    splits = {
        name: [relative_name(item.path, dataset.root) for item in items] for name, items in dataset.splits.items()
    }
    content = {"root": str(dataset.root.resolve()), "origin": dict(dataset.split_origin), "splits": splits}
    write_json(run.folder / "splits.json", content)
