"""Accuracy of int8 files by the way they are quantised, and of the file that `cfp export --int8` keeps.

    python benchmarks/int8.py MODEL DATA [--arch A] [--name NAME]

A row of `results/int8.jsonl` has the test accuracy of the network and of each int8 file in onnxruntime on this machine,
with all layers in int8 and with the first ones in float32, and whether its processor has VNNI. The file is chosen on
training images; the test images are read for this table only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.images import load_images, sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.exporting import onnx_file
from cfp_cli.exporting.export import export, metrics_of
from cfp_cli.exporting.float_part import prepare
from cfp_cli.exporting.quantise import BY_ONNXRUNTIME

RESULTS = Path(__file__).parent / "results" / "int8.jsonl"
CALIBRATION, BATCH = 128, 32


def main() -> None:
    """Append one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arch")
    parser.add_argument("--name", help="of the network in the row")
    arguments = parser.parse_args()
    network = load(arguments.model, arguments.arch)
    dataset = open_dataset(arguments.data)
    spec = spec_of(network)
    preprocessing = Preprocessing.of(spec)
    calibration = torch.cat([images for images, _ in sample(dataset, CALIBRATION, 0, preprocessing).batches(BATCH)])
    test = load_images(dataset, "test", preprocessing).batches(BATCH)
    row: dict[str, Any] = {
        "network": arguments.name or arguments.model.stem,
        "data": arguments.data.name,
        "vnni": has_vnni(),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export(network, path)
        prepared = prepare(path.read_bytes())
        row |= {"float32_layers": prepared.float32_layers, "layers": prepared.layers}
        for (way, quantiser), names in product(BY_ONNXRUNTIME.items(), ([], prepared.nodes)):
            file = quantiser(prepared.content, names, calibration).SerializeToString()
            row[f"{way}{', first layers in float32' if names else ''}"] = metrics_of(
                onnx_file.runner(file), test, spec
            ).accuracy
        kept = export(network, path, int8=True, calibration=calibration, evaluation=test)
        row |= {"float32": kept.accuracy_before, "kept": kept.accuracy_after}
    print(row)
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def has_vnni() -> bool:
    """Whether the processor multiplies int8 without saturation, as Linux lists it."""
    facts = Path("/proc/cpuinfo")
    return facts.exists() and "vnni" in facts.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
