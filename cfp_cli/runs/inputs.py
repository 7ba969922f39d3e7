"""The model and the data of a step: given, or remembered by the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from cfp_cli.checkpoints.checkpoint import describe, load, spec_of
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import sha256, write_json
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.runs.directory import Run

OTHER_CLASSES = "use the data that it was trained on, or train it for these by cfp train --init and --new-head"


@dataclass(frozen=True)
class ModelInput:
    """A model file and how to read it.

    Attributes:
        path: the file.
        arch: architecture, where the file does not say it.
        input_size: input side in pixels, where the file does not say it.
        unsafe_pickle: also load what can run code.
    """

    path: Path
    arch: str | None = None
    input_size: int | None = None
    unsafe_pickle: bool = False

    def load(self, progress: Progress = SILENT) -> nn.Module:
        """Load the network, in eval mode, with its spec attached; `progress` is told of what is assumed.

        Raises:
            CheckpointError: the file cannot be read, built or trusted.
        """
        size = (self.input_size, self.input_size) if self.input_size else None
        return load(self.path, self.arch, input_size=size, unsafe_pickle=self.unsafe_pickle, progress=progress)

    def record(self) -> dict[str, Any]:
        """The input as plain data for `run.json`."""
        options = {"arch": self.arch, "input_size": self.input_size, "unsafe_pickle": self.unsafe_pickle}
        return {"path": str(self.path.resolve()), "sha256": sha256(self.path), **options}

    @classmethod
    def recorded(cls, entry: dict[str, Any]) -> ModelInput:
        """The input that `record` gave."""
        return cls(Path(entry["path"]), entry.get("arch"), entry.get("input_size"), entry.get("unsafe_pickle", False))


@dataclass(frozen=True)
class DataInput:
    """A set of images and how it is split.

    Attributes:
        path: folder or list file.
        seed: seed of the splits that are made.
        val_fraction: part of the training images that a made validation split takes.
        max_bad: largest fraction of broken images.
    """

    path: Path
    seed: int = 0
    val_fraction: float = 0.15
    max_bad: float = field(default=0.01)

    def open(self, progress: Progress = SILENT) -> Dataset:
        """Read what the set holds.

        Raises:
            DataError: the path holds no usable images.
        """
        return open_dataset(
            self.path, self.seed, val_fraction=self.val_fraction, max_bad=self.max_bad, progress=progress
        )

    def record(self, dataset: Dataset) -> dict[str, Any]:
        """The input as plain data for `run.json`."""
        options = {"seed": self.seed, "val_fraction": self.val_fraction, "max_bad": self.max_bad}
        return {"path": str(self.path.resolve()), "sha256": dataset.fingerprint, **options}

    @classmethod
    def recorded(cls, entry: dict[str, Any]) -> DataInput:
        """The input that `record` gave."""
        return cls(Path(entry["path"]), entry["seed"], entry["val_fraction"], entry["max_bad"])


def scored_model(run: Run, given: ModelInput | None) -> ModelInput:
    """The model that the run was scored with; one that is given must be the same file.

    Raises:
        RunError: the run is not scored yet, or the model is another one or has changed since.
        CheckpointError: the file is gone.
    """
    recorded = ModelInput.recorded(run.require("score")["inputs"]["model"])
    chosen = recorded if given is None else replace(given, arch=given.arch or recorded.arch)
    if not chosen.path.is_file():
        chosen.load()
    run.require_same("model", chosen.path, sha256(chosen.path), "score")
    return replace(chosen, input_size=chosen.input_size or recorded.input_size)


def scored_data(run: Run, given: DataInput | None, progress: Progress = SILENT) -> tuple[DataInput, Dataset]:
    """The data that the run was scored with; data that are given must be the same images.

    Raises:
        RunError: the run is not scored yet, or the images are others or have changed since.
    """
    recorded = DataInput.recorded(run.require("score")["inputs"]["data"])
    chosen = recorded if given is None else replace(recorded, path=given.path)
    dataset = chosen.open(progress)
    run.require_same("data", chosen.path, dataset.fingerprint, "score")
    return chosen, dataset


def load_for(dataset: Dataset, model: ModelInput, progress: Progress = SILENT) -> nn.Module:
    """Load a network for the classes of the data; see `ModelInput.load` and `fit_classes`."""
    return fit_classes(model.load(progress), dataset, model.path, progress)


def fit_classes(model: nn.Module, dataset: Dataset, path: Path, progress: Progress = SILENT) -> nn.Module:
    """Check that a network's classes are those of the data; a network without class names takes the data's.

    `progress` is told where the network has learnt from other splits of the same images.

    Raises:
        DataError: their number, names or order differ.
    """
    spec = spec_of(model)
    _tell_of_other_splits(spec.lineage, dataset, path, progress)
    if len(spec.classes) != len(dataset.classes):
        raise DataError(
            f"{path} tells {len(spec.classes)} classes but {dataset.root} has {len(dataset.classes)}; {OTHER_CLASSES}"
        )
    if spec.classes == dataset.classes:
        return model
    if spec.classes == tuple(str(index) for index in range(len(spec.classes))):
        return describe(model, replace(spec, classes=dataset.classes))
    first = next(pair for pair in zip(spec.classes, dataset.classes, strict=True) if pair[0] != pair[1])
    raise DataError(
        f"{path} and {dataset.root} name their classes differently ('{first[0]}' is '{first[1]}' there); "
        + OTHER_CLASSES
    )


def _tell_of_other_splits(
    lineage: Sequence[Mapping[str, Any]], dataset: Dataset, path: Path, progress: Progress
) -> None:
    for step in lineage:
        if step.get("data") == dataset.fingerprint and step.get("splits", dataset.split_origin) != dataset.split_origin:
            then, now = (
                "; ".join(f"{name} {made}" for name, made in each.items())
                for each in (step["splits"], dataset.split_origin)
            )
            progress.say(
                f"warning: {path} has learnt from other splits of these images (then: {then}; now: {now}), so that it "
                "may know those it is tested on; pass the --seed of then"
            )
            return


def write_splits(run: Run, dataset: Dataset) -> None:
    """Record in `RUN/splits.json` which image is in which split, and where each split comes from."""
    splits = {
        name: [
            str(item.path.relative_to(dataset.root) if item.path.is_relative_to(dataset.root) else item.path)
            for item in items
        ]
        for name, items in dataset.splits.items()
    }
    content = {"root": str(dataset.root.resolve()), "origin": dict(dataset.split_origin), "splits": splits}
    write_json(run.folder / "splits.json", content)
