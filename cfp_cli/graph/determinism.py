"""Finds networks whose output is random in eval mode, which no comparison of two networks can prove."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.errors import GraphError
from cfp_cli.models.forward_pass import run_network

# Two runs on one image may differ by rounding, where a device adds in another order.
ROUNDING = 1e-3


def require_deterministic(model: nn.Module, example: Tensor) -> None:
    """Run a network twice on the same four images.

    Args:
        model: the network; its mode is restored.
        example: images float32 [N, C, H, W]; only shape and device count.

    Raises:
        GraphError: the outputs differ.
    """
    # Of a single image with few outputs, dropout often drops the same ones twice.
    noise = torch.rand(4, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    images = noise.to(example.device, example.dtype)
    devices = [example.device] if example.device.type == "cuda" else []
    with evaluating(model), torch.inference_mode(), torch.random.fork_rng(devices=devices):
        first, second = (tensors_of(run_network(model, images.clone())) for _ in range(2))
    if len(first) != len(second) or any(map(_differ, first, second)):
        raise GraphError(
            "the output of the network is random in eval mode: two runs on the same image differ, so no pruned "
            "network can be compared with it; pass training=self.training to F.dropout and to other random "
            "functions, or use modules such as nn.Dropout"
        )


def _differ(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return True
    return one.numel() > 0 and bool((one - other).abs().max() > ROUNDING * one.abs().max())
