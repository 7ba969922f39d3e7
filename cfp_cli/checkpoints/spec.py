"""The spec of a network: its architecture, classes and preprocessing, all that a checkpoint stores beside tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from cfp_cli.checkpoints.permission import require_plain_arguments
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.foundation.typed_json import FieldError, read

FORMAT = "cfp/1"
DEFAULT_INPUT_SIZE = (224, 224)
MAX_SIDE = 2**15


@dataclass(frozen=True)
class ModelSpec:
    """The data that a checkpoint stores beside the tensors.

    Attributes:
        arch: name of the architecture, as `--arch` accepts it.
        arch_kwargs: further arguments of its factory.
        classes: class names, in the order of the logits.
        input_size: height and width of the input in pixels.
        mean: per-channel mean that is subtracted from images in [0, 1].
        std: per-channel standard deviation that the differences are divided by.
        plan: the pruning plan, or None for a network that was not pruned.
        lineage: one entry of plain data for each stage that changed the weights, oldest first.
    """

    arch: str
    classes: tuple[str, ...]
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] = DEFAULT_INPUT_SIZE
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    plan: dict[str, Any] | None = None
    lineage: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            FieldError: a value is wrong; the message names the field.
        """
        if not self.arch:
            raise FieldError("arch is empty")
        if not self.classes:
            raise FieldError("classes is empty")
        if not all(1 <= side <= MAX_SIDE for side in self.input_size):
            raise FieldError(f"input_size is {list(self.input_size)}, not a height and width from 1 to {MAX_SIDE}")
        if not (self.mean and all(math.isfinite(value) for value in self.mean)):
            raise FieldError(f"mean is {list(self.mean)}, not finite numbers")
        if not (self.std and all(0 < value < math.inf for value in self.std)):
            raise FieldError(f"std is {list(self.std)}, not finite numbers above 0")
        if len(self.mean) != len(self.std):
            raise FieldError(f"mean has {len(self.mean)} values and std has {len(self.std)}")
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
        return read(cls, dict(data), file, "", CheckpointError, "save the network again")

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
            "this network carries no spec; attach one with cfp_cli.describe(model, cfp_cli.ModelSpec(arch, classes))"
        )
    return spec


def describe(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Attach `spec` to a network, so that it can be scored, pruned and saved. Returns the same network."""
    model.spec = spec  # type: ignore[assignment]
    return model
