"""One call that runs any network on images: torchvision's detectors up to the tensors of their heads.

A detector ends in code that depends on the values of its tensors: it selects boxes and suppresses overlapping ones.
This code has no channels, and no trace can contain it. So trace, proof, refit and export run the backbone and the
heads. A prune changes these modules inside the detector, which then takes images and returns boxes as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from cfp_cli.execution.outputs import all_tensors_of

# The heads that read regions of the feature maps: pooling, then the modules that run one after another.
_REGION_HEADS = (
    ("box_roi_pool", ("box_head", "box_predictor")),
    ("mask_roi_pool", ("mask_head", "mask_predictor")),
    ("keypoint_roi_pool", ("keypoint_head", "keypoint_predictor")),
)


def run_network(model: nn.Module, images: Tensor) -> Any:
    """Run a network on images.

    Args:
        model: the network.
        images: float32 [N, C, H, W], preprocessed; for a detector with values in [0, 1], as its own transform expects.

    Returns:
        The output of the network; of a detector of torchvision, the tensors of its heads for images of this size, with
        each region of a two-stage detector replaced by the mean of the pooled feature maps.
    """
    return _head_outputs(model, images) if is_detector(model) else model(images)


def is_detector(model: nn.Module) -> bool:
    """Return whether a network is a detector of torchvision, by the module that prepares its images."""
    parts = dict(model.named_children())
    names = {each.__name__ for each in type(parts.get("transform")).__mro__}
    has_heads = "head" in parts or {"rpn", "roi_heads"} <= set(parts)
    return "GeneralizedRCNNTransform" in names and "backbone" in parts and has_heads


def _head_outputs(model: nn.Module, images: Tensor) -> Any:
    transform: Any = model.transform
    mean, std = (
        torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
        for values in (transform.image_mean, transform.image_std)
    )
    features = model.get_submodule("backbone")((images - mean) / std)
    levels: Mapping[str, Tensor] = {"0": features} if isinstance(features, Tensor) else features
    if not hasattr(model, "rpn"):
        return model.get_submodule("head")(list(levels.values()))
    outputs = {"rpn": model.get_submodule("rpn.head")(list(levels.values()))}
    regions: Any = model.roi_heads
    for pooling, modules in _REGION_HEADS:
        pool = getattr(regions, pooling, None)
        if pool is None:
            continue
        pooled = [adaptive_avg_pool2d(levels[name], pool.output_size) for name in pool.featmap_names if name in levels]
        value: Any = torch.stack(pooled).mean(0)
        for name in modules:
            value = getattr(regions, name)(value)
        outputs[modules[-1]] = value
    return outputs


class Flattened(nn.Module):
    """A network that returns all tensors of another network's output as a tuple.

    Args:
        network: the other network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The tensors of the network's output for images float32 [N, C, H, W]."""
        return tuple(all_tensors_of(run_network(self.network, x)))
