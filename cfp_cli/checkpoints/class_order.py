"""Put the logits of a network into another order of its classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.spec import describe, spec_of
from cfp_cli.execution.outputs import tensors_of


class _Reordered(nn.Module):
    def __init__(self, network: nn.Module, indices: list[int]) -> None:
        super().__init__()
        self.network = network
        self.indices: Tensor
        self.register_buffer("indices", torch.tensor(indices), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        (logits,) = tensors_of(self.network(images))
        return logits[:, self.indices]


def in_class_order(model: nn.Module, classes: tuple[str, ...]) -> nn.Module:
    """Return a network in eval mode with the same logits as `model` in the order of `classes`. It cannot be saved.

    Args:
        model: a network with its spec, whose classes include all of `classes`; it is not changed.
        classes: class names in the order of the new logits.
    """
    spec = spec_of(model)
    reordered = _Reordered(model, [spec.classes.index(name) for name in classes])
    return describe(reordered.eval(), replace(spec, classes=classes))
