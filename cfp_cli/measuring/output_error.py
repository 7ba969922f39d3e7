"""How far the outputs of a pruned network are from those of its original. This needs no labels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.forward import forward_errors
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.models.forward_pass import is_detector, run_network


def are_class_scores(output: Tensor, classes: int, *, detector: bool) -> bool:
    """Return whether an output contains a score for each class, on dimension 1.

    Args:
        output: logits [n, C], or a map of class scores [n, C, H, W].
        classes: number of class names. A map has class scores if C is this number; with 0, every map with C > 1 has.
        detector: whether it is an output of a detector, whose maps contain scores of several boxes.
    """
    if detector or output.dim() not in (2, 4) or output.shape[1] < 2 or output.is_complex():
        return False
    return output.dim() == 2 or classes in (0, output.shape[1])


def output_error(
    model: nn.Module, original: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, classes: int = 0
) -> float:
    """Return the root mean square error of the outputs relative to their spread, the mean over the outputs.

    The spread of an output is its standard deviation over all images and positions in the original. An error of 1 is
    that of a network which returns the mean for each image. Class scores are centred first, because a constant added to
    all scores of a pixel changes no probability.

    Args:
        model: the pruned network.
        original: the original, on the same device.
        batches: preprocessed images float32 [n, channels, H, W], and labels, which are not used.
        classes: number of class names, see `are_class_scores`.

    Raises:
        CfpError: a network fails.
    """
    device = next((parameter.device for parameter in original.parameters()), torch.device("cpu"))
    errors: list[Tensor] = []
    detector = is_detector(original)
    with evaluating(model), evaluating(original), torch.inference_mode():
        for images, _ in batches:
            images = images.to(device)
            with forward_errors(images.shape):
                pairs = zip(
                    tensors_of(run_network(model, images)), tensors_of(run_network(original, images)), strict=True
                )
                found = torch.stack(
                    [
                        _moments(given, expected, centre=are_class_scores(expected, classes, detector=detector))
                        for given, expected in pairs
                    ]
                )
            errors.append(found)
    error, total, square, count = torch.stack(errors).sum(0).unbind(1)
    variance = (square / count - (total / count).square()).clamp_min(torch.finfo(torch.float64).tiny)
    return float((error / count / variance).sqrt().mean())


def _moments(given: Tensor, expected: Tensor, *, centre: bool) -> Tensor:
    """Return sum of squared errors, sum, sum of squares and number of the values, float64 [4]."""
    given, expected = ((torch.view_as_real(each) if each.is_complex() else each).double() for each in (given, expected))
    if centre:
        given, expected = (each - each.mean(1, keepdim=True) for each in (given, expected))
    count = torch.tensor(float(expected.numel()), dtype=torch.float64, device=expected.device)
    return torch.stack([(given - expected).square().sum(), expected.sum(), expected.square().sum(), count])
