"""cfp beside other ways to a small network, at equal multiply-adds: Torch-Pruning, a small architecture, int8.

    python benchmarks/peers.py make TEACHER DATA [--arch A] [--cl CL.pt] [--keep 0.25] [--epochs 15] [--lr 3e-4]
        [--seeds 0 1 2] [--methods NAME...]
    python benchmarks/peers.py latency [--threads 2]     # on an idle machine
    python benchmarks/peers.py table

`make` prunes TEACHER to a share of its multiply-adds with each method of `METHODS`, trains each network for the same
number of epochs of the same views, and exports it to ONNX, as it is and in int8. The epoch is chosen on the validation
images; test images are read once for each network. Torch-Pruning's own recipe trains on labels; each of its networks
is also trained as cfp trains its own. `latency` times the files of one seed in turns. Rows are appended to
`results/peers.jsonl`, and finished ones are skipped.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

import cfp_cli as cfp
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.data.images import ImageStore, load_images, sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution.device import choose_device
from cfp_cli.exporting.export import export
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.measuring.latency import time_in_turns
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.measuring.predictions import predict
from cfp_cli.models.registry import create
from cfp_cli.training.options import PRESETS

RESULTS = Path(__file__).parent / "results" / "peers.jsonl"
SCORED, BATCH, CALIBRATION = 640, 32, 128
SMALL = "torchvision:mobilenet_v3_small"


@dataclass(frozen=True)
class Work:
    """What each method gets: the trained network, its images and the share of its multiply-adds to keep."""

    network: nn.Module
    dataset: Dataset
    seed: int
    share: float

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the network."""
        return Preprocessing.of(spec_of(self.network))

    @property
    def sampled(self) -> ImageStore:
        """Training images, drawn by the seed."""
        return sample(self.dataset, SCORED, self.seed, self.preprocessing)

    def multiply_adds(self, network: nn.Module) -> int:
        """Multiply-adds of a network for one image."""
        return Selection(channel_sets(network, next(iter(self.sampled.batches(1)))[0])).macs


def by_cfp(work: Work, multiple: int = 1) -> nn.Module:
    """`cfp score` and `cfp prune --target macs --round-to MULTIPLE`."""
    batches = list(work.sampled.batches(BATCH))
    scores = cfp.score(work.network, batches)
    pruned, plan = cfp.prune(work.network, scores, 1 - work.share, loader=batches, target="macs", round_to=multiple)
    return describe(pruned, replace(spec_of(work.network), plan=plan.to_json()))


def by_torch_pruning(importance: Callable[[], Any], gradients: bool) -> Callable[[Work], nn.Module]:
    """Torch-Pruning: global pruning of groups by an importance, to the same multiply-adds."""

    def prune(work: Work) -> nn.Module:
        whole = work.multiply_adds(work.network)
        images, labels = next(iter(work.sampled.batches(128)))

        def at(ratio: float) -> nn.Module:
            network = copy.deepcopy(work.network).eval().requires_grad_(True)
            if gradients:
                nn.functional.cross_entropy(network(images), labels).backward()
            last = [each for each in network.modules() if isinstance(each, nn.Linear)][-1]
            pruner = tp.pruner.MetaPruner(
                network,
                images[:1],
                importance=importance(),
                pruning_ratio=ratio,
                global_pruning=True,
                max_pruning_ratio=0.95,
                ignored_layers=[last],
            )
            pruner.step()
            network.zero_grad()
            return network

        low, high = 0.0, 1.0
        for _ in range(9):
            middle = (low + high) / 2
            share = work.multiply_adds(at(middle)) / whole
            low, high = (middle, high) if share > work.share else (low, middle)
        return describe(at(high), replace(spec_of(work.network), plan=None))

    return prune


def small_architecture(work: Work) -> nn.Module:
    """A small architecture with new weights."""
    torch.manual_seed(work.seed)
    spec = spec_of(work.network)
    return describe(create(SMALL, len(spec.classes)), ModelSpec(SMALL, spec.classes, input_size=spec.input_size))


GROUP_NORM = by_torch_pruning(lambda: tp.importance.GroupMagnitudeImportance(p=2), gradients=False)
TAYLOR = by_torch_pruning(lambda: tp.importance.GroupTaylorImportance(), gradients=True)
# How a network is made, and whether it is distilled or trained on labels.
METHODS: dict[str, tuple[Callable[[Work], nn.Module], bool]] = {
    "cfp": (by_cfp, True),
    "cfp --round-to 8": (partial(by_cfp, multiple=8), True),
    "Torch-Pruning, group norm, own recipe": (GROUP_NORM, False),
    "Torch-Pruning, group norm, distilled": (GROUP_NORM, True),
    "Torch-Pruning, Taylor, own recipe": (TAYLOR, False),
    "Torch-Pruning, Taylor, distilled": (TAYLOR, True),
    "MobileNetV3-Small, distilled": (small_architecture, True),
}
ORIGINAL = "original"
# What a row is known by.
FACTS = ("network", "data", "keep", "epochs", "lr", "seed", "method")


def make(arguments: argparse.Namespace) -> None:
    """Make, train, export and measure the networks."""
    dataset = open_dataset(arguments.data)
    teachers = [load(path, arguments.arch) for path in (arguments.teacher, arguments.cl) if path]
    done = {tuple(row[name] for name in FACTS if name in row) for row in rows()}
    for seed in arguments.seeds:
        work = Work(teachers[0], dataset, seed, arguments.keep)
        for method in (ORIGINAL, *arguments.methods):
            facts = {
                "network": arguments.teacher.stem,
                "data": arguments.data.name,
                "keep": arguments.keep,
                "epochs": arguments.epochs,
                "lr": arguments.lr,
                "seed": seed,
                "method": method,
            }
            if tuple(facts.values()) in done or (method == ORIGINAL and any(row["method"] == method for row in rows())):
                continue
            folder = arguments.folder / f"{arguments.teacher.stem}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            began = time.process_time()
            network = teachers[0] if method == ORIGINAL else trained(work, method, teachers, arguments, folder)
            row = facts | measured(work, network, folder / f"{method.replace(' ', '-').replace(',', '')}.onnx")
            append(row | {"cpu_seconds": round(time.process_time() - began)})


def trained(
    work: Work, method: str, teachers: list[nn.Module], arguments: argparse.Namespace, folder: Path
) -> nn.Module:
    """Make a network with a method and train it."""
    prune, distilled = METHODS[method]
    network = prune(work)
    options = cfp.TrainOptions.preset("short", epochs=arguments.epochs, lr=arguments.lr, seed=work.seed)
    out = folder / "trained.pt"
    # A network of Torch-Pruning has no plan, so its checkpoint could not be loaded; the module has the kept weights.
    if distilled:
        cfp.finetune(
            network,
            work.dataset,
            teachers,
            options,
            out=out,
            last=folder / "last.pt",
            cache_folder=folder / "cache",
        )
    else:
        network, _ = cfp.train(network, work.dataset, options, out, keep_start=True)
    return network


def measured(work: Work, network: nn.Module, path: Path) -> dict[str, Any]:
    """Size and metrics of a network and of its int8 file."""
    preprocessing = Preprocessing.of(spec_of(network))
    stores = {split: load_images(work.dataset, split, preprocessing) for split in ("val", "test")}
    calibration = sample(work.dataset, CALIBRATION, work.seed, preprocessing)
    images: Tensor = torch.cat([batch for batch, _ in calibration.batches(BATCH)])
    exported = export(network, path)
    test = stores["test"].batches(BATCH)
    int8 = export(network, path.with_suffix(".int8.onnx"), int8=True, calibration=images, evaluation=test)
    return {
        "params": sum(parameter.numel() for parameter in network.parameters()),
        "macs": work.multiply_adds(network),
        "bytes": exported.bytes,
        "val": figures(evaluate(network, stores["val"].batches(BATCH))),
        "test": figures(evaluate(network, test)),
        "test_classes": predict(network, test).classes.tolist(),
        "int8": {
            "bytes": int8.bytes,
            "test": {"accuracy": int8.accuracy_after, "macro_f1": int8.macro_f1_after},
        },
    }


def figures(metrics: Metrics) -> dict[str, float]:
    """Accuracy and macro-F1."""
    return {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1}


def latency(arguments: argparse.Namespace) -> None:
    """Time the files of the first seed in turns, for one image and for 16."""
    import onnxruntime

    found = {(row["network"], row["method"]): row for row in rows() if "latency_ms" not in row}
    for network in dict.fromkeys(name for name, _ in found):
        folder = arguments.folder / f"{network}-0"
        files = sorted(folder.glob("*.onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        sessions = {path.name: onnxruntime.InferenceSession(path, options) for path in files}
        row: dict[str, Any] = {"network": network, "method": "latency", "threads": arguments.threads}
        for batch in (1, 16):
            passes = {name: one_pass(session, batch) for name, session in sessions.items()}
            for run in passes.values():
                run()
            times = time_in_turns(passes, 2.0)
            row[f"latency_ms_{batch}"] = {name: 1000 * statistics.median(each) for name, each in times.items()}
        append(row)


def one_pass(session: Any, batch: int) -> Callable[[], Any]:
    """A run of a file on random images."""
    entry = session.get_inputs()[0]
    images = torch.rand(batch, *entry.shape[1:], generator=torch.Generator().manual_seed(0)).numpy()
    return lambda: session.run(None, {entry.name: images})


def rows() -> Iterator[dict[str, Any]]:
    """The finished rows."""
    if RESULTS.exists():
        yield from map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())


def append(row: dict[str, Any]) -> None:
    """Write a row at once."""
    print({name: value for name, value in row.items() if name != "test_classes"}, flush=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def table() -> None:
    """Print the rows as Markdown: means over the seeds."""
    cells: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows():
        if row["method"] != "latency":
            cells.setdefault((row["network"], row["method"], f"{row['lr']:g}"), []).append(row)
    columns = ("network", "method", "rate", "seeds", "parameters", "multiply-adds", "bytes", "test macro-F1")
    print("|", " | ".join((*columns, "int8: bytes", "macro-F1")), "|")
    print("|" + "---|" * (len(columns) + 2))
    for (network, method, rate), group in cells.items():
        mean = {name: statistics.mean(row[name] for row in group) for name in ("params", "macs", "bytes")}
        scores = [100 * row["test"]["macro_f1"] for row in group]
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        small = statistics.mean(row["int8"]["bytes"] for row in group)
        small_f1 = 100 * statistics.mean(row["int8"]["test"]["macro_f1"] for row in group)
        print(
            f"| {network} | {method} | {rate} | {len(group)} | {mean['params']:,.0f} | {mean['macs'] / 1e6:.1f} M "
            f"| {mean['bytes']:,.0f} | {statistics.mean(scores):.2f}{spread} | {small:,.0f} | {small_f1:.2f} |"
        )


def main() -> None:
    """Run a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("teacher", type=Path)
    making.add_argument("data", type=Path)
    making.add_argument("--arch")
    making.add_argument("--cl", type=Path)
    making.add_argument("--keep", type=float, default=0.25, help="share of the multiply-adds to keep")
    making.add_argument("--epochs", type=int, default=15)
    making.add_argument("--lr", type=float, default=PRESETS["short"]["lr"])
    making.add_argument("--methods", nargs="+", default=list(METHODS), help="names of `METHODS`")
    making.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    timing = commands.add_parser("latency")
    for each in (making, timing):
        each.add_argument("--threads", type=int, default=2)
        each.add_argument("--folder", type=Path, default=Path("cfp-peers"))
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "table":
        table()
        return
    choose_device("cpu", arguments.threads)
    make(arguments) if arguments.command == "make" else latency(arguments)


if __name__ == "__main__":
    main()
