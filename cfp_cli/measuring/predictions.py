"""What a network predicts: its logits, and the predicted class of labelled images with the confidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cfp_cli.execution.channels_last import faster_format
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.forward import forward_errors
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.errors import NotFiniteError, TrainingError


class Predictions(NamedTuple):
    """The predictions of labelled images, on the CPU.

    Attributes:
        classes: the class with the largest logit, int64 [N].
        confidence: the probability of this class, float64 [N].
        labels: the true class, int64 [N].
    """

    classes: Tensor
    confidence: Tensor
    labels: Tensor


def predict(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device | str | None = None
) -> Predictions:
    """Run a network on labelled images. Its mode (train or eval) is restored afterwards.

    Args:
        model: returns logits float32 [n, classes].
        batches: (images float32 [n, channels, H, W], preprocessed; labels int64 [n]).
        device: device to compute on; the device of the network where None.

    Raises:
        CfpError: the network fails, or its output is not one tensor [n, classes].
        NotFiniteError: a logit is NaN or infinite.
    """
    classes, labels = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    confidence = [torch.empty(0, dtype=torch.float64)]
    for logits, batch_labels in _logits_by_batch(model, batches, device):
        classes.append(logits.argmax(1))
        confidence.append(logits.softmax(1).amax(1))
        labels.append(batch_labels)
    return Predictions(torch.cat(classes), torch.cat(confidence), torch.cat(labels))


def predict_logits(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Return the logits of labelled images, float64 [N, classes] on the CPU, and their labels; see `predict`."""
    logits, labels = zip(*_logits_by_batch(model, batches, device), strict=True)
    return torch.cat(logits), torch.cat(labels)


def _logits_by_batch(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device | str | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits and the labels of each batch, on the CPU; see `predict`."""
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    memory_format: torch.memory_format | None = None
    with evaluating(model):
        for images, labels in batches:
            if memory_format is None:
                memory_format = faster_format(model, images[:2].to(device))
            with torch.inference_mode():
                logits = finite_logits(model, images.to(device, memory_format=memory_format))
            yield logits, labels.cpu()


def finite_logits(network: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Return the logits of a network as float64 [n, classes] on the CPU; their softmax are the class probabilities.

    Args:
        network: a network in eval mode, or an exported file as a function.
        images: preprocessed images, float32 [n, channels, H, W].

    Raises:
        CfpError: the network fails, or its output is not one tensor [n, classes].
        NotFiniteError: a logit is NaN or infinite.
    """
    with forward_errors(images.shape):
        output = network(images)
    logits = require_logits(output).detach().double().cpu()
    if logits.dim() != 2:
        raise TrainingError(
            f"the network returns a tensor of shape {list(logits.shape)}, not [images, classes]; use a classifier"
        )
    if not bool(torch.isfinite(logits).all()):
        raise NotFiniteError("the network returns NaN or infinite logits; use an earlier checkpoint")
    return logits


def require_logits(output: Any) -> Tensor:
    """Return the logits of a network: the only floating-point tensor of its output, in whatever structure it is.

    Raises:
        TrainingError: the output contains none or several.
    """
    tensors = [output] if isinstance(output, Tensor) else tensors_of(output)
    if len(tensors) != 1:
        raise TrainingError(
            f"the network returns a {type(output).__name__} of {len(tensors)} tensors, not one tensor of logits, which "
            "this command needs; if it is a classifier, wrap it so that its forward returns only the logits"
        )
    return tensors[0]
