"""Time, memory and metrics of the README's three commands on a real data set.

    python benchmarks/three_lines.py MODEL DATA RL CL [--out benchmarks/results/three_lines.json]

MODEL is the network to prune, DATA its images, RL and CL the two teachers. The metrics are those in `run.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMANDS = ("cfp score model.pt data/", "cfp prune --ratio 0.95", "cfp finetune --teachers a.pt b.pt")


def main() -> None:
    """Run the commands and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "rl", "cl"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/three_lines.json"))
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        links = {"model.pt": arguments.model, "data": arguments.data, "a.pt": arguments.rl, "b.pt": arguments.cl}
        for link, target in links.items():
            (folder / link).symlink_to(target.resolve())
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        for command in COMMANDS:
            print(f"$ {command}", flush=True)
            began = time.perf_counter()
            subprocess.run(command, shell=True, check=True, cwd=folder, env={**os.environ, "PATH": search})
            results.append({"line": command, "seconds": round(time.perf_counter() - began, 1)})
        records = json.loads((folder / "cfp-run" / "run.json").read_text())["records"]
    for result, record in zip(results, records, strict=True):
        result["metrics"] = record["metrics"]
    facts = {
        "model": arguments.model.name,
        "data": arguments.data.name,
        "teachers": [arguments.rl.name, arguments.cl.name],
        "versions": records[0]["versions"],
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "peak_mib_of_the_largest_step": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**facts, "lines": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
