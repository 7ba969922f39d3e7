"""The spec of a network: its architecture, classes and preprocessing, all that a checkpoint stores beside tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from cfp_cli.foundation.errors import CheckpointError

FORMAT = "cfp/1"
DEFAULT_INPUT_SIZE = (224, 224)


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

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain data."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Build a spec from the output of `to_json`.

        Raises:
            KeyError: a field without a default is missing.
        """
        return cls(
            arch=str(data["arch"]),
            classes=tuple(str(name) for name in data["classes"]),
            arch_kwargs=dict(data.get("arch_kwargs") or {}),
            input_size=_height_and_width(data.get("input_size", DEFAULT_INPUT_SIZE)),
            mean=tuple(float(value) for value in data.get("mean") or (0.0, 0.0, 0.0)),
            std=tuple(float(value) for value in data.get("std") or (1.0, 1.0, 1.0)),
            plan=data.get("plan"),
            lineage=tuple(data.get("lineage") or ()),
        )

    def followed_by(self, stage: str, **facts: Any) -> ModelSpec:
        """Return a copy with one more stage at the end of its lineage."""
        return replace(self, lineage=(*self.lineage, {"step": stage, **facts}))


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


def _height_and_width(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)
