"""From a folder of images to a small network and its ONNX file, with the Python API.

python examples/shrink.py data/ small/ --arch torchvision:resnet18 --input-size 64 --ratio 0.95
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import cfp_cli as cfp


def main() -> None:
    """Train two teachers, score, prune, fine-tune and export. All files go to the folder OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="images as DATA/CLASS/*")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--arch", default="torchvision:resnet18")
    parser.add_argument("--input-size", type=int, default=64)
    parser.add_argument("--ratio", type=float, default=0.95, help="fraction of the parameters to remove")
    parser.add_argument("--teacher-epochs", type=int, default=30)
    parser.add_argument("--student-epochs", type=int, default=60)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    data = cfp.open_dataset(args.data)
    print(f"{len(data.split('train'))} training images of {len(data.classes)} classes")  # noqa: T201

    # The representation teacher sees images as often as they occur. The class-balanced teacher sees each class equally
    # often.
    torch.manual_seed(0)
    size = (args.input_size, args.input_size)
    network = cfp.describe(
        cfp.create(args.arch, len(data.classes)), cfp.ModelSpec(args.arch, data.classes, input_size=size)
    )
    options = cfp.TrainOptions.preset("teacher", epochs=args.teacher_epochs, batch_size=32)
    cfp.train(network, data, options, args.out / "rl.pt")
    balanced = replace(options, sampler="balanced", epochs=max(args.teacher_epochs // 3, 1), lr=1e-4)
    cfp.train(cfp.load(args.out / "rl.pt", args.arch), data, balanced, args.out / "cl.pt")
    teachers = [cfp.load(args.out / "rl.pt", args.arch), cfp.load(args.out / "cl.pt", args.arch)]

    # The student is the representation teacher without the channels whose feature maps are redundant.
    model = cfp.load(args.out / "rl.pt", args.arch)
    images = cfp.load_images(data, "train", cfp.Preprocessing.of(model.spec))
    scores = cfp.score(model, images.batches(16))
    student, plan = cfp.prune(model, scores, args.ratio, loader=images.batches(64))
    cfp.describe(student, replace(model.spec.followed_by("prune", ratio=args.ratio), plan=plan.to_json()))
    print(f"{plan.params_before:,} to {plan.params_after:,} parameters, {plan.compression:.1f}x fewer")  # noqa: T201

    history = cfp.finetune(
        student,
        data,
        teachers,
        cfp.TrainOptions.preset("student", epochs=args.student_epochs, batch_size=32),
        out=args.out / "small.pt",
        last=args.out / "small.last.pt",
        cache_folder=args.out / "cache",
    )
    if history.test is not None:
        print(f"accuracy {history.test.accuracy:.2%}, macro F1 {history.test.macro_f1:.2%} on test")  # noqa: T201

    exported = cfp.export(cfp.load(args.out / "small.pt", args.arch), args.out / "small.onnx")
    print(f"{exported.path}: {exported.bytes:,} bytes, largest logit error {exported.max_relative_error:.1e}")  # noqa: T201


if __name__ == "__main__":
    main()
