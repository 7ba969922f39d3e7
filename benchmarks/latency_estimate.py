"""How close the estimated latency and file size of pruned networks are to measured ones.

    python benchmarks/latency_estimate.py MODEL [--arch A] [--runtimes onnxruntime torch openvino] [--threads 2]
        [--batch 1] [--multiples 1 8] [--out benchmarks/results/latency_estimate.jsonl]

It prunes every channel set to the same fraction, without scores, and appends one row for each network: the estimate of
`cfp shrink`, calibrated with the original and a network of 0.16 of its channels, and the measured latency; the
estimated and the real size of the ONNX file. About a minute for each runtime and multiple with VGG-16. Use an idle
machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import describe, spec_of
from cfp_cli.execution.device import choose_device
from cfp_cli.execution.processor import processor
from cfp_cli.exporting.file_size import FileSize
from cfp_cli.exporting.latency_estimate import Line
from cfp_cli.exporting.layer_table import LayerTable
from cfp_cli.exporting.layer_times import Setting, time_layer
from cfp_cli.exporting.network_times import onnx_content, time_files, time_modules
from cfp_cli.foundation.versions import versions
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.graph.layer_shapes import layer_shapes
from cfp_cli.measuring.runtimes import RUNTIMES
from cfp_cli.pruning.rebuild import rebuild

FRACTIONS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.16, 0.1, 0.06)
CALIBRATED = 0.16


def main() -> None:
    """Measure and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--arch")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=["onnxruntime"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--multiples", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "latency_estimate.jsonl")
    given = parser.parse_args()
    choose_device("cpu", given.threads)
    model = load(given.model, given.arch)
    spec = spec_of(model)
    graph = channel_sets(model, torch.rand(1, *spec.input_shape))
    size = FileSize.of(onnx_content(model), graph)
    facts = {"model": given.model.name, "machine": processor(), "versions": versions()}
    for runtime in given.runtimes:
        setting = Setting(runtime, given.threads, given.batch)
        table = LayerTable(lambda shape, setting=setting: time_layer(shape, setting), {})
        for multiple in given.multiples:
            rows = []
            for fraction in FRACTIONS:
                kept = {
                    each.name: np.arange(min(max(round(fraction * each.size / multiple), 1) * multiple, each.size))
                    for each in graph.prunable
                }
                selection = Selection(graph, kept)
                pruned = describe(rebuild(model, selection), spec)
                content = onnx_content(pruned)
                if runtime == "torch":
                    (measured,) = time_modules({"model": pruned}, spec.input_shape, setting)
                else:
                    (measured,) = time_files({"model": content}, spec.input_shape, setting)
                rows.append(
                    (fraction, selection, table.milliseconds(layer_shapes(selection)), measured.median, content)
                )
            known = {fraction: (layers, median) for fraction, _, layers, median, _ in rows}
            line = Line.through([known[FRACTIONS[0]], known[CALIBRATED]])
            for fraction, selection, layers, median, content in rows:
                row = {
                    **facts,
                    "setting": str(setting),
                    "multiple": multiple,
                    "fraction": fraction,
                    "macs": selection.macs,
                    "estimated_ms": round(line.at(layers), 4),
                    "measured_ms": round(median, 4),
                    "estimated_bytes": round(size.bytes(selection)),
                    "measured_bytes": len(content),
                    "shapes": len(table.known),
                }
                print(*(row[name] for name in ("setting", "multiple", "fraction", "estimated_ms", "measured_ms")))
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
