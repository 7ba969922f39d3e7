"""Warn at the first command about a network that a later command would refuse or measure wrongly."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.errors import GraphError, TrainingError
from cfp_cli.foundation.progress import Progress
from cfp_cli.graph.determinism import require_deterministic
from cfp_cli.measuring.segmentation import class_maps
from cfp_cli.models.forward_pass import run_network

ONE_LOGIT = (
    "one logit, for a sigmoid, but cfp needs one for each class; train a head with two by "
    "`cfp train DATA --init CKPT --new-head`, or convert it as docs/own-network.md shows"
)


PROBABILITIES = (
    "the network returns probabilities, not logits; `cfp predict` would apply the softmax twice, and training would "
    "hardly learn; leave the softmax out of its forward"
)


SOFTMAX_TWICE = (
    "the network returns probabilities, not logits, so the softmax is applied twice and all confidences are near "
    "each other; leave the softmax out of its forward, and export an exported file again"
)


def warn_of_problems(model: nn.Module, image: Tensor, progress: Progress) -> None:
    """Report, each in one line with its remedy, what later commands cannot do with a classifier.

    These are batch norms without running statistics, a head with one logit, and outputs that are not logits, also those
    that a network returns only in training, probabilities, and outputs that are random in eval mode.

    Args:
        model: a network with its spec; it is not changed.
        image: one image float32 [1, C, H, W] on the network's device.
        progress: gets the lines.
    """
    warn_of_batch_norms(model, progress)
    for problem in (_one_logit(model), _outputs(model, image), _random(model, image)):
        if problem is not None:
            progress.say(f"warning: {problem}")


def returns_logits(model: nn.Module) -> bool:
    """Return whether the output of a network has one tensor to compare, and that is [N, classes].

    A network that fails is taken for one with logits: the command that runs it reports the error.

    Args:
        model: a network with its spec.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        with evaluating(model), torch.inference_mode():
            outputs = tensors_of(run_network(model, torch.zeros(1, *spec_of(model).input_shape, device=device)))
    except Exception:
        return True
    return len(outputs) == 1 and outputs[0].dim() == 2


def warn_of_batch_norms(model: nn.Module, progress: Progress) -> None:
    """Report batch norms without running statistics in one line with the remedy."""
    names = [
        name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.running_var is None
    ]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        progress.say(
            f"warning: the batch norm '{names[0]}'{more} has no running statistics, so the logits of an image depend "
            "on the other images of its batch; build it with track_running_stats=True and train the network again"
        )


def _one_logit(model: nn.Module) -> str | None:
    if len(spec_of(model).classes) != 1:
        return None
    return f"the network has {ONE_LOGIT}"


def _random(model: nn.Module, image: Tensor) -> str | None:
    try:
        require_deterministic(model, image)
    except GraphError as error:
        return str(error)
    # The network is code of the user. The commands that run it report its errors.
    except Exception:
        return None
    return None


def _outputs(model: nn.Module, image: Tensor) -> str | None:
    """Run a copy on two images in both modes."""
    count = len(spec_of(model).classes)
    trial = copy.deepcopy(model)
    images = image.expand(2, *image.shape[1:]).contiguous()
    for training in (False, True):
        trial.train(training)
        try:
            with torch.no_grad():
                output = trial(images)
        # The network is code of the user. The commands that need this mode report its errors.
        except Exception:
            return None
        mode = "in training mode " if training else ""
        commands = "`cfp train` and `cfp finetune`" if training else "`cfp score`, `cfp eval` and `cfp train`"
        tensors = tensors_of(output)
        if len(tensors) != 1:
            return (
                f"{mode}the network returns a {type(output).__name__} of {len(tensors)} tensors, not logits [images, "
                f"classes], which {commands} cannot use; wrap it so that its forward returns only the logits in both "
                "modes"
            )
        (output,) = tensors
        if tuple(output.shape) != (2, count):
            return (
                f"{mode}the network returns {list(output.shape)} for 2 images, not logits [2, {count}], which "
                f"{commands} cannot use; wrap it so that its forward returns them"
            )
        if not training and are_probabilities(output):
            return PROBABILITIES
    return None


def warn_of_probabilities(model: nn.Module, images: Tensor, progress: Progress) -> None:
    """Report in one line a network whose outputs for images float32 [N, C, H, W] are probabilities."""
    with evaluating(model), torch.inference_mode():
        try:
            outputs = tensors_of(model(images))
        # The network is code of the user. The command reports its errors.
        except Exception:
            return
    if len(outputs) == 1 and outputs[0].dim() == 2 and are_probabilities(outputs[0]):
        progress.say(f"warning: {SOFTMAX_TWICE}")


def are_probabilities(output: Tensor) -> bool:
    """Return whether outputs [N, classes] are probabilities of two or more classes, as after a softmax."""
    sums = output.sum(1)
    return output.shape[1] > 1 and bool((output >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def returns_class_maps(model: nn.Module) -> bool:
    """Return whether the first output of a network is a map of class scores that `cfp eval` compares with masks."""
    try:
        class_map_count(model)
    except TrainingError:
        return False
    return True


def class_map_count(model: nn.Module) -> int:
    """Return the number of classes of the map of class scores that is the first output of a network.

    Raises:
        TrainingError: the first output is no such map.
    """
    spec = spec_of(model)
    device = next((each.device for each in model.parameters()), None)
    with evaluating(model), torch.inference_mode():
        output = run_network(model, torch.zeros(1, *spec.input_shape, device=device))
    return class_maps(output, model, len(spec.classes)).shape[1]
