"""cfp beside other ways to a small network, at equal multiply-adds: Torch-Pruning, fewer channels, int8 and others.

    python benchmarks/peers.py make TEACHER DATA [--arch A] [--cl CL.pt] [--keep 0.5 0.25 0.1] [--epochs 15] [--lr 3e-4]
        [--seeds 0 1 2] [--methods NAME...] [--device cpu]
    python benchmarks/peers.py int8 TEACHER DATA     # quantise the files of TEACHER's rows again
    python benchmarks/peers.py latency [--threads 2]     # on an idle machine
    python benchmarks/peers.py table
    python benchmarks/peers.py figures

`make` prunes TEACHER to shares of its multiply-adds with each method of `METHODS`, trains each network for the same
number of epochs of the same views, and exports it to ONNX, as it is and in int8. The epoch is chosen on the validation
images; test images are read once for each network. Torch-Pruning's own recipe trains on labels; each of its networks
is also trained as cfp trains its own. `slimmed` has as many channels in each layer as cfp keeps at one rate, and new
weights. `latency` times the files of the first seed in turns, in onnxruntime and OpenVINO. Rows are appended to
`results/peers.jsonl`, and finished ones are skipped. `figures` draws test macro-F1 against multiply-adds and against
latency in onnxruntime, as SVG in `docs/figures`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from plot import Axis, Point, line_plot
from torch import Tensor, nn

import cfp_cli as cfp
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.comparing.students import forget
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.data.images import ImageStore, load_images, sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution.device import choose_device
from cfp_cli.exporting import onnx_file
from cfp_cli.exporting.export import export, metrics_of
from cfp_cli.exporting.metadata import describe_file
from cfp_cli.exporting.open_file import open_export
from cfp_cli.exporting.quantise import quantise
from cfp_cli.exporting.runtimes import opener
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.measuring.latency import time_in_turns
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.measuring.predictions import predict
from cfp_cli.measuring.runtimes import Runtime
from cfp_cli.models.registry import create
from cfp_cli.training.options import PRESETS

RESULTS = Path(__file__).parent / "results" / "peers.jsonl"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
SCORED, BATCH, CALIBRATION = 640, 32, 128
SMALL = "torchvision:mobilenet_v3_small"


@dataclass(frozen=True)
class Work:
    """What each method gets: the trained network, its images and the share of its multiply-adds to keep.

    The network may be on a GPU. What a method returns is on the same device.
    """

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

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def multiply_adds(self, network: nn.Module) -> int:
        """Multiply-adds of a network for one image."""
        image = next(iter(self.sampled.batches(1)))[0]
        return Selection(channel_sets(network, image.to(next(network.parameters()).device))).macs


def by_cfp(work: Work, multiple: int = 1) -> nn.Module:
    """`cfp score` and `cfp prune --target macs --round-to MULTIPLE`."""
    batches = list(work.sampled.batches(BATCH))
    scores = cfp.score(work.network, batches)
    pruned, plan = cfp.prune(
        work.network,
        scores,
        1 - work.share,
        loader=batches,
        target="macs",
        round_to=multiple,
    )
    return describe(pruned, replace(spec_of(work.network), plan=plan.to_json()))


def by_torch_pruning(importance: Callable[[], Any], gradients: bool) -> Callable[[Work], nn.Module]:
    """Torch-Pruning: global pruning of groups by an importance, to the same multiply-adds."""

    def prune(work: Work) -> nn.Module:
        whole = work.multiply_adds(work.network)
        images, labels = (each.to(work.device) for each in next(iter(work.sampled.batches(128))))

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


def slimmed(work: Work) -> nn.Module:
    """The same architecture with one share of the channels of each layer, and new weights."""
    batches = list(work.sampled.batches(BATCH))
    scores = cfp.score(work.network, batches)
    network, plan = cfp.prune(work.network, scores, 1 - work.share, target="macs", allocation="uniform")
    forget(network, work.seed)
    return describe(network, replace(spec_of(work.network), plan=plan.to_json()))


def small_architecture(work: Work) -> nn.Module:
    """A small architecture with new weights."""
    torch.manual_seed(work.seed)
    spec = spec_of(work.network)
    network = create(SMALL, len(spec.classes)).to(work.device)
    return describe(network, ModelSpec(SMALL, spec.classes, input_size=spec.input_size))


GROUP_NORM = by_torch_pruning(lambda: tp.importance.GroupMagnitudeImportance(p=2), gradients=False)
TAYLOR = by_torch_pruning(lambda: tp.importance.GroupTaylorImportance(), gradients=True)
FPGM = by_torch_pruning(lambda: tp.importance.FPGMImportance(), gradients=False)
# How a network is made, and whether it is distilled or trained on labels.
METHODS: dict[str, tuple[Callable[[Work], nn.Module], bool]] = {
    "cfp": (by_cfp, True),
    "cfp --round-to 8": (partial(by_cfp, multiple=8), True),
    "Torch-Pruning, group norm, own recipe": (GROUP_NORM, False),
    "Torch-Pruning, group norm, distilled": (GROUP_NORM, True),
    "Torch-Pruning, Taylor, own recipe": (TAYLOR, False),
    "Torch-Pruning, Taylor, distilled": (TAYLOR, True),
    "Torch-Pruning, FPGM, own recipe": (FPGM, False),
    "slimmed, distilled": (slimmed, True),
    "MobileNetV3-Small, distilled": (small_architecture, True),
}
ORIGINAL, LATENCY = "original", "latency"
BATCHES = (1, 16)
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
# What a row is known by.
FACTS = ("network", "data", "keep", "epochs", "lr", "seed", "method")


def make(arguments: argparse.Namespace) -> None:
    """Make, train, export and measure the networks."""
    dataset = open_dataset(arguments.data)
    device = choose_device(arguments.device, arguments.threads)
    teachers = [load(path, arguments.arch).to(device) for path in (arguments.teacher, arguments.cl) if path]
    name = arguments.teacher.stem
    known = list(rows())
    done = {tuple(row[fact] for fact in FACTS if fact in row) for row in known}
    if not any(row["network"] == name and row["method"] == ORIGINAL for row in known):
        work = Work(teachers[0], dataset, arguments.seeds[0], 1.0)
        append({"network": name, "data": arguments.data.name, "method": ORIGINAL} | timed(work, ORIGINAL, arguments))
    for seed, keep, method in product(arguments.seeds, arguments.keep, arguments.methods):
        values = (name, arguments.data.name, keep, arguments.epochs, arguments.lr, seed, method)
        if values not in done:
            work = Work(teachers[0], dataset, seed, keep)
            append(dict(zip(FACTS, values, strict=True)) | timed(work, method, arguments, teachers))


def timed(work: Work, method: str, arguments: argparse.Namespace, teachers: Sequence[nn.Module] = ()) -> dict[str, Any]:
    """Train the network of a method if there are teachers, measure it, and count the processor seconds."""
    began = time.process_time()
    folder = arguments.folder / arguments.teacher.stem
    folder.mkdir(parents=True, exist_ok=True)
    network = trained(work, method, teachers, arguments, folder) if teachers else work.network
    file = folder / file_name(method, work.share, work.seed)
    return measured(work, copy.deepcopy(network).cpu(), file) | {"cpu_seconds": round(time.process_time() - began)}


def file_name(method: str, keep: float, seed: int) -> str:
    """The ONNX file of a network."""
    plain = method.replace(" ", "-").replace(",", "")
    return f"{plain}.onnx" if method == ORIGINAL else f"{plain}-{keep:g}-{seed}.onnx"


def int8_name(file: str) -> str:
    """The int8 file beside an ONNX file."""
    return file.replace(".onnx", ".int8.onnx")


def trained(
    work: Work, method: str, teachers: Sequence[nn.Module], arguments: argparse.Namespace, folder: Path
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
            cache_folder=arguments.folder / "cache",
            device=work.device,
        )
    else:
        network, _ = cfp.train(network, work.dataset, options, out, keep_start=True, device=work.device)
    return network


def measured(work: Work, network: nn.Module, path: Path) -> dict[str, Any]:
    """Size and metrics of a network and of its int8 file."""
    preprocessing = Preprocessing.of(spec_of(network))
    stores = {split: load_images(work.dataset, split, preprocessing) for split in ("val", "test")}
    calibration = sample(work.dataset, CALIBRATION, work.seed, preprocessing)
    images: Tensor = torch.cat([batch for batch, _ in calibration.batches(BATCH)])
    exported = export(network, path)
    test = stores["test"].batches(BATCH)
    int8 = export(network, path.with_name(int8_name(path.name)), int8=True, calibration=images, evaluation=test)
    return {
        "params": sum(parameter.numel() for parameter in network.parameters()),
        "macs": work.multiply_adds(network),
        "bytes": exported.bytes,
        "val": scores_of(evaluate(network, stores["val"].batches(BATCH))),
        "test": scores_of(evaluate(network, test)),
        "test_classes": predict(network, test).classes.tolist(),
        "int8": {
            "bytes": int8.bytes,
            "test": {"accuracy": int8.accuracy_after, "macro_f1": int8.macro_f1_after},
        },
    }


def quantise_again(arguments: argparse.Namespace) -> None:
    """Quantise the files of the rows of a teacher again, and replace what their rows say of int8."""
    dataset, known = open_dataset(arguments.data), list(rows())
    for row in known:
        seed = row.get("seed", arguments.seeds[0])
        file = arguments.folder / arguments.teacher.stem / file_name(row["method"], row.get("keep", 1.0), seed)
        if row["network"] != arguments.teacher.stem or row["method"] == LATENCY or not file.exists():
            continue
        run, spec = open_export(file, "onnx")
        preprocessing = Preprocessing.of(spec)
        calibration = torch.cat([each for each, _ in sample(dataset, CALIBRATION, seed, preprocessing).batches(BATCH)])
        made = quantise(run, file.read_bytes(), calibration, describe_file(spec, int8=True))
        file.with_name(int8_name(file.name)).write_bytes(made.content)
        test = load_images(dataset, "test", preprocessing).batches(BATCH)
        metrics = scores_of(metrics_of(onnx_file.runner(made.content), test, spec))
        print(row["method"], row.get("keep"), seed, row["int8"], metrics, flush=True)
        row["int8"] = {"bytes": len(made.content), "test": metrics}
        RESULTS.write_text("".join(json.dumps(each) + "\n" for each in known), encoding="utf-8")


def scores_of(metrics: Metrics) -> dict[str, float]:
    """Accuracy and macro-F1."""
    return {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1}


def latency(arguments: argparse.Namespace) -> None:
    """Time the files of the first seed in turns, for one image and for 16."""
    originals = sorted(arguments.folder.glob(f"*/{ORIGINAL}.onnx"))
    for original, runtime in product(originals, RUNTIMES):
        folder = original.parent
        shape = onnx_file.session(original).get_inputs()[0].shape[1:]
        images = torch.rand(max(BATCHES), *shape, generator=torch.Generator().manual_seed(0)).numpy()
        files = sorted(each for each in folder.glob("*.onnx") if each.stem.split(".int8")[0].endswith(("-0", ORIGINAL)))
        opened = {path.name: opener(runtime, arguments.threads)(path.read_bytes()) for path in files}
        row: dict[str, Any] = {"network": folder.name, "method": LATENCY, "runtime": runtime}
        row["threads"] = arguments.threads
        for batch in BATCHES:
            passes = {name: partial(run, images[:batch]) for name, run in opened.items()}
            times = time_in_turns(passes, 2.0)
            row[f"latency_ms_{batch}"] = {name: 1000 * statistics.median(each) for name, each in times.items()}
        append(row)


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
    columns = ("network", "method", "rate", "seeds", "parameters", "multiply-adds", "bytes", "test macro-F1")
    print("|", " | ".join((*columns, "int8: bytes", "macro-F1")), "|")
    print("|" + "---|" * (len(columns) + 2))
    for (network, method, _, rate), group in cells().items():
        mean = {name: statistics.mean(row[name] for row in group) for name in ("params", "macs", "bytes")}
        score, deviation = macro_f1(group)
        spread = f" ± {deviation:.2f}" if deviation else ""
        small = statistics.mean(row["int8"]["bytes"] for row in group)
        small_f1 = 100 * statistics.mean(row["int8"]["test"]["macro_f1"] for row in group)
        print(
            f"| {network} | {method} | {rate:g} | {len(group)} | {mean['params']:,.0f} | {mean['macs'] / 1e6:.1f} M "
            f"| {mean['bytes']:,.0f} | {score:.2f}{spread} | {small:,.0f} | {small_f1:.2f} |"
        )


def cells() -> dict[tuple[str, str, float, float], list[dict[str, Any]]]:
    """Rows of all seeds by network, method, kept share and learning rate; the largest share first."""
    found: dict[tuple[str, str, float, float], list[dict[str, Any]]] = {}
    for row in sorted(rows(), key=lambda row: -float(row.get("keep", 1))):
        if row["method"] != LATENCY:
            key = (row["network"], row["method"], row.get("keep", 1.0), row.get("lr", 0.0))
            found.setdefault(key, []).append(row)
    return found


def macro_f1(group: Sequence[dict[str, Any]], split: str = "test") -> tuple[float, float]:
    """Mean and standard deviation of the macro-F1 of a split in per cent; the deviation of one row is 0."""
    scores = [100 * row[split]["macro_f1"] for row in group]
    return statistics.mean(scores), statistics.stdev(scores) if len(scores) > 1 else 0.0


def figures() -> None:
    """Draw the test macro-F1 against multiply-adds and, where files were timed, against latency of one image.

    Only float32 files are drawn, and of several learning rates the one with the best macro-F1 on the validation images.
    """
    best: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for (network, method, keep, _), group in cells().items():
        known = best.get((network, method, keep))
        if known is None or macro_f1(group, "val") > macro_f1(known, "val"):
            best[network, method, keep] = group
    times = {row["network"]: row["latency_ms_1"] for row in rows() if row.get("runtime") == RUNTIMES[0]}
    for name in dict.fromkeys(network for network, _, _ in best):
        macs: dict[str, list[Point]] = {}
        latencies: dict[str, list[Point]] = {}
        for (network, method, keep), group in best.items():
            if network != name:
                continue
            macs.setdefault(method, []).append((statistics.mean(row["macs"] for row in group) / 1e6, *macro_f1(group)))
            file = file_name(method, keep, 0)
            if file in times.get(name, {}):
                latencies.setdefault(method, []).append((times[name][file], *macro_f1(group)))
        draw(name, "multiply-adds", "million multiply-adds", macs)
        draw(name, "latency", "milliseconds for one image", latencies)


def draw(network: str, kind: str, label: str, series: dict[str, list[Point]]) -> None:
    """Write one figure, unless there is nothing to draw."""
    if not series:
        return
    points = [point for each in series.values() for point in each]
    across = [point[0] for point in points]
    low = min(point[1] - point[2] for point in points)
    line_plot(
        FIGURES / f"peers-{network}-{kind}.svg",
        f"{network}: test macro-F1 against {kind}",
        Axis(label, 0.9 * min(across), 1.1 * max(across), log=True),
        Axis("test macro-F1, %", max(0.0, low - 1), 100.0),
        series,
    )


def main() -> None:
    """Run a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making, quantising = commands.add_parser("make"), commands.add_parser("int8")
    for each in (making, quantising):
        each.add_argument("teacher", type=Path)
        each.add_argument("data", type=Path)
        each.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    making.add_argument("--cl", type=Path)
    making.add_argument("--keep", type=float, nargs="+", default=[0.25], help="shares of the multiply-adds to keep")
    making.add_argument("--epochs", type=int, default=15)
    making.add_argument("--lr", type=float, default=PRESETS["short"]["lr"])
    making.add_argument("--methods", nargs="+", default=list(METHODS), help="names of `METHODS`")
    making.add_argument("--device", default="cpu")
    making.add_argument("--arch")
    timing = commands.add_parser("latency")
    for each in (making, timing):
        each.add_argument("--threads", type=int, default=2)
    for each in (making, quantising, timing):
        each.add_argument("--folder", type=Path, default=Path("cfp-peers"))
    printing: dict[str, Callable[[], None]] = {"table": table, "figures": figures}
    for name in printing:
        commands.add_parser(name)
    arguments = parser.parse_args()
    if arguments.command in printing:
        printing[arguments.command]()
        return
    running = {"make": make, "int8": quantise_again, "latency": latency}
    running[arguments.command](arguments)


if __name__ == "__main__":
    main()
