"""A segmentation network: train it on generated defects, prune it, distil it without masks, export it, compare.

python examples/segmentation.py out/ --images 600 --epochs 30 --ratio 0.8
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import cfp_cli as cfp
from cfp_cli.data.synthetic import CLASSES, render_with_mask

SIDE = 64
NAMES = ("none", *CLASSES)


class UNet(nn.Module):
    """A small U-Net for grey images. It returns a map of class scores."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 96)
        self.down = nn.ModuleList(block(i, o) for i, o in zip((1, *widths), widths, strict=False))
        self.up = nn.ModuleList(block(i + o, o) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.maps = nn.Conv2d(widths[0], len(NAMES), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores float32 [N, 7, H, W] of images float32 [N, 1, H, W]."""
        levels: list[Tensor] = []
        for layer in self.down:
            x = layer(nn.functional.max_pool2d(x, 2) if levels else x)
            levels.append(x)
        for layer, level in zip(self.up, levels[-2::-1], strict=True):
            x = layer(torch.cat([interpolate(x, scale_factor=2.0), level], 1))
        maps: Tensor = self.maps(x)
        return maps


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with batch norm."""
    layers: list[nn.Module] = []
    for each in (inputs, outputs):
        layers += [nn.Conv2d(each, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def unet() -> nn.Module:
    """The factory, for `--arch examples/segmentation.py:unet`."""
    return UNet()


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [count, 1, S, S] and masks int64 [count, S, S]; 0 is steel without a defect."""
    images, masks = [], []
    for index in range(count):
        label = index % len(CLASSES)
        pixels, defect = render_with_mask(CLASSES[label], SIDE, (seed, index))
        images.append(pixels[None])
        masks.append(defect * (label + 1))
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks)).long()


def train(network: nn.Module, images: Tensor, masks: Tensor, epochs: int) -> None:
    """Your own trainer, here a plain loop. Thin defects cover few pixels, so pixels of rare classes weigh more."""
    pixels = torch.bincount(masks.flatten(), minlength=len(NAMES)).clamp_min(1) / masks.numel()
    weights = pixels.rsqrt() / pixels.sqrt().sum()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    steps = epochs * -(-len(images) // 16)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(16):
            x, y = images[chosen], masks[chosen]
            for side in (-1, -2):
                if torch.rand(()) < 0.5:
                    x, y = x.flip(side), y.flip(side)
            loss = cross_entropy(network(x), y, weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    network.eval()


def write(folder: Path, images: Tensor, masks: Tensor) -> None:
    """Write images and masks as `cfp eval` reads them: `images/NAME.png` beside `masks/NAME.png`."""
    for kind, pixels in (("images", images[:, 0]), ("masks", masks.to(torch.uint8))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, each in enumerate(pixels):
            Image.fromarray(each.numpy()).save(folder / kind / f"{index:04}.png")


def main() -> None:
    """Train, score, prune, distil, export; print the mean IoU on test images after each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--images", type=int, default=600, help="training images, with masks")
    parser.add_argument(
        "--epochs", type=int, default=30, help="epochs of the teacher; the distillation takes twice as many"
    )
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of the distillation")
    parser.add_argument("--ratio", type=float, default=0.8, help="fraction of the parameters to remove")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the distillation")
    args = parser.parse_args()

    spec = cfp.ModelSpec(f"{__file__}:unet", NAMES, input_size=(SIDE, SIDE), mean=(0.5,), std=(0.25,), channels=1)
    pixels, masks = draw(args.images, 0)
    test_pixels, test_masks = draw(max(args.images // 3, 6), 1)
    write(args.out / "data" / "train", pixels, masks)
    write(args.out / "data" / "test", test_pixels, test_masks)
    data, preprocessing = cfp.open_without_labels(args.out / "data"), cfp.Preprocessing.of(spec)
    store, test_store = (cfp.load_images(data, split, preprocessing) for split in ("train", "test"))
    test = cfp.MaskBatches(test_store, 32)

    torch.manual_seed(args.seed)
    teacher = cfp.describe(UNet(), spec)
    train(teacher, preprocessing.normalise(pixels), masks, args.epochs)
    cfp.save(args.out / "teacher.pt", teacher)
    found = {"teacher": cfp.evaluate_segmentation(teacher, test)}

    # From here on masks are read only to evaluate.
    images = next(iter(test_store.batches(64)))[0]
    graph = cfp.channel_sets(teacher, images[:1])
    scores = cfp.score(teacher, store.batches(16), graph=graph)
    student, plan = cfp.prune(teacher, scores, args.ratio, loader=store.batches(64), graph=graph)
    cfp.describe(student, replace(spec.followed_by("prune", ratio=args.ratio), plan=plan.to_json()))
    found["pruned and refitted"] = cfp.evaluate_segmentation(student, test)
    cfp.finetune(
        student,
        data,
        [teacher],
        cfp.TrainOptions.preset("student", epochs=2 * args.epochs, batch_size=16, lr=args.lr, seed=args.seed),
        out=args.out / "small.pt",
        last=args.out / "small.last.pt",
        cache_folder=args.out / "cache",
    )
    found["distilled"] = cfp.evaluate_segmentation(student, test)
    report = cfp.export(student, args.out / "small.onnx", samples=images)

    macs = f"{plan.macs_before / 1e6:.1f} M to {plan.macs_after / 1e6:.1f} M"
    print(f"parameters {plan.params_before:,} to {plan.params_after:,}, multiply-adds {macs}")  # noqa: T201
    for name, metrics in found.items():
        print(f"{name}: mean IoU {metrics.mean_iou:.2%}, pixel accuracy {metrics.pixel_accuracy:.2%}")  # noqa: T201
    print(f"{report.path}: {report.bytes:,} bytes, error {report.max_relative_error:.1e} of the largest output")  # noqa: T201


if __name__ == "__main__":
    main()
