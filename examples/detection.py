"""A detector of Ultralytics: train it on generated defects, prune it, train on in its own trainer, export it, compare.

pip install ultralytics
python examples/detection.py out/ --images 500 --epochs 24 --ratio 0.8

It writes images and boxes to out/data, and reaches no network.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

# Ultralytics reads these when it is imported: it shall look up, send and install nothing.
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=tempfile.mkdtemp())
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import USER_CONFIG_DIR

import cfp_cli as cfp
from cfp_cli.data.synthetic import CLASSES, boxes, render_with_mask

# It would download a font, although nothing is plotted.
(USER_CONFIG_DIR / "Arial.ttf").touch()

SIDE = 128
# Pits or cracks with at most this number of pixels between them are one defect.
GAP = 16


class Trainer(DetectionTrainer):
    """Trains the network of the file as it is. The trainer of Ultralytics builds one with the widths of a YAML file."""

    def get_model(self, cfg=None, weights=None, verbose=True) -> nn.Module:
        """Return the network of the file that is trained on or resumed."""
        return weights.requires_grad_(True)


def write(folder: Path, split: str, count: int, seed: int) -> None:
    """Write `images/SPLIT/NAME.png` and `labels/SPLIT/NAME.txt`: a line `class x y width height` for each box."""
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        label = index % len(CLASSES)
        pixels, mask = render_with_mask(CLASSES[label], SIDE, (seed, index))
        corners = boxes(mask, GAP) / SIDE
        sizes = corners[:, 2:] - corners[:, :2]
        lines = np.concatenate([corners[:, :2] + sizes / 2, sizes], 1)
        Image.fromarray(pixels).convert("RGB").save(folder / "images" / split / f"{index:04}.png")
        text = "".join(f"{label} " + " ".join(f"{value:.6f}" for value in line) + "\n" for line in lines)
        (folder / "labels" / split / f"{index:04}.txt").write_text(text)


def yolo() -> nn.Module:
    """The factory, for `--arch examples/detection.py:yolo`."""
    return DetectionModel("yolov8n.yaml", nc=len(CLASSES), verbose=False)


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(each.numel() for each in network.parameters())


def main() -> None:
    """Train, score, prune, train on, export; print the mAP50 on test images after each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--images", type=int, default=500, help="training images, with boxes")
    parser.add_argument("--epochs", type=int, default=24, help="epochs of the original")
    parser.add_argument("--epochs-on", type=int, default=5, help="epochs of the pruned network in its own trainer")
    parser.add_argument("--ratio", type=float, default=0.8, help="fraction of the parameters to remove")
    args = parser.parse_args()
    out = args.out.resolve()

    for seed, (split, part) in enumerate({"train": 1.0, "val": 0.12, "test": 0.3}.items()):
        write(out / "data", split, max(round(args.images * part), len(CLASSES)), seed)
    data = out / "data" / "data.yaml"
    splits = "".join(f"{split}: images/{split}\n" for split in ("train", "val", "test"))
    data.write_text(f"path: {out / 'data'}\n{splits}names: {list(CLASSES)}\n")
    everywhere = {"data": data, "imgsz": SIDE, "device": "cpu", "plots": False, "project": out, "exist_ok": True}
    training = {"batch": 16, "nbs": 16, "optimizer": "AdamW", "cos_lr": True, "warmup_epochs": 1, "flipud": 0.5}
    training |= {"mosaic": 0, "amp": False, "val": False, "workers": 0, "seed": 0, **everywhere}

    def measure(stage: str, file: Path) -> None:
        metrics = YOLO(file).val(split="test", name="val", verbose=False, **everywhere)
        size = f"{parameters(YOLO(file).model):,} parameters, " if file.suffix == ".pt" else ""
        lines.append(f"{stage}: mAP50 {metrics.box.map50:.2%}, {size}{file.stat().st_size:,} bytes")

    lines: list[str] = []
    YOLO("yolov8n.yaml").train(epochs=args.epochs, lr0=2e-3, name="original", **training)
    original = out / "original" / "weights" / "last.pt"
    measure("original", original)

    # The labels are not read. The images are RGB in [0, 1], as the trainer of Ultralytics gives them.
    spec = cfp.ModelSpec(f"{__file__}:yolo", CLASSES, input_size=(SIDE, SIDE))
    store = cfp.load_images(cfp.open_without_labels(out / "data"), "train", cfp.Preprocessing.of(spec))
    yolo = YOLO(original)
    scores = cfp.score(yolo.model, store.batches(32))
    yolo.model, plan = cfp.prune(yolo.model, scores, args.ratio, loader=store.batches(32))
    small = out / "pruned.pt"
    yolo.save(small)
    measure("pruned and refitted", small)

    YOLO(small).train(trainer=Trainer, epochs=args.epochs_on, lr0=1e-3, name="small", **training)
    trained = out / "small" / "weights" / "last.pt"
    measure("trained on", trained)

    file = Path(YOLO(trained).export(format="onnx", imgsz=SIDE, device="cpu", simplify=False))
    measure("exported by Ultralytics", file)
    network = cfp.describe(YOLO(trained).model, spec)
    report = cfp.export(network, out / "small.onnx", samples=next(iter(store.batches(64)))[0])
    error = f"error {report.max_relative_error:.1e} of the largest output"
    lines.append(f"exported by cfp: {report.bytes:,} bytes, {error}")
    print(f"removed {plan.achieved:.2%} of the parameters", *lines, sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
