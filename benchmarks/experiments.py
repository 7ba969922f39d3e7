"""The experiments of `compression.py`: read from `experiments.toml`, turned into `cfp compare` commands."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfp_cli.comparing.rows import Comparison, read_rows

BENCHMARKS = Path(__file__).resolve().parent
FILE = BENCHMARKS / "experiments.toml"
RESULTS = BENCHMARKS / "results" / "compression"
NO_REFIT = "--no-reconstruct"

# How pages and plots name a method; result rows hold the name on the left.
METHOD_LABELS = {
    "cfp": "cfp",
    "cfp-no-clusters": "cfp without clusters",
    "cfp-round-8": "cfp, multiples of eight",
    "cfp-rounds": "cfp, three rounds",
    "cfp-rank": "cfp by rank",
    "cfp-measured": "cfp, measured allocation",
    "cfp-redundancy": "cfp, allocation by redundancy",
    "cfp-uniform": "cfp, one rate",
    "cfp-rank-uniform": "cfp by rank, one rate",
    "cfp-rank-two": "cfp by rank, two clusters",
    "cfp-rank-round-8": "cfp by rank, multiples of eight",
    "cfp-effective-rank": "cfp by effective rank",
    "cfp-entropy": "cfp by entropy",
    "cfp-published": "cfp as published, one rate",
    "random-redundancy": "random, cfp's allocation",
    "hrank-redundancy": "rank alone, cfp's allocation",
    "l1-redundancy": "L1, cfp's allocation",
    "scratch": "cfp's shape from scratch",
    "similarity": "random of each cluster, one rate",
    "random": "random, one rate",
    "hrank": "rank alone (HRank), one rate",
    "l1": "L1, one rate",
    "l2": "L2, one rate",
    "fpgm": "FPGM, one rate",
    "taylor": "Taylor, one rate",
    "group-norm": "group norm, one rate",
}


@dataclass(frozen=True)
class Experiment:
    """One `cfp compare` command.

    Attributes:
        title: heading of its section.
        arch: architecture of the teachers.
        ratios: shares of the parameters to remove.
        methods, seeds: as the command takes them.
        epochs: of fine-tuning; 0 means no fine-tuning.
        views: augmented copies of each training image.
        teachers: file names in the command that the page shows; the first is the network that is pruned.
        options: further options of the command.
    """

    title: str
    arch: str
    ratios: tuple[float, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: int
    views: int
    teachers: tuple[str, ...]
    options: tuple[str, ...]

    @property
    def refit(self) -> bool:
        """Whether the remaining weights are refitted after the rebuild."""
        return NO_REFIT not in self.options

    def command(self, data: str, teachers: list[str], folder: str, threads: int) -> list[str]:
        """The command line, as a user would type it."""
        training = ("--epochs", str(self.epochs), "--views", str(self.views)) if self.epochs else ("--no-finetune",)
        return [
            *("cfp", "compare", data, "--teachers", *teachers, "--arch", self.arch),
            *("--ratios", *(f"{ratio:g}" for ratio in self.ratios), "--methods", *self.methods),
            *("--seeds", *map(str, self.seeds)),
            *training,
            *self.options,
            *("--threads", str(threads), "--out", folder),
        ]


@dataclass(frozen=True)
class Collection:
    """Experiments that are shown together.

    Attributes:
        title: heading of the plot or table.
        experiments: names of the experiments.
    """

    title: str
    experiments: tuple[str, ...]

    def rows(self) -> list[Comparison]:
        """The rows of all experiments."""
        return [row for name in self.experiments for row in rows_of(name)]


@dataclass(frozen=True)
class Catalogue:
    """The content of `experiments.toml`, by name and in the order of the file.

    Attributes:
        experiments: the `cfp compare` commands.
        figures: plots of test accuracy against compression.
        pooled: tables over experiments that differ in their teachers only.
    """

    experiments: dict[str, Experiment]
    figures: dict[str, Collection]
    pooled: dict[str, Collection]


def load() -> Catalogue:
    """Read `experiments.toml`."""
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))

    def frozen(entry: dict[str, Any]) -> dict[str, Any]:
        return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}

    return Catalogue(
        {name: Experiment(**frozen(entry)) for name, entry in tables["experiments"].items()},
        {name: Collection(**frozen(entry)) for name, entry in tables["figures"].items()},
        {name: Collection(**frozen(entry)) for name, entry in tables["pooled"].items()},
    )


def results_file(name: str) -> Path:
    """The file with the result rows of an experiment."""
    return RESULTS / f"{name}.csv"


def rows_of(name: str) -> list[Comparison]:
    """The finished rows of an experiment."""
    return list(read_rows(results_file(name)))
