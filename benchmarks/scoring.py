"""Time and peak memory of scoring, against the forward passes alone and against batched torch operators.

    python benchmarks/scoring.py DATA --vgg vgg16.pt [--threads 2] [--images 256] [--rounds 5] [--out FILE]

DATA is a folder of real images by class. A network without a trained checkpoint (--vgg, --resnet) gets seeded random
weights and a batch norm re-estimated on the images, so that its maps are not dead. All alternatives run in one process
on the same images and threads and take turns; each value is the median over the rounds. Peak memory is measured in a
new process for each alternative.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import processor
from torch import Tensor, nn

import cfp_core
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.images import sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution.device import choose_device
from cfp_cli.graph import Tap, channel_sets
from cfp_cli.models.registry import create
from cfp_cli.pruning.recalibrate import recalibrate
from cfp_cli.scoring.score import score

SIDE = 224
NETWORKS = {"vgg16": "vgg16_bn_gap", "resnet50": "torchvision:resnet50"}
# The default of `cfp score`, and the richness of the paper.
RICHNESS = ("explained-variance", "rank")


def network(name: str, checkpoint: Path | None, batches: list[tuple[Tensor, Tensor]]) -> nn.Module:
    """A network at 224 pixels: from a checkpoint, or with seeded weights and re-estimated batch norm."""
    if checkpoint is not None:
        return load(checkpoint, NETWORKS[name], input_size=(SIDE, SIDE))
    torch.manual_seed(0)
    model = describe(create(NETWORKS[name], 6), ModelSpec(NETWORKS[name], tuple("abcdef"), input_size=(SIDE, SIDE)))
    if batches:
        recalibrate(model, batches)
    return model.eval()


def forward(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Run the network on all batches, without scoring."""
    with torch.inference_mode():
        for images, _ in batches:
            model(images)


def best_in_torch(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Scoring by batched torch operators: one pass, `linalg.matrix_rank` for each batch, `cdist` at the end."""
    graph = channel_sets(model, batches[0][0][:1])
    norms: dict[str, list[Tensor]] = {tap.node: [] for tap in graph.taps}

    def reduce(tap: Tap, maps: Tensor) -> None:
        norms[tap.node].append(maps.flatten(2).norm(dim=2))
        torch.linalg.matrix_rank(torch.round(maps, decimals=4))

    with torch.inference_mode():
        for images, _ in batches:
            graph.read_taps(images, reduce)
        for table in norms.values():
            columns = torch.cat(table).T.contiguous()
            torch.cdist(columns, columns, p=1)


def alternate(rounds: int, alternatives: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each alternative; every round runs all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, run in alternatives.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak(arguments: argparse.Namespace, name: str, what: str) -> int:
    """Peak resident memory in KiB of a new process that does only `what`."""
    command = [sys.executable, __file__, str(arguments.data), "--threads", str(arguments.threads)]
    command += ["--images", str(arguments.images), "--only", f"{name}:{what}"]
    command += [f"--vgg={arguments.vgg}"] if arguments.vgg else []
    command += [f"--resnet={arguments.resnet}"] if arguments.resnet else []
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--vgg", type=Path)
    parser.add_argument("--resnet", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scoring.json"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if cfp_core.build_info()["profile"] != "release":
        sys.exit("the core is a debug build; install with `pip install .`")
    choose_device("cpu", arguments.threads)
    store = sample(open_dataset(arguments.data), arguments.images, 0, Preprocessing((SIDE, SIDE)))
    batches = list(store.batches(arguments.batch_size))
    checkpoints = {"vgg16": arguments.vgg, "resnet50": arguments.resnet}
    if arguments.only:
        name, what = arguments.only.split(":")
        model = network(name, checkpoints[name], [])
        forward(model, batches) if what == "forward" else score(model, batches, richness=what)
        # Not getrusage: its peak includes the peak of the parent process.
        status = Path("/proc/self/status").read_text()
        print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        return
    results: dict[str, object] = {}
    for name in arguments.networks:
        model = network(name, checkpoints[name], batches)
        graph = channel_sets(model, batches[0][0][:1])
        forward(model, batches)
        alternatives: dict[str, Callable[[], object]] = {"forward": lambda model=model: forward(model, batches)}
        for richness in RICHNESS:
            alternatives[richness] = lambda model=model, graph=graph, richness=richness: score(
                model, batches, richness=richness, graph=graph
            )
        times = alternate(arguments.rounds, alternatives)
        row: dict[str, object] = {
            "seconds_per_image": {what: seconds / len(store) for what, seconds in times.items()},
            "score_over_forward": {richness: times[richness] / times["forward"] for richness in RICHNESS},
        }
        if name == "vgg16":
            few = batches[:1]
            began = time.perf_counter()
            best_in_torch(model, few)
            per_image = (time.perf_counter() - began) / len(few[0][0])
            row["torch_over_forward"] = per_image * len(store) / times["forward"]
        peaks = {what: peak(arguments, name, what) for what in ("forward", *RICHNESS)}
        row["peak_kib"] = peaks
        row["peak_score_over_forward"] = {richness: peaks[richness] / peaks["forward"] for richness in RICHNESS}
        results[name] = row
        print(json.dumps({name: row}, indent=2))
    facts = {
        "cpu": processor(),
        "threads": arguments.threads,
        "images": len(store),
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "core": cfp_core.build_info(),
        "python": platform.python_version(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**facts, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
