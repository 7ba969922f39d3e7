"""Speed of the scoring core against PyTorch and the published algorithm, in one process, on real feature maps.

    python benchmarks/core_speed.py MODEL.pt DATA [--arch vgg16_bn_gap] [--threads 2] [--out JSON] [--plots FOLDER]

The script runs images of DATA (any folder tree of images) through the network at 224 x 224 and measures on the maps
after each ReLU, or after the pooling that follows it. Each figure is the median of several rounds. The implementations
alternate within a round, so that other load on the machine affects them equally. All use the same maps and the same
number of threads.

Keys without a prefix are ratios of wall time. Keys with the prefix `cpu_` are ratios of the CPU time of this process
over all its threads, which other load disturbs less. The results contain the load averages.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from plot import Axis, line_plot
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

import cfp_core
from cfp_cli.checkpoints.load import load
from cfp_cli.execution.processor import processor

SIDE = 224
MAPS_OF_SIDE = {224: 24, 112: 64, 56: 128, 28: 256, 14: 512, 7: 512}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call: wall time, and CPU time over all threads."""

    wall: float
    cpu: float


def alternate(rounds: int, **alternatives: Callable[[], object]) -> dict[str, Timing]:
    """Median times of each alternative; every round runs all of them, after one call each that is not measured."""
    for work in alternatives.values():
        work()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, work in alternatives.items():
            cpu = time.process_time()
            taken[name].append((seconds(work), time.process_time() - cpu))
    return {
        name: Timing(*(statistics.median(each) for each in zip(*times, strict=True))) for name, times in taken.items()
    }


def ratio(slow: Timing, fast: Timing, name: str = "ratio") -> dict[str, float]:
    """Time of `slow` over time of `fast`, as wall time and as CPU time."""
    return {name: slow.wall / fast.wall, f"cpu_{name}": slow.cpu / fast.cpu}


def images_of(folder: Path, count: int) -> Tensor:
    """Images at equal distances in the sorted list of the tree: float32 [count, 3, 224, 224] in [0, 1]."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".bmp"})
    chosen = [paths[index * len(paths) // count] for index in range(count)]
    pixels = [pil_to_tensor(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.BILINEAR)) for path in chosen]
    return torch.stack(pixels).float() / 255


def maps_of(model: nn.Module, images: Tensor) -> list[np.ndarray]:
    """Maps after each ReLU of a convolution, or after the pooling that follows it: float32 [N, C, H, W]."""
    kept: list[Tensor] = []
    layers = list(model.features)
    hooks = []
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.ReLU) and not isinstance(after, nn.MaxPool2d)):
            hooks.append(layer.register_forward_hook(lambda _module, _inputs, output: kept.append(output.clone())))
    with torch.inference_mode():
        model(images)
    for hook in hooks:
        hook.remove()
    return [maps.contiguous().numpy() for maps in kept]


def score_all(taps: list[np.ndarray], similarity: str = "norm") -> None:
    """Pass the maps of all taps through new accumulators."""
    for maps in taps:
        cfp_core.TapAccumulator(maps.shape[1], similarity).update(maps)


def published(taps: list[np.ndarray]) -> None:
    """The loops of the published scripts: one rank for each map, two norms for each image and pair of channels."""
    for maps in taps:
        images, channels, height, _ = maps.shape
        tensor = torch.from_numpy(maps)
        for image in range(images):
            planes = list(torch.round(tensor[image], decimals=4))
            for plane in planes:
                torch.linalg.matrix_rank(plane).item()
            planes = list(tensor[image])
            for one in range(channels):
                for other in range(one + 1, channels):
                    abs(torch.norm(planes[one]) - torch.norm(planes[other])) / height


def ranks_by_side(taps: list[np.ndarray], rounds: int) -> dict[str, Any]:
    """Time `matrix_rank` of the core against batched `torch.linalg.matrix_rank` in float32."""
    by_side = {maps.shape[-1]: maps for maps in taps}
    by_side[7] = torch.max_pool2d(torch.from_numpy(by_side[14]), 2).numpy()
    rows = {}
    for side, count in MAPS_OF_SIDE.items():
        flat = by_side[side].reshape(-1, side, side)
        flat = flat[:: max(1, len(flat) // count)][:count]
        rounded = np.ascontiguousarray(np.round(flat, 4))
        tensor = torch.from_numpy(rounded)
        timings = alternate(
            rounds,
            core=lambda rounded=rounded: cfp_core.matrix_rank(rounded),
            torch=lambda tensor=tensor: torch.linalg.matrix_rank(tensor),
        )
        rows[str(side)] = {
            "maps": len(rounded),
            "mean_rank": float(cfp_core.matrix_rank(rounded).mean()),
            "core_us_per_map": timings["core"].wall / len(rounded) * 1e6,
            "torch_us_per_map": timings["torch"].wall / len(rounded) * 1e6,
            **ratio(timings["torch"], timings["core"]),
        }
    return rows


def agreement(batches: list[list[np.ndarray]], largest: int) -> dict[str, Any]:
    """Compare ranks of the core with float64 LAPACK singular values under the same threshold."""
    compared = disagreed = 0
    worst = 0.0
    for taps in batches:
        for maps in taps:
            side = maps.shape[-1]
            flat = np.round(maps.reshape(-1, side, side), 4)
            flat = flat[:: max(1, len(flat) // largest)] if side > 56 else flat
            ranks = cfp_core.matrix_rank(np.ascontiguousarray(flat))
            values = np.linalg.svd(flat.astype(np.float64), compute_uv=False)
            threshold = values[:, :1] * side * 2.0**-23
            wrong = np.flatnonzero((values > threshold).sum(axis=1) != ranks)
            compared += len(flat)
            disagreed += len(wrong)
            for index in wrong:
                distance = np.abs(values[index] / threshold[index] - 1).min()
                worst = max(worst, float(distance))
    return {
        "maps": compared,
        "disagreements": disagreed,
        "agreement": 1 - disagreed / compared,
        "farthest_singular_value_of_a_disagreement": worst,
    }


def distances(rounds: int) -> dict[str, Any]:
    """Time `pairwise_distance` against `torch.cdist(p=1)`, and against the number of channels."""
    generator = np.random.default_rng(0)
    norms = generator.random((640, 2048)) * 50
    columns = torch.from_numpy(np.ascontiguousarray(norms.T))
    single = columns.float()
    timings = alternate(
        rounds,
        core=lambda: cfp_core.pairwise_distance(norms, 1),
        torch_float64=lambda: torch.cdist(columns, columns, p=1),
        torch_float32=lambda: torch.cdist(single, single, p=1),
    )
    growth = {}
    for channels in (256, 512, 1024, 2048, 4096):
        table = generator.random((640, channels))
        spent = alternate(rounds, core=lambda table=table: cfp_core.pairwise_distance(table, 1))["core"].cpu
        growth[str(channels)] = {"cpu_s": spent, "cpu_ps_per_pair_and_image": spent / (channels**2 / 2) / 640 * 1e12}
    return {
        "channels": 2048,
        "images": 640,
        **{f"{name}_ms": value.wall * 1e3 for name, value in timings.items()},
        **ratio(timings["torch_float64"], timings["core"], "ratio_float64"),
        **ratio(timings["torch_float32"], timings["core"], "ratio_float32"),
        "growth": growth,
    }


def scaling(taps: list[np.ndarray], threads: int, rounds: int) -> dict[str, float]:
    """Time the scoring of all taps with one thread and with several."""

    def with_threads(count: int) -> Callable[[], None]:
        def work() -> None:
            cfp_core.set_threads(count)
            score_all(taps)

        return work

    timings = alternate(rounds, one=with_threads(1), several=with_threads(threads))
    cfp_core.set_threads(threads)
    return {
        "one_thread_ms_per_image": timings["one"].wall / len(taps[0]) * 1e3,
        "several_threads_ms_per_image": timings["several"].wall / len(taps[0]) * 1e3,
        "ratio": timings["one"].wall / timings["several"].wall,
        "cpu_overhead": timings["several"].cpu / timings["one"].cpu,
    }


def growth_with_images(maps: np.ndarray) -> dict[str, float]:
    """CPU milliseconds for one image after 64, 256, 1,024 and 4,096 images, in batches of 16."""
    accumulator = cfp_core.TapAccumulator(maps.shape[1])
    batch = np.ascontiguousarray(np.repeat(maps[:1], 16, axis=0))
    seen, result = 0, {}
    for end in (64, 256, 1024, 4096):
        before, began = seen, time.process_time()
        while seen < end:
            accumulator.update(batch)
            seen += len(batch)
        result[str(end)] = (time.process_time() - began) / (seen - before) * 1e3
    return result


def draw(result: dict[str, Any], folder: Path) -> None:
    """Plot time against images and against channels."""
    images = {int(count): value for count, value in result["growth_cpu_ms_per_image"].items()}
    points = [(float(count), value * 1e3, 0.0) for count, value in images.items()]
    line_plot(
        folder / "scoring-growth-images.svg",
        "Scoring time of one image against images scored before it",
        Axis("images scored before", min(images), max(images), log=True),
        Axis("processor time per image, us", 0, 2 * max(point[1] for point in points)),
        {"last tap of VGG-16": points},
    )
    pairs = {
        int(count): value["cpu_ps_per_pair_and_image"] for count, value in result["pairwise_distance"]["growth"].items()
    }
    line_plot(
        folder / "scoring-growth-channels.svg",
        "Time of one pairwise distance against channels",
        Axis("channels", min(pairs), max(pairs), log=True),
        Axis("processor time per pair and image, ps", 0, 2 * max(pairs.values())),
        {"pairwise_distance": [(float(count), value, 0.0) for count, value in pairs.items()]},
    )


def main() -> None:
    """Measure, and write one JSON file and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arch", default="vgg16_bn_gap")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=6, help="images whose ranks are compared with LAPACK")
    parser.add_argument("--slow-rounds", type=int, default=5, help="rounds of the published algorithm; 0 skips it")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/core_speed.json"))
    parser.add_argument("--plots", type=Path, default=Path("docs/figures"), help="folder for the plots")
    options = parser.parse_args()
    info = cfp_core.build_info()
    if info["profile"] != "release":
        raise SystemExit("error: the core is a debug build; run `make setup`")
    torch.set_num_threads(options.threads)
    cfp_core.set_threads(options.threads)
    model = load(options.model, options.arch).eval()
    images = images_of(options.data, options.images)
    taps = maps_of(model, images[:1])
    result: dict[str, Any] = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "simd": info["simd"],
        "versions": {"cfp_core": info["version"], "torch": torch.__version__, "numpy": np.__version__},
        "load_average_before": os.getloadavg(),
        "maps": [list(maps.shape[1:]) for maps in taps],
        "rounds": options.rounds,
    }

    def forward() -> None:
        with torch.inference_mode():
            model(images[:1])

    timings = alternate(
        options.rounds,
        forward=forward,
        core=lambda: score_all(taps),
        core_ssim=lambda: score_all(taps, "ssim"),
        core_cosine=lambda: score_all(taps, "cosine"),
    )
    result["one_image"] = {
        **{f"{name}_ms": value.wall * 1e3 for name, value in timings.items()},
        **{f"cpu_{name}_ms": value.cpu * 1e3 for name, value in timings.items()},
        **ratio(timings["core"], timings["forward"], "core_of_forward"),
        "ssim_adds_forward_passes": (timings["core_ssim"].wall - timings["core"].wall) / timings["forward"].wall,
        "cpu_ssim_adds_forward_passes": (timings["core_ssim"].cpu - timings["core"].cpu) / timings["forward"].cpu,
    }
    result["scaling"] = scaling(taps, options.threads, options.rounds)
    result["matrix_rank"] = ranks_by_side(taps, options.rounds)
    result["pairwise_distance"] = distances(options.rounds)
    result["growth_cpu_ms_per_image"] = growth_with_images(taps[-1])
    if options.slow_rounds:
        fast = alternate(options.rounds, core=lambda: score_all(taps))["core"]
        slow = alternate(options.slow_rounds, published=lambda: published(taps))["published"]
        result["published"] = {
            "published_s": slow.wall,
            "core_s": fast.wall,
            **ratio(slow, fast),
            "rounds": options.slow_rounds,
        }
    result["agreement"] = agreement([maps_of(model, image[None]) for image in images], 16)
    result["load_average_after"] = os.getloadavg()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, options.plots)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
