"""The metadata of an exported file: what a program needs to preprocess images and to name the predicted class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.foundation.errors import CheckpointError

FORMAT = "cfp-export/1"
INPUT = "images"


def describe_file(spec: ModelSpec, int8: bool) -> dict[str, str]:
    """Return metadata as text by key. All but `format`, `arch`, `precision` and `preprocessing` are JSON.

    Args:
        spec: spec of the network.
        int8: whether weights and activations are quantised.
    """
    facts: dict[str, Any] = {
        "classes": list(spec.classes),
        "input_size": list(spec.input_size),
        "mean": list(spec.mean),
        "std": list(spec.std),
        "channels": spec.channels,
        "bit_depth": spec.bit_depth,
        "lineage": list(spec.lineage),
    }
    size = "x".join(map(str, spec.input_size))
    channels = {1: "grey", 3: "RGB", 4: "RGBA"}.get(spec.channels, f"{spec.channels} channels")
    depth = f", white is {2**spec.bit_depth - 1} in images of more than 8 bits" if spec.bit_depth else ""
    return {
        "format": FORMAT,
        "arch": spec.arch,
        "precision": "int8" if int8 else "float32",
        "preprocessing": f"{channels}{depth}, antialiased bilinear resize to {size}, values in [0, 1], minus mean, "
        "over std",
        **{name: json.dumps(value) for name, value in facts.items()},
    }


def read_spec(metadata: Mapping[str, str], file: Path) -> ModelSpec:
    """Return the spec that `describe_file` wrote: architecture, classes, preprocessing and lineage.

    Args:
        metadata: the metadata of the file.
        file: the file, for messages.

    Raises:
        CheckpointError: the file has no metadata of `cfp export`, or a value is wrong.
    """
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} does not say which classes and preprocessing it needs; use a file that `cfp export` wrote"
        )
    facts: dict[str, Any] = {"arch": metadata.get("arch", "")}
    for name in ("classes", "input_size", "mean", "std", "channels", "bit_depth", "lineage"):
        try:
            facts[name] = json.loads(metadata[name])
        except KeyError as error:
            raise CheckpointError(f"{file}: its metadata lack {name}; export it again") from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{file}: {name} in its metadata is not JSON; export it again") from error
    return ModelSpec.from_json(facts, file)
