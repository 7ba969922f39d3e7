"""The spec of a network: its architecture, classes and preprocessing, all that a checkpoint stores beside tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from torch import nn

from cfp_cli.checkpoints.permission import require_plain_arguments
from cfp_cli.data.choices import BitDepth
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.foundation.typed_json import FieldError, read

FORMAT = "cfp/1"
DEFAULT_INPUT_SIZE = (224, 224)
MAX_SIDE = 2**15
MAX_CHANNELS = 4096
BIT_DEPTHS: tuple[int, ...] = get_args(BitDepth)


@dataclass(frozen=True)
class ModelSpec:
    """The data that a checkpoint stores beside the tensors.

    Attributes:
        arch: name of the architecture, as `--arch` accepts it.
        arch_kwargs: further arguments of its factory.
        classes: class names, in the order of the logits or of the maps of class scores; none for a network without.
        input_size: height and width of the input in pixels.
        mean: mean of each channel that is subtracted from images in [0, 1].
        std: standard deviation of each channel that the differences are divided by.
        plan: the pruning plan, or None for a network that was not pruned.
        lineage: one entry of plain data for each stage that changed the weights, oldest first.
        channels: number of channels of the images: 1 for grey, 3 for red, green and blue. If all values of `mean` and
            all values of `std` are equal, they may be fewer.
        bit_depth: number of bits of white in images of more than 8 bits; None where the training images had none.
    """

    arch: str
    classes: tuple[str, ...]
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] = DEFAULT_INPUT_SIZE
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    # A plan lists each kept channel, so `print(spec)` would fill screens.
    plan: dict[str, Any] | None = field(default=None, repr=False)
    lineage: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    channels: int = 3
    bit_depth: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            FieldError: a value is wrong; the message names the field.
        """
        if not self.arch:
            raise FieldError("arch is empty")
        if not all(1 <= side <= MAX_SIDE for side in self.input_size):
            raise FieldError(f"input_size is {list(self.input_size)}, not a height and width from 1 to {MAX_SIDE}")
        if not (self.mean and all(math.isfinite(value) for value in self.mean)):
            raise FieldError(f"mean is {list(self.mean)}, not finite numbers")
        if not (self.std and all(0 < value < math.inf for value in self.std)):
            raise FieldError(f"std is {list(self.std)}, not finite numbers above 0")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise FieldError(f"channels is {self.channels}, not a number from 1 to {MAX_CHANNELS}")
        if self.bit_depth is not None and self.bit_depth not in BIT_DEPTHS:
            raise FieldError(f"bit_depth is {self.bit_depth}, not one of {', '.join(map(str, BIT_DEPTHS))}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels:
                if len(set(values)) > 1:
                    raise FieldError(f"{name} has {len(values)} values and the images have {self.channels} channels")
                object.__setattr__(self, name, values[:1] * self.channels)
        require_plain_arguments(self.arch_kwargs)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain data."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], file: Path) -> ModelSpec:
        """Build a spec from the output of `to_json`, which `file` contains.

        Raises:
            CheckpointError: a field is missing, unknown or wrong.
        """
        mean = data.get("mean")
        # Earlier versions did not store the number of channels.
        channels = {"channels": len(mean)} if isinstance(mean, list | tuple) and mean else {}
        return read(cls, {**channels, **data}, file, "", CheckpointError, "save the network again")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (self.channels, *self.input_size)

    def followed_by(self, stage: str, **facts: Any) -> ModelSpec:
        """Return a copy with one more stage at the end of its lineage."""
        return replace(self, lineage=(*self.lineage, {"stage": stage, **facts}))


def spec_of(model: nn.Module) -> ModelSpec:
    """Return the spec that `load` or `describe` attached to a network.

    Raises:
        CheckpointError: the network has no spec.
    """
    spec = getattr(model, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise CheckpointError(
            "this network carries no spec; attach one by cfp_cli.describe(model, cfp_cli.ModelSpec('net.py:factory', "
            "classes, input_size=(height, width))), where classes is () for a network without classes"
        )
    return spec


def describe(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Attach `spec` to a network, so that it can be scored, pruned and saved. Returns the same network."""
    model.spec = spec  # type: ignore[assignment]
    return model
