"""Which pruned networks export to ONNX and pt2: the networks of the coverage table, pruned by up to 90 %.

For each network, in a separate process, with seeded weights and random scores: prune, then write both formats. `export`
runs each file (onnxruntime, `torch.export.load`) on 48 procedural images in batches of several sizes. It keeps a file
only if all predicted classes agree and the logits differ by at most 1e-4 of the largest logit.

    python benchmarks/export_table.py run [NAME...]     # appends to benchmarks/results/export.jsonl
    python benchmarks/export_table.py table             # writes docs/exports.md from it
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import torch
from coverage import images, random_scores
from coverage_networks import CLASSES, build, classifiers, side
from onnx import numpy_helper
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.exporting.export import export
from cfp_cli.foundation.errors import CfpError, TargetError
from cfp_cli.graph import ChannelGraph, channel_sets
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.planning import make_plan
from cfp_cli.pruning.pruner import apply
from cfp_cli.scoring.scores import Scores

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "export.jsonl"
PAGE = ROOT / "docs" / "exports.md"
RATIOS = (0.9, 0.7, 0.5, 0.3, 0.0)
SECONDS = 900
FORMATS = ("onnx", "pt2")
# The end of the page. tests/docs/test_pages.py runs it.
OPENVINO = """\
## OpenVINO
Intel processors run OpenVINO files. Install the packages, then export a checkpoint:
```
pip install '.[openvino]'
cfp export model.pt --format openvino --data data/ --out small.xml
cfp predict small.xml data/test --csv predictions.csv
cfp export model.pt --format openvino --data data/ --int8 --out small-int8.xml
```
In a run directory, leave out `model.pt` and `--data`: `cfp export` then takes the newest network of the run, and
its images.

An export is two files: `small.xml` is the graph and `small.bin` the weights, in float32. Keep both in one folder.
`cfp export` compares the file with the checkpoint as for ONNX. With `--int8`, the best of [several int8
files](int8.md) is kept, and the accuracy before and after is shown. `cfp bench` times checkpoints in OpenVINO too, if
it is installed.

`rt_info/cfp` of the `.xml` file contains class names and preprocessing. A program without `cfp` runs it as follows:
```python
import json
from pathlib import Path

import numpy as np
import openvino
from PIL import Image

network = openvino.Core().read_model("small.xml")
facts = {key: network.get_rt_info(["cfp", key]).value for key in ("classes", "input_size", "mean", "std")}
classes, (height, width), mean, std = map(json.loads, facts.values())
# Recent processors would compute in bfloat16, with errors near 1 % of the logits.
run = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
file = min(Path("data/test").rglob("*.png"))
image = Image.open(file).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
pixels = (np.asarray(image, np.float32) / 255 - mean) / std
logits = run({"images": pixels.transpose(2, 0, 1)[None].astype(np.float32)})["logits"]
print(classes[int(logits.argmax())])
```
On 48 test images of NEU-CLS, a VGG-16 of 750,186 parameters has 100 % of the checkpoint's classes in float32, with
a largest logit error of 1e-06.
"""


def measure(name: str) -> dict[str, Any]:
    """Prune a network and export it in both formats."""
    model, size = build(name), (side(name), side(name))
    x = images(size, 4)
    graph = channel_sets(model, x[:1])
    made = most(model, graph, random_scores(graph, size))
    pruned, made = apply(model, made, graph=graph, example=x)
    spec = ModelSpec(name, tuple(str(index) for index in range(CLASSES)), input_size=size, plan=made.to_json())
    describe(pruned, spec)
    row: dict[str, Any] = {"params": made.params_after, "removed": made.achieved}
    with tempfile.TemporaryDirectory() as folder:
        for format in FORMATS:
            path = Path(folder, f"net.{format}")
            began = time.perf_counter()
            try:
                report = export(pruned, path, format)
            except CfpError as error:
                row[format] = {"failure": str(error)}
                continue
            row[format] = {
                "bytes": report.bytes,
                "weights": _onnx_weights(path) if format == "onnx" else None,
                "top1_agreement": report.top1_agreement,
                "max_relative_error": report.max_relative_error,
                "images": report.images,
                "seconds": time.perf_counter() - began,
            }
    return row


def most(model: nn.Module, graph: ChannelGraph, scores: Scores) -> Plan:
    """The plan with the highest of `RATIOS` that the network's frozen channels allow."""
    for ratio in RATIOS:
        try:
            return make_plan(model, scores, PruneOptions(ratio=ratio, allocation="uniform"), graph=graph)
        except TargetError:
            continue
    raise AssertionError("a ratio of 0 is always possible")


def _onnx_weights(path: Path) -> int:
    """Bytes of all tensors in an ONNX file."""
    return sum(numpy_helper.to_array(each).nbytes for each in onnx.load(path).graph.initializer)


def run(names: list[str]) -> None:
    """Measure networks and append one line of results for each."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for name in names or classifiers():
        began = time.perf_counter()
        row = {"name": name, **_child(name), "torch": torch.__version__, "machine": platform.machine()}
        row |= {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        cells = [row["failure"]] if "failure" in row else [_cell(row, format) for format in FORMATS]
        print(name, f"{time.perf_counter() - began:.0f} s", *cells, flush=True)


def _child(name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"failure": f"more than {SECONDS} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"failure": (done.stderr.strip().splitlines() or ["killed"])[-1][:300]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def page() -> str:
    """The text of the page, from the last result of each network."""
    rows: dict[str, Any] = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["name"]] = row
    ordered = [rows[name] for name in classifiers() if name in rows]
    proven = {f: sum("bytes" in row.get(f, {}) for row in ordered) for f in FORMATS}
    lines = [
        "# Exports",
        "",
        "Generated by `benchmarks/export_table.py` (`run`, then `table`). Random weights and scores, parameters pruned",
        f"by {RATIOS[0]:.0%}, or less if frozen channels do not allow it, {CLASSES} classes, torch",
        f"{ordered[0]['torch']}.",
        "",
        f"Of {len(ordered)} pruned networks, {proven['onnx']} export to ONNX and {proven['pt2']} to pt2.",
        "Each file ran on 48 images, in batches of 1, 2, 32 and 13, and predicted the network's class on all.",
        "",
        "- *weights*: tensors of the ONNX file as a share of parameters x 4 bytes. Folding a batch norm into the",
        "  convolution before it lowers the share below 100 %. A batch norm that cannot be folded raises it, because",
        "  its running mean and variance are not parameters.",
        "- *ONNX*, *pt2*: file size minus parameters x 4 bytes, as a share of the latter, and the largest logit",
        "  difference over the largest logit. A file also holds the graph, whose share is larger in small",
        "  networks. pt2 files are compressed; this shrinks weights by up to a twelfth.",
        "",
        "| network | removed | parameters kept | weights | ONNX | pt2 |",
        "|---|---|---|---|---|---|",
    ]
    for row in ordered:
        if "failure" in row:
            lines.append(f"| {row['name']} | | | | {row['failure']} | |")
            continue
        weights = row["onnx"].get("weights")
        share = f"{weights / (4 * row['params']):.1%}" if weights is not None else ""
        kept = f"{row['removed']:.0%} | {row['params']:,}"
        lines.append(f"| {row['name']} | {kept} | {share} | {_cell(row, 'onnx')} | {_cell(row, 'pt2')} |")
    return "\n".join([*lines, "", OPENVINO])


def _cell(row: dict[str, Any], format: str) -> str:
    result = row[format]
    if "failure" in result:
        return str(result["failure"])
    return f"{result['bytes'] / (4 * row['params']) - 1:+.1%}, {result['max_relative_error']:.0e}"


def main() -> None:
    """Run one task; `one` prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "table", "one"])
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.task == "run":
        run(arguments.names)
    elif arguments.task == "table":
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(json.dumps(measure(arguments.names[0])))


if __name__ == "__main__":
    main()
