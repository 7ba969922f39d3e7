"""The metadata of an exported file: what a program needs to preprocess images and to name the predicted class."""

from __future__ import annotations

import json
from typing import Any

from cfp_cli.checkpoints.spec import ModelSpec

FORMAT = "cfp-export/1"
INPUT = "images"
OUTPUT = "logits"


def describe_file(spec: ModelSpec, int8: bool) -> dict[str, str]:
    """Return metadata as text by key. `classes`, `input_size`, `mean`, `std` and `lineage` are JSON.

    Args:
        spec: spec of the network.
        int8: whether weights and activations are quantised.
    """
    facts: dict[str, Any] = {
        "classes": list(spec.classes),
        "input_size": list(spec.input_size),
        "mean": list(spec.mean),
        "std": list(spec.std),
        "lineage": list(spec.lineage),
    }
    size = "x".join(map(str, spec.input_size))
    return {
        "format": FORMAT,
        "arch": spec.arch,
        "precision": "int8" if int8 else "float32",
        "preprocessing": f"RGB, antialiased bilinear resize to {size}, values in [0, 1], minus mean, over std",
        **{name: json.dumps(value) for name, value in facts.items()},
    }
