"""Time and peak memory of scoring, against the forward passes alone.

    python benchmarks/scoring.py DATA [--vgg vgg16.pt] [--threads 2] [--rounds 3] [--cells NAME...] [--out FILE]
    python benchmarks/scoring.py DATA --figures docs/figures

DATA is a folder of real images by class. Each cell of `CELLS` is a network, an image size and a number of images. It is
scored with the defaults of `cfp score` first: tracing, the trial rebuild, the pass over the images and the choice of
channels all count. A network without a trained checkpoint (--vgg) gets seeded random weights and a batch norm
re-estimated on the images, so that its maps are not dead. All alternatives of a cell run in one process on the same
images and threads and take turns; each value is the median over the rounds. Peak memory is measured in a new process
for each alternative. Results are written after each cell; cells that are in the file are not measured again.
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
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import torchvision
from plot import Axis, line_plot
from torch import Tensor, nn

import cfp_core
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.images import sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution.device import choose_device
from cfp_cli.execution.processor import processor
from cfp_cli.graph import Tap, channel_sets
from cfp_cli.models.registry import create
from cfp_cli.pruning.recalibrate import recalibrate
from cfp_cli.scoring.criteria import Richness
from cfp_cli.scoring.score import score

BATCH = 16
VGG = "vgg16_bn_gap"
# The default of `cfp score` first, which a test compares, then the richness of the paper.
MEASURED: tuple[Richness, ...] = ("explained-variance", "rank")


@dataclass(frozen=True)
class Cell:
    """A measurement.

    Attributes:
        arch: architecture of the network.
        side: image side in pixels.
        images: number of images.
        richness: what `cfp score --richness` is measured with.
        goals: largest ratio to the forward passes for each richness; empty if there is none.
        width: factor of the number of channels.
    """

    arch: str
    side: int
    images: int
    richness: tuple[Richness, ...]
    goals: tuple[float, ...]
    width: float = 1

    @property
    def name(self) -> str:
        """Name of the cell, such as `resnet50-224-640`."""
        width = "" if self.width == 1 else f"-x{self.width:g}"
        return f"{self.arch.rpartition(':')[2]}-{self.side}-{self.images}{width}"


def _cell(arch: str, side: int, images: int, goal: float) -> Cell:
    return Cell(arch, side, images, MEASURED[:1], (goal,))


CELLS = {
    cell.name: cell
    for cell in (
        _cell("torchvision:resnet50", 224, 64, 1.6),
        _cell("torchvision:mobilenet_v2", 224, 64, 1.6),
        _cell(VGG, 64, 640, 1.5),
        _cell("torchvision:resnet50", 64, 640, 1.5),
        _cell("torchvision:mobilenet_v2", 224, 640, 1.3),
        _cell("torchvision:regnet_y_400mf", 224, 640, 1.3),
        _cell("torchvision:efficientnet_b0", 224, 640, 1.3),
        Cell("torchvision:resnet50", 224, 640, MEASURED, (1.15, 1.3)),
        _cell("torchvision:densenet121", 224, 640, 1.3),
        _cell("torchvision:convnext_tiny", 224, 640, 1.3),
        Cell(VGG, 224, 640, MEASURED, (1.15, 1.15)),
        # How the ratio changes with the number of images, with their size and with the number of channels.
        *(Cell("torchvision:resnet50", 64, images, MEASURED[:1], ()) for images in (16, 64, 256, 4096)),
        *(Cell("torchvision:resnet50", side, 64, MEASURED[:1], ()) for side in (128, 384, 512)),
        *(Cell("torchvision:mobilenet_v2", 224, 64, MEASURED[:1], (), width) for width in (0.25, 0.5, 2)),
    )
}


def network(cell: Cell, checkpoint: Path | None, batches: list[tuple[Tensor, Tensor]]) -> nn.Module:
    """The network of a cell: from a checkpoint, or with seeded weights and re-estimated batch norm."""
    if checkpoint is not None and cell.arch == VGG:
        return load(checkpoint, VGG, input_size=(cell.side, cell.side))
    torch.manual_seed(0)
    spec = ModelSpec(cell.arch, tuple("abcdef"), input_size=(cell.side, cell.side))
    if cell.width == 1:
        created = create(cell.arch, 6)
    else:
        name = cell.arch.removeprefix("torchvision:")
        created = torchvision.models.get_model(name, num_classes=6, width_mult=cell.width)
    model = describe(created, spec)
    if batches:
        recalibrate(model, batches[:4])
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


def peak(arguments: argparse.Namespace, cell: Cell, what: str) -> int:
    """Peak resident memory in KiB of a new process that does only `what`."""
    command = [sys.executable, __file__, str(arguments.data), "--threads", str(arguments.threads)]
    command += ["--only", f"{cell.name}:{what}"]
    command += [f"--vgg={arguments.vgg}"] if arguments.vgg else []
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def batches_of(data: Path, cell: Cell) -> list[tuple[Tensor, Tensor]]:
    """The images of a cell, decoded; repeated if the folder has too few."""
    store = sample(open_dataset(data), cell.images, 0, Preprocessing((cell.side, cell.side)))
    batches = list(store.batches(BATCH))
    return list(islice(cycle(batches), -(-cell.images // BATCH)))


def measure(arguments: argparse.Namespace, cell: Cell) -> dict[str, Any]:
    """The results of a cell."""
    batches = batches_of(arguments.data, cell)
    model = network(cell, arguments.vgg, batches)
    forward(model, batches[:1])
    alternatives: dict[str, Callable[[], object]] = {"forward": lambda: forward(model, batches)}
    for richness in cell.richness:
        alternatives[richness] = lambda richness=richness: score(model, batches, richness=richness)
    times = alternate(arguments.rounds, alternatives)
    peaks = {what: peak(arguments, cell, what) for what in alternatives}
    row: dict[str, Any] = {
        "images": sum(len(labels) for _, labels in batches),
        "rounds": arguments.rounds,
        "seconds": times,
        "score_over_forward": {richness: times[richness] / times["forward"] for richness in cell.richness},
        "goals": dict(zip(cell.richness, cell.goals, strict=bool(cell.goals))),
        "peak_kib": peaks,
        "peak_score_over_forward": {richness: peaks[richness] / peaks["forward"] for richness in cell.richness},
    }
    if cell.arch == VGG and cell.side == 224:
        began = time.perf_counter()
        best_in_torch(model, batches[:1])
        row["torch_over_forward"] = (time.perf_counter() - began) * len(batches) / times["forward"]
    return row


def plot(results: dict[str, Any], folder: Path) -> None:
    """Draw how the ratio changes with the number of images, with their size and with the number of channels."""
    points = [
        (cell, results[name]["score_over_forward"][MEASURED[0]]) for name, cell in CELLS.items() if name in results
    ]
    for name, title, label, axis, chosen in (
        (
            "scoring-images",
            "Scoring of ResNet-50 by number of images",
            "images of 64 x 64 pixels",
            "images",
            [point for point in points if (point[0].arch, point[0].side) == ("torchvision:resnet50", 64)],
        ),
        (
            "scoring-size",
            "Scoring of ResNet-50 by image size",
            "image side in pixels, 64 images",
            "side",
            [point for point in points if (point[0].arch, point[0].images) == ("torchvision:resnet50", 64)],
        ),
        (
            "scoring-channels",
            "Scoring of MobileNetV2 by number of channels",
            "factor of the number of channels, 64 images of 224 x 224 pixels",
            "width",
            [
                point
                for point in points
                if (point[0].arch, point[0].side, point[0].images) == ("torchvision:mobilenet_v2", 224, 64)
            ],
        ),
    ):
        line = sorted((getattr(cell, axis), ratio, 0.0) for cell, ratio in chosen)
        x = Axis(label, line[0][0], line[-1][0], log=True)
        y = Axis("scoring / forward passes", 0, max(ratio for _, ratio, _ in line) * 1.1)
        line_plot(folder / f"{name}.svg", title, x, y, {"default options": line})


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vgg", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scoring-defaults.json"))
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--figures", type=Path, help="only draw the plots of the results in this folder")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.figures:
        plot(json.loads(arguments.out.read_text())["results"], arguments.figures)
        return
    if cfp_core.build_info()["profile"] != "release":
        sys.exit("the core is a debug build; install with `pip install .`")
    choose_device("cpu", arguments.threads)
    if arguments.only:
        name, what = arguments.only.split(":")
        batches = batches_of(arguments.data, CELLS[name])
        model = network(CELLS[name], arguments.vgg, [])
        forward(model, batches) if what == "forward" else score(model, batches, richness=what)
        # Not getrusage: its peak includes the peak of the parent process.
        status = Path("/proc/self/status").read_text()
        print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        return
    facts = {
        "cpu": processor(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "core": cfp_core.build_info(),
        "python": platform.python_version(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results: dict[str, Any] = earlier["results"] if earlier.get("facts") == facts else {}
    for name in arguments.cells:
        if name not in results:
            results[name] = measure(arguments, CELLS[name])
            print(json.dumps({name: results[name]}, indent=2), flush=True)
            arguments.out.write_text(json.dumps({"facts": facts, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
