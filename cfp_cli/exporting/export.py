"""`export`: write a network for another runtime, run what was written, and keep it only if it answers the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.checkpoint import ModelSpec, spec_of
from cfp_cli.exporting import onnx_file, pt2_file, quantise
from cfp_cli.exporting.metadata import describe_file
from cfp_cli.exporting.samples import procedural_images
from cfp_cli.foundation.errors import CfpError, UsageError
from cfp_cli.foundation.files import write_bytes
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.scratch import scratch_folder
from cfp_cli.measuring.metrics import Loader, Metrics, measure

Format = Literal["onnx", "pt2"]
Runner = Callable[[Tensor], Tensor]

TOLERANCE = 1e-4
_BATCH = 32


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with the checkpoint.

    Attributes:
        path: the file.
        format: `onnx` or `pt2`.
        precision: `float32` or `int8`.
        bytes: size of the file.
        parameters: of the network.
        parameter_bytes: parameters times 4 bytes, or times 1 for int8.
        overhead: what the file is larger than that, as a fraction; graph and metadata dominate in a tiny network.
        images: number of images that file and checkpoint were compared on.
        samples: where these came from: `given` or `procedural`.
        top1_agreement: share of images on which both name the same class; always 1 for float32.
        max_relative_error: of the logits: largest difference over largest logit; at most 1e-4 for float32.
        accuracy_before: of the checkpoint on the evaluation images; int8 only.
        accuracy_after: of the file on the same; int8 only.
        macro_f1_before: macro-averaged F1 of the checkpoint on the same; int8 only.
        macro_f1_after: macro-averaged F1 of the file on the same; int8 only.
    """

    path: Path
    format: Format
    precision: str
    bytes: int
    parameters: int
    parameter_bytes: int
    overhead: float
    images: int
    samples: str
    top1_agreement: float
    max_relative_error: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    macro_f1_before: float | None = None
    macro_f1_after: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {**asdict(self), "path": str(self.path)}


def export(
    model: nn.Module,
    path: str | Path,
    format: Format = "onnx",
    *,
    samples: Tensor | None = None,
    int8: bool = False,
    calibration: Tensor | None = None,
    evaluation: Loader | None = None,
    progress: Progress = SILENT,
) -> ExportReport:
    """Write a network to a file for another runtime, with a free batch size and all that is needed to feed it.

    The file is run (by onnxruntime or `torch.export.load`) on images in batches of several sizes. It is kept only if it
    names the same class on every image and its logits differ by at most 1e-4 of the largest; an int8 file is compared
    likewise, but kept whatever it loses, which the report says.

    Args:
        model: with its spec attached, as `load` gives it; it is not changed.
        path: file to write.
        format: `onnx` or `pt2`.
        samples: images to compare on, float32 [n, 3, H, W], preprocessed; procedural ones where None.
        int8: also quantise weights and activations to 8 bits; ONNX only.
        calibration: training images that give the activations' ranges, float32 [n, 3, H, W], preprocessed; int8 only.
        evaluation: labelled images that accuracy before and after is measured on; int8 only.
        progress: told what is being done.

    Raises:
        UsageError: the format is unknown, or int8 lacks images or is asked of `pt2`.
        CfpError: a package is missing, the network cannot be exported, or the file answers differently; an earlier file
            at `path` then stays as it was.
    """
    path = Path(path)
    if format not in get_args(Format):
        raise UsageError(f"unknown export format '{format}'; use onnx or pt2")
    if int8 and format != "onnx":
        raise UsageError("int8 needs the onnx format; use --format onnx or leave out --int8")
    if int8 and (calibration is None or evaluation is None):
        raise UsageError("int8 needs training images to calibrate on and labelled images to evaluate on; pass the data")
    if format == "onnx":
        onnx_file.require_extra()
    spec = spec_of(model)
    network = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    origin = "procedural" if samples is None else "given"
    images = procedural_images(spec) if samples is None else samples.cpu()
    _check_images(images, spec)
    progress.say(f"tracing {spec.arch}")
    content = _content(network, spec, format)
    with scratch_folder() as folder:
        candidate = folder / f"candidate.{format}"
        candidate.write_bytes(content)
        progress.say(f"running the file on {len(images)} images")
        run = onnx_file.runner(candidate) if format == "onnx" else pt2_file.runner(candidate)
        agreement, error = compare(network, run, images)
        if agreement < 1 or not error <= TOLERANCE:
            raise CfpError(
                f"the exported network differs from the checkpoint (same class on {agreement:.2%} of {len(images)} "
                f"images, logits off by {error:.1e} of the largest); try the other --format"
            )
        before: Metrics | None = None
        after: Metrics | None = None
        if int8 and calibration is not None and evaluation is not None:
            _check_images(calibration, spec)
            progress.say(f"quantising on {len(calibration)} images")
            content = quantise.quantised(content, calibration.cpu(), describe_file(spec, int8=True))
            candidate.write_bytes(content)
            run = onnx_file.runner(candidate)
            agreement, error = compare(network, run, images)
            before, after = _metrics(network, evaluation, spec), _metrics(run, evaluation, spec)
    write_bytes(path, content)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    weight = parameters * (1 if int8 else 4)
    return ExportReport(
        path=path,
        format=format,
        precision="int8" if int8 else "float32",
        bytes=len(content),
        parameters=parameters,
        parameter_bytes=weight,
        overhead=len(content) / weight - 1,
        images=len(images),
        samples=origin,
        top1_agreement=agreement,
        max_relative_error=error,
        accuracy_before=before.accuracy if before else None,
        accuracy_after=after.accuracy if after else None,
        macro_f1_before=before.macro_f1 if before else None,
        macro_f1_after=after.macro_f1 if after else None,
    )


def compare(model: nn.Module, run: Runner, images: Tensor) -> tuple[float, float]:
    """Run a network and its file on the same images, the file in batches of 1, 2 and up to 32.

    Args:
        model: on the CPU, in eval mode.
        run: the file.
        images: float32 [n, 3, H, W].

    Returns:
        The share of images on which both name the same class, and the largest difference of logits over the largest
        logit.
    """
    with torch.inference_mode():
        expected = torch.cat([model(part) for part in torch.split(images, _BATCH)]).float()
    parts = [images[:1], images[1:3], *torch.split(images[3:], _BATCH)]
    actual = torch.cat([run(part).float() for part in parts if len(part)])
    if actual.shape != expected.shape:
        return 0.0, float("inf")
    agreement = (actual.argmax(1) == expected.argmax(1)).float().mean().item()
    return agreement, ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def _content(network: nn.Module, spec: ModelSpec, format: Format) -> bytes:
    example = torch.rand(2, 3, *spec.input_size, generator=torch.Generator().manual_seed(0))
    write = onnx_file.to_bytes if format == "onnx" else pt2_file.to_bytes
    return write(network, example, describe_file(spec, int8=False))


def _metrics(run: Runner | nn.Module, loader: Loader, spec: ModelSpec) -> Metrics:
    predictions, labels = [], []
    with torch.inference_mode():
        for images, truth in loader:
            predictions.append(run(images).argmax(1))
            labels.append(truth)
    return measure(torch.cat(predictions), torch.cat(labels), spec.classes)


def _check_images(images: Tensor, spec: ModelSpec) -> None:
    height, width = spec.input_size
    if images.dim() != 4 or images.shape[1:] != (3, height, width) or images.dtype != torch.float32 or not len(images):
        raise UsageError(
            f"images of shape {list(images.shape)} and {images.dtype} do not fit the network; "
            f"pass float32 [n, 3, {height}, {width}]"
        )
