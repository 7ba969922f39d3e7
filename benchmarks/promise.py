"""What validation images promise about test images: estimates of the loss of small networks, and their test loss.

    python benchmarks/promise.py run NAME MODEL DATA [--teachers RL [CL]] [--seeds 0] [--finetuned 100 256]
    python benchmarks/promise.py candidates NAME MODEL DATA RUN
    python benchmarks/promise.py table

`candidates` measures the candidates that `cfp shrink` left in RUN on the test images, and appends a row for each to
`results/promise.jsonl`. `run` needs no such run: it scores MODEL, prunes it to several compressions, refits each
network to images without views, and fine-tunes some with the preset `short`. A row has the loss in points against MODEL
on the validation images, on views of them, on training images that no weight was fitted to, on views of those, and on
the test images. `table` compares the estimates: mean error, rank correlation, and how many of the networks that pass
at a loss lose more on the test.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import cfp_cli as cfp
from cfp_cli.data.dataset import Item
from cfp_cli.data.images import sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.views import ViewStore
from cfp_cli.measuring.compared import Compared
from cfp_cli.measuring.intervals import change_of_accuracy
from cfp_cli.measuring.metrics import compute_metrics
from cfp_cli.measuring.predictions import predict
from cfp_cli.runs.candidate_work import IMAGES
from cfp_cli.runs.candidates import Candidates

RESULTS = Path(__file__).parent / "results" / "promise.jsonl"
COMPRESSIONS = (16, 27, 39, 50, 64, 80, 100, 128, 160, 200, 256, 324, 400)
VIEWS, TEST_VIEWS, UNUSED_VIEWS = 16, 8, 4
# Name of an estimate: split, and the first and last view that it uses; view 0 is the image itself.
ESTIMATES = {
    "validation images": ("val", 0, 1),
    "4 views": ("val", 1, 5),
    "8 views": ("val", 1, 9),
    "16 views": ("val", 1, 17),
    "image and 8 views": ("val", 0, 9),
    "unused training images": ("unused", 0, 1),
    "4 views of unused training images": ("unused", 1, 5),
}
ALLOWED = (0.5, 1.0)


def main() -> None:
    """Measure networks, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("name", help="name of the rows, such as neu-cls")
    run.add_argument("model", type=Path)
    run.add_argument("data", type=Path)
    run.add_argument("--teachers", nargs="+", type=Path, default=[])
    run.add_argument("--seeds", nargs="+", type=int, default=[0])
    run.add_argument("--finetuned", nargs="*", type=float, default=[])
    made = commands.add_parser("candidates")
    made.add_argument("name", help="name of the rows, such as neu-cls")
    made.add_argument("model", type=Path)
    made.add_argument("data", type=Path)
    made.add_argument("run", type=Path)
    commands.add_parser("table")
    given = parser.parse_args()
    if given.command == "table":
        rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
        print("\n".join(table(rows)))
        return
    if given.command == "candidates":
        write(candidates(given.name, given.model, given.data, given.run))
        return
    for seed in given.seeds:
        write(measured(given.name, given.model, given.data, given.teachers, given.finetuned, seed))


def write(rows: Iterator[dict[str, Any]]) -> None:
    """Append rows to the results."""
    for row in rows:
        print(json.dumps(row), flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def candidates(name: str, path: Path, data: Path, run: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of the candidates of a run of `cfp shrink`."""
    original = cfp.load(path)
    classes = original.spec.classes
    dataset = cfp.open_dataset(data).in_order(classes)
    preprocessing = Preprocessing.of(original.spec)
    validation, images = (cfp.load_images(dataset, split, preprocessing).batches(64) for split in ("val", "test"))
    original_val, before = cfp.evaluate(original, validation), predict(original, images)
    original_test = compute_metrics(before.classes, before.labels, classes)
    stored = Candidates(run)
    for each in stored.all:
        after = predict(cfp.load(stored.path(each, each.checkpoint)), images)
        test = compute_metrics(after.classes, after.labels, classes)
        loss = each.compared.macro_f1
        yield {
            "data": f"{name}, candidates of shrink",
            "compression": each.compression,
            "params": each.params,
            "finetuned": each.trained,
            "validation images": round(100 * (original_val.macro_f1 - each.compared.metrics.macro_f1), 3),
            "image and 8 views": round(loss.points, 3),
            "image and 8 views, standard error": round(loss.standard_error, 3),
            "test": round(100 * (original_test.macro_f1 - test.macro_f1), 3),
            "test interval": test_interval(before.classes, after.classes, before.labels),
        }


def measured(
    name: str, path: Path, data: Path, teachers: list[Path], finetuned: list[float], seed: int
) -> Iterator[dict[str, Any]]:
    """Make the networks of a seed, and yield their rows."""
    original = cfp.load(path)
    dataset = cfp.open_dataset(data).in_order(original.spec.classes)
    preprocessing = Preprocessing.of(original.spec)
    scored, fitted = (sample(dataset, count, seed, preprocessing) for count in (640, IMAGES))
    used = {*scored.paths, *fitted.paths}
    stores = Stores(
        preprocessing,
        {
            "val": (dataset.split("val"), VIEWS),
            "test": (dataset.split("test"), TEST_VIEWS),
            "unused": (tuple(each for each in dataset.split("train") if each.path not in used), UNUSED_VIEWS),
        },
    )
    before = stores.predictions(original)
    scores = cfp.score(original, scored.batches(16))
    for compression in sorted({*COMPRESSIONS, *finetuned}):
        network, plan = cfp.prune(original, scores, 1 - 1 / compression, loader=fitted.batches(64))
        facts = {"data": name, "seed": seed, "compression": compression, "params": plan.params_after}
        yield {**facts, "epochs": 0, **losses(before, stores.predictions(network), stores.labels)}
        if compression in finetuned:
            options = cfp.TrainOptions.preset("short", seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                files = {each: Path(folder) / each for each in ("out", "last", "cache_folder")}
                cfp.finetune(
                    network,
                    dataset.without("test"),
                    [cfp.load(each) for each in teachers or [path]],
                    options,
                    **files,
                )
            yield {**facts, "epochs": options.epochs, **losses(before, stores.predictions(network), stores.labels)}


class Stores:
    """The images of each split and their views."""

    def __init__(self, preprocessing: Preprocessing, splits: dict[str, tuple[tuple[Item, ...], int]]) -> None:
        self.stores = {
            name: (ViewStore(items, preprocessing, "none"), ViewStore(items, preprocessing, "geometric", views))
            for name, (items, views) in splits.items()
        }
        self.labels = {name: plain.labels for name, (plain, _) in self.stores.items()}

    def predictions(self, network: nn.Module) -> dict[str, Tensor]:
        """Predicted classes of each split, int64 [1 + V, N]."""
        found = {}
        for name, (plain, views) in self.stores.items():
            each = [predict(network, store.batches(64)).classes for store in (plain, views)]
            found[name] = torch.cat(each).view(-1, len(plain))
        return found


def losses(before: dict[str, Tensor], after: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Any]:
    """Losses of macro-F1 and of accuracy in points by each estimate, and on the test images with their interval."""
    row: dict[str, Any] = {}
    names = tuple(str(each) for each in range(int(max(map(int, labels["val"]))) + 1))
    for name, (split, first, last) in {**ESTIMATES, "test": ("test", 0, 1), "9 views of test": ("test", 0, 9)}.items():
        original, network = before[split][first:last], after[split][first:last]
        truth = labels[split].expand(len(original), -1)
        compared = Compared.of(original, network, truth, names)
        row[name] = round(compared.macro_f1.points, 3)
        row[f"{name}, standard error"] = round(compared.macro_f1.standard_error, 3)
        row[f"{name}, accuracy"] = round(compared.accuracy.points, 3)
    row["test interval"] = test_interval(before["test"][0], after["test"][0], labels["test"])
    row["original test"] = round(100 * compute_metrics(before["test"][0], labels["test"], names).accuracy, 3)
    return row


def test_interval(before: Tensor, after: Tensor, labels: Tensor) -> list[float]:
    """The interval of the loss of accuracy on the test images, in points."""
    low, high = change_of_accuracy(before, after, labels)
    return [round(-100 * high, 3), round(-100 * low, 3)]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each data set and estimate."""
    lines = [
        "| data | networks | estimate | estimate minus test | mean error | rank correlation | "
        + " | ".join(f"pass at {each:g}; lose more on test; with 95 % confidence" for each in ALLOWED)
        + " |",
        "|---" * (6 + len(ALLOWED)) + "|",
    ]
    for data in sorted({row["data"] for row in rows}):
        group = [row for row in rows if row["data"] == data]
        truth = np.array([row["test"] for row in group])
        for name in ESTIMATES:
            if name not in group[0]:
                continue
            estimate = np.array([row[name] for row in group])
            # Far from what anybody allows, all estimates are right about that.
            near = truth <= 6
            error = (estimate - truth)[near]
            line = f"| {data} | {len(group)} | {name} | {error.mean():+.2f} | {abs(error).mean():.2f} | "
            line += f"{spearmanr(estimate, truth).statistic:.2f} |"
            for allowed in ALLOWED:
                passing = [row for row in group if row[name] <= allowed + 1e-9]
                more = sum(row["test"] > allowed for row in passing)
                sure = sum(row["test interval"][0] > allowed for row in passing)
                line += f" {len(passing)}; {more}; {sure} |"
            lines.append(line)
    return lines


if __name__ == "__main__":
    main()
