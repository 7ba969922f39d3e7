"""Fine-tuning of `cfp shrink`: statistics of batch norm, learning rate, and the rule that chooses the epoch.

    python benchmarks/kept_epoch.py run NEU XSDD TEACHERS --work FOLDER [--only NAME...] [--seeds 0 1 2]
    python benchmarks/kept_epoch.py table

NEU and XSDD are image folders, TEACHERS the folder with `vgg16_neu-cls_rl.pt`, `vgg16_x-sdd_rl.pt` and
`vgg16_x-sdd_cl.pt`. A seed fixes the images that are scored and refitted to; the order of training and its views are
those of seed 0, so that the teachers' outputs in FOLDER serve all. `run` appends one row for each data set,
compression, seed and variant to `results/kept_epoch.jsonl`, and skips rows that are there. Each row has the curve of
the fine-tuning (every `EVERY` epochs): the distillation loss on the validation images and on nine views of each, and
the losses in points of macro-F1 on these views and on the test images. `table` prints, for each variant and rule, the
mean and standard deviation over the seeds: the loss on the views, by which variants are compared, and that on the test.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import cfp_cli as cfp
from cfp_cli.data.images import sample
from cfp_cli.data.views import ViewStore, WithViews
from cfp_cli.measuring.metrics import compute_metrics
from cfp_cli.measuring.predictions import predict_logits
from cfp_cli.runs.candidate_work import IMAGES
from cfp_cli.runs.validation import VIEWS
from cfp_cli.training.best_epoch import START, BestEpoch
from cfp_cli.training.loss import kd
from cfp_cli.training.teacher_cache import teacher_logits

RESULTS = Path(__file__).parent / "results" / "kept_epoch.jsonl"
DATA = {"neu-cls": ("rl",), "x-sdd": ("rl", "cl")}
COMPRESSIONS = (80.0, 100.0)
SCORED = 256
EVERY = 4
EPOCHS = 16
# Changes of the preset `short`. Nothing ends a run early, so that all have the same epochs.
VARIANTS: dict[str, dict[str, Any]] = {
    "estimated again": {"freeze_norm": False},
    "frozen": {"freeze_norm": True},
    "frozen, 1e-4": {"freeze_norm": True, "lr": 1e-4},
    "frozen, warm-up 5": {"freeze_norm": True, "warmup": 5.0},
    "frozen, 40 epochs": {"freeze_norm": True, "epochs": 40},
}
TEMPERATURE = 2.0


def main() -> None:
    """Run cells, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    for name in ("neu", "xsdd", "teachers"):
        run.add_argument(name, type=Path)
    run.add_argument("--work", type=Path, required=True)
    run.add_argument("--only", nargs="*", default=list(VARIANTS)[:2], help="names of the variants")
    run.add_argument("--data", nargs="*", default=list(DATA))
    run.add_argument("--compressions", type=float, nargs="*", default=list(COMPRESSIONS))
    run.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    commands.add_parser("table")
    given = parser.parse_args()
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    if given.command == "table":
        print("\n".join(table(rows)))
        return
    seen = {tuple(row[name] for name in ("data", "compression", "seed", "variant")) for row in rows}
    folders = {"neu-cls": given.neu, "x-sdd": given.xsdd}
    for data in given.data:
        cells = Cells(data, folders[data], given.teachers, given.work)
        for seed in given.seeds:
            for compression in given.compressions:
                missing = [each for each in given.only if (data, compression, seed, each) not in seen]
                for row in cells.rows(compression, seed, missing):
                    print(json.dumps(row), flush=True)
                    with RESULTS.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")


class Cells:
    """The networks and images of one data set."""

    def __init__(self, data: str, folder: Path, teachers: Path, work: Path) -> None:
        self.data, self.work, self.cache = data, work, work / f"cache-{data}"
        self.teachers = [cfp.load(teachers / f"vgg16_{data}_{each}.pt") for each in DATA[data]]
        self.original = self.teachers[0]
        self.spec = self.original.spec
        self.dataset = cfp.open_dataset(folder).in_order(self.spec.classes)
        self.preprocessing = cfp.Preprocessing.of(self.spec)
        self.views = {
            split: [self._views(split, "none", 1), *([self._views(split, "geometric", VIEWS)] if views else [])]
            for split, views in (("val", True), ("test", False))
        }
        self.targets = {split: self._targets(stores) for split, stores in self.views.items()}
        self.before = {split: _macro_f1(targets[0], self.views[split]) for split, targets in self.targets.items()}

    def rows(self, compression: float, seed: int, variants: list[str]) -> Iterator[dict[str, Any]]:
        """Fine-tune the refitted network with each variant."""
        if not variants:
            return
        start, params = self._refitted(compression, seed)
        for variant in variants:
            options = cfp.TrainOptions.preset(
                "short", **{"epochs": EPOCHS, "patience": 0, "seed": 0, "select": "macro_f1", **VARIANTS[variant]}
            )
            curve: dict[int, dict[str, float]] = {}
            network, began = copy.deepcopy(start), time.process_time()
            with tempfile.TemporaryDirectory() as name, self._recording(curve):
                history = cfp.finetune(
                    network,
                    self.dataset.without("test"),
                    self.teachers,
                    options,
                    out=Path(name) / "out.pt",
                    last=Path(name) / "last.pt",
                    cache_folder=self.cache,
                )
            yield {
                "data": self.data,
                "compression": compression,
                "params": params,
                "seed": seed,
                "variant": variant,
                "epochs": options.epochs,
                "kept": {"epoch": history.best_epoch, **self._measured(network)},
                "curve": [{"epoch": epoch, **each} for epoch, each in curve.items()],
                "val_losses": [round(row.val_loss or 0.0, 4) for row in history.rows],
                "cpu_seconds": round(time.process_time() - began),
            }

    def _recording(self, curve: dict[int, dict[str, float]]) -> Any:
        """Measure the network before training and every few epochs."""
        update = BestEpoch.update

        def measured(
            best: BestEpoch, candidate: nn.Module, metrics: Any, epoch: int, loss: float | None = None
        ) -> None:
            update(best, candidate, metrics, epoch, loss)
            if epoch == START or (epoch + 1) % EVERY == 0:
                curve[epoch] = self._measured(candidate)

        return mock.patch.object(BestEpoch, "update", measured)

    def _measured(self, network: nn.Module) -> dict[str, float]:
        """Distillation losses, and losses of macro-F1 in points, on validation images, their views and test images."""
        found: dict[str, float] = {}
        for split, stores in self.views.items():
            logits = [predict_logits(network, each.batches(64))[0] for each in stores]
            targets = self.targets[split]
            found[f"{split} loss"] = self._loss(logits[0], [each[: len(logits[0])] for each in targets])
            if split == "val":
                found["val views loss"] = self._loss(torch.cat(logits), targets)
            together = torch.cat(logits)
            found[f"{split} points"] = round(100 * (self.before[split] - _macro_f1(together, stores)), 3)
            labels = torch.cat([each.labels.repeat(each.views) for each in stores])
            found[f"{split} accuracy"] = round(100 * float((together.argmax(1) == labels).double().mean()), 3)
        return found

    def _loss(self, logits: Tensor, targets: list[Tensor]) -> float:
        losses = [float(kd(logits.double(), each.double(), TEMPERATURE)) for each in targets]
        return round(sum(losses) / len(losses), 5)

    def _views(self, split: str, augment: Any, views: int) -> ViewStore:
        return ViewStore(self.dataset.split(split), self.preprocessing, augment, views)

    def _targets(self, stores: list[ViewStore]) -> list[Tensor]:
        """Logits of each teacher on all views, [views of all stores, classes]."""

        def logits(teacher: nn.Module, store: ViewStore) -> Tensor:
            table = teacher_logits(teacher, store, len(self.spec.classes), self.cache)
            return torch.tensor(table).transpose(0, 1).flatten(0, 1)

        return [torch.cat([logits(teacher, store) for store in stores]) for teacher in self.teachers]

    def _refitted(self, compression: float, seed: int) -> tuple[nn.Module, int]:
        """Return the refitted network, as `cfp shrink` makes it, and its number of parameters."""
        path = self.work / f"{self.data}-{compression:g}x-{seed}.pt"
        if not path.exists():
            images = sample(self.dataset, SCORED, seed, self.preprocessing)
            scores = cfp.score(self.original, images.batches(32))
            fitted = WithViews(sample(self.dataset, IMAGES, seed, self.preprocessing), "geometric", seed, 64)
            network, plan = cfp.prune(self.original, scores, 1 - 1 / compression, loader=fitted)
            cfp.save(path, network, replace(self.spec, plan=plan.to_json()))
        network = cfp.load(path)
        return network, sum(each.numel() for each in network.parameters())


def _macro_f1(logits: Tensor, stores: list[ViewStore]) -> float:
    labels = torch.cat([each.labels.repeat(each.views) for each in stores])
    classes = tuple(map(str, range(logits.shape[1])))
    return compute_metrics(logits.argmax(1), labels, classes).macro_f1


# Which row of the curve a rule takes: the network before training, the rule of the preset, and others.
RULES: dict[str, Any] = {
    "before training": lambda row: row["curve"][0],
    "kept": lambda row: row["kept"],
    "smallest loss on images": lambda row: min(row["curve"], key=lambda each: each["val loss"]),
    "smallest loss on views": lambda row: min(row["curve"], key=lambda each: each["val views loss"]),
    "last": lambda row: row["curve"][-1],
}
COLUMNS = ("val loss", "val views loss", "val points", "test loss", "test points", "test accuracy")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each data set, compression, variant and rule: mean and standard deviation over the seeds."""
    lines = ["| data | variant | seeds | epoch of | " + " | ".join(COLUMNS) + " |", "|---" * (4 + len(COLUMNS)) + "|"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["compression"], row["variant"]), []).append(row)
    for (data, compression, variant), group in groups.items():
        for rule, choose in RULES.items():
            chosen = [choose(row) for row in group]
            values = [_spread([each[name] for each in chosen]) for name in COLUMNS]
            lines.append(
                f"| {data}, {compression:g}x | {variant} | {len(group)} | {rule} | " + " | ".join(values) + " |"
            )
    return lines


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.3g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
