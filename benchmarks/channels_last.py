"""Time of forward passes on channels-last images against contiguous ones, with the weights as they are.

    python benchmarks/channels_last.py [--threads 2] [--rounds 5] [--out benchmarks/results/channels_last.json]

The two formats take turns. The file has the median seconds of a pass of each torchvision network and size, with random
weights in eval mode: 64 images of 64 pixels, 16 of 224.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from cfp_cli.foundation.versions import versions

NETWORKS = (
    "vgg16_bn",
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "regnet_y_400mf",
    "densenet121",
    "convnext_tiny",
)
IMAGES = {64: 64, 224: 16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def seconds(network: nn.Module, images: Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of a pass by memory format of the images, which take turns; the first round does not count."""
    batches = {name: images.contiguous(memory_format=each) for name, each in FORMATS.items()}
    found: dict[str, list[float]] = {name: [] for name in FORMATS}
    for _ in range(rounds + 1):
        for name, batch in batches.items():
            began = time.perf_counter()
            network(batch)
            found[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def main() -> None:
    """Measure all networks and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "channels_last.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with torch.inference_mode():
        for name in NETWORKS:
            network = torchvision.models.get_model(name).eval()
            for size, count in IMAGES.items():
                row = seconds(network, torch.rand(count, 3, size, size), options.rounds)
                rows.append({"network": name, "size": size, "ratio": row["channels_last"] / row["contiguous"], **row})
                print(json.dumps(rows[-1]), flush=True)
    facts = {"machine": platform.machine(), "threads": options.threads, "versions": versions()}
    options.out.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
