"""Distillation loss of pruned and refitted networks, by method of channel selection.

    python benchmarks/selection.py DATA --teacher RL.pt --ratio 0.99 --methods cfp cfp-rank random-redundancy
        [--targets params macs] [--steps 0 6] [--near 0.03 inf] [--arch A] [--seeds 0 1 2] [--images 640]
        [--threads 2] [--device cpu] [--folder FOLDER] [--out FILE]

The script trains nothing and reads no test image. It measures the distillation loss (T = 2) between the teacher and the
pruned network on the validation images and on the training images outside the scored sample, which no weight was fitted
to. This loss separates methods that accuracy does not separate. The default method was chosen by it. `--steps` are
those of the refit behind activations; 0 is the plain regression. `--near` is how much larger than the smallest error
that of a layer's ridge may be; inf takes the smallest ridge for all layers. The method `random-as-cfp` keeps random
channels, as many in each layer as cfp. A repeated command measures only rows that FILE lacks.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.comparing.methods import METHODS, Method, chosen
from cfp_cli.comparing.students import Students
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.images import ImageStore, load_images, sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution.device import choose_device
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.graph import channel_sets
from cfp_cli.pruning.layer_fit import BEST_FIT
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.reconstruct import RecordedOutputs
from cfp_cli.pruning.refit import Refit

TEMPERATURE = 2.0
# As `Students` has it: the sampled positions are the same for all images of a batch.
BATCH = 64
COLUMNS = (
    *("target", "ratio", "seed", "method", "steps", "near", "val_loss", "unused_train_loss"),
    *("compression", "macs", "cpu_seconds"),
)


RANDOM_AS_CFP = Method("random-as-cfp", "random")


def logits(model: nn.Module, store: ImageStore) -> Tensor:
    """Logits of all images, on the CPU."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return torch.cat([model(images.to(device)).cpu() for images, _ in store.batches(64)])


def loss(student: Tensor, teacher: Tensor) -> float:
    """T² KL(teacher ‖ student), mean over the images."""
    prediction, target = ((logits / TEMPERATURE).log_softmax(1) for logits in (student, teacher))
    return float(TEMPERATURE**2 * kl_div(prediction, target, reduction="batchmean", log_target=True))


def main() -> None:
    """Measure, and write one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--ratio", type=float, required=True)
    parser.add_argument(
        "--targets", nargs="+", choices=["params", "macs"], default=["params"], help="what ratio counts"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[BEST_FIT.steps], help="steps of the refit")
    parser.add_argument("--near", type=float, nargs="+", default=[BEST_FIT.near], help="tolerance of the ridge")
    parser.add_argument("--arch")
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=640, help="size of the scored sample; fewer than train/ has")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("cfp-selection"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/selection.csv"))
    arguments = parser.parse_args()
    device = choose_device(arguments.device, arguments.threads)
    teacher = load(arguments.teacher, arguments.arch).to(device)
    dataset = open_dataset(arguments.data)
    preprocessing = Preprocessing.of(spec_of(teacher))
    val = load_images(dataset, "val", preprocessing)
    students = Students(teacher, dataset, arguments.folder, arguments.images, device)
    rows = read_rows(arguments.out)
    for seed in arguments.seeds:
        used = set(sample(dataset, arguments.images, seed, preprocessing).paths)
        unused = ImageStore([item for item in dataset.split("train") if item.path not in used], preprocessing)
        expected = [logits(teacher, store) for store in (val, unused)]
        recorded = recorded_outputs(teacher, sample(dataset, arguments.images, seed, preprocessing))
        plans: dict[str, Plan] = {}
        variants = product(arguments.targets, methods_of(arguments.methods), arguments.steps, arguments.near)
        for target, method, steps, near in variants:
            key = [target, str(arguments.ratio), str(seed), method.name, str(steps), str(near)]
            if any(row[: len(key)] == key for row in rows):
                continue
            # A product of inf and zero is no number.
            fit = replace(BEST_FIT, steps=steps, near=min(near, sys.float_info.max))
            students.refit = Refit(recorded=recorded, fit=fit)
            began = time.process_time()
            like = None
            if method is RANDOM_AS_CFP:
                if target not in plans:
                    plans[target] = students.make(METHODS["cfp"], arguments.ratio, seed, 0, target=target)[1]
                like = plans[target]
            student, made = students.make(method, arguments.ratio, seed, 0, target=target, like=like)
            if method.name == "cfp":
                plans[target] = made
            seconds = time.process_time() - began
            predictions = [logits(student, store) for store in (val, unused)]
            losses = [round(loss(*pair), 4) for pair in zip(predictions, expected, strict=True)]
            figures = [*losses, round(made.compression, 2), made.macs_after, round(seconds)]
            rows.append([*key, *map(str, figures)])
            print(*rows[-1], flush=True)
            with arguments.out.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def methods_of(names: Sequence[str]) -> list[Method]:
    """The methods of these names."""
    return [RANDOM_AS_CFP if name == RANDOM_AS_CFP.name else chosen([name])[0] for name in names]


def recorded_outputs(teacher: nn.Module, store: ImageStore) -> RecordedOutputs:
    """The outputs of the teacher's layers, which are recorded once for all rows of a sample."""
    device = next(teacher.parameters()).device
    batches = [images.to(device) for images, _ in store.batches(BATCH)]
    with full_precision():
        return RecordedOutputs.of(teacher, channel_sets(teacher, batches[0][:1]), batches)


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a file that was written before; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


if __name__ == "__main__":
    main()
