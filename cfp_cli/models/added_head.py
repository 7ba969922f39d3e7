"""A head for a network that returns features instead of logits, such as a self-supervised encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.forward import forward_errors
from cfp_cli.foundation.errors import UsageError

# The key of `ModelSpec.arch_kwargs` that holds the number of features; no factory gets it.
ADDED_HEAD = "added_head"
_MAX_FEATURES = 2**16


class WithHead(nn.Module):
    """An encoder and a linear layer.

    Args:
        encoder: returns features float32 [n, features], or maps [n, features, H, W], whose mean is taken.
        features: number of features.
        classes: number of logits.

    Raises:
        UsageError: the number of features is not from 1 to 65536.
    """

    def __init__(self, encoder: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        if type(features) is not int or not 1 <= features <= _MAX_FEATURES:
            raise UsageError(f"{ADDED_HEAD} is {features!r}, not a number of features from 1 to {_MAX_FEATURES}")
        self.encoder = encoder
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits float32 [n, classes] of images float32 [n, channels, H, W]."""
        features = self.encoder(images)
        if features.dim() == 4:
            features = features.mean((2, 3))
        logits: Tensor = self.head(features)
        return logits


def feature_count(encoder: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the number of features that a network returns for an image.

    Args:
        encoder: the network; it is not changed.
        input_shape: channels, height and width of an image.

    Raises:
        UsageError: it fails, or returns something else than features [n, features] or maps [n, features, H, W].
    """
    images = torch.zeros(2, *input_shape)
    with evaluating(encoder), torch.inference_mode(), forward_errors(images.shape, UsageError):
        features = encoder(images)
    if not isinstance(features, Tensor) or features.dim() not in (2, 4) or len(features) != len(images):
        what = list(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise UsageError(
            f"the network returns {what} for 2 images, so no head can be added; write a factory that returns features "
            "[n, features] or maps [n, features, H, W], or one that adds the head"
        )
    return int(features.shape[1])
