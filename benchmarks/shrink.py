"""Time and result of one `cfp shrink` command on a real data set.

    python benchmarks/shrink.py MODEL DATA [--arch A] [--teachers RL [CL]] [--max-loss 0.2] [--time-limit 15m]
        [--seed 0] [--out benchmarks/results/shrink.jsonl] [--continue RUN]
        [further options of cfp shrink, such as --target latency]

It runs the command in an empty run directory, or in RUN, where an earlier command left its candidates, and appends one
row: the command, wall and CPU seconds, CPU seconds of each part (`benchmarks/shrink_parts.py`), the frontier, and the
validation and test figures of the original and of the chosen network with their intervals.
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

from cfp_cli.foundation.versions import versions

SCRIPT = Path(__file__).with_name("shrink_parts.py")
POINT = (
    "compression",
    "trained",
    "params",
    "macs",
    "latency_ms",
    "loss",
    "standard_error",
    "passes",
    "chosen",
    "seconds",
)


def main() -> None:
    """Run the command and append the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arch")
    parser.add_argument("--teachers", nargs="+", type=Path, default=[])
    parser.add_argument("--max-loss", default="0.2")
    parser.add_argument("--time-limit")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "shrink.jsonl")
    parser.add_argument("--continue", dest="run", type=Path, help="run directory; seconds count this command alone")
    given, further = parser.parse_known_args()
    options = ["--max-loss", given.max_loss, "--seed", given.seed]
    options += ["--arch", given.arch] if given.arch else []
    options += ["--time-limit", given.time_limit] if given.time_limit else []
    teachers = ["--teachers", *map(str, given.teachers)] if given.teachers else []
    command = ["shrink", str(given.model), str(given.data), *teachers, *options, *further]
    with tempfile.TemporaryDirectory() as empty:
        run = str(given.run or Path(empty) / "run")
        continued = (Path(run) / "shrink.json").exists()
        began = time.perf_counter()
        parts = Path(empty) / "parts.json"
        done = subprocess.run(
            [sys.executable, SCRIPT, parts, *command, "--json", "--run", run], stdout=subprocess.PIPE, check=False
        )
        seconds = time.perf_counter() - began
        cpu_parts = json.loads(parts.read_text(encoding="utf-8"))
    if done.returncode not in (0, 3):
        raise SystemExit(done.returncode)
    result = json.loads(done.stdout)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    names = {str(path): path.name for path in (given.model, given.data, *given.teachers)}
    row = {
        "command": " ".join(["cfp", *(names.get(each, each) for each in command)]),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "continued": continued,
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "cpu_parts": cpu_parts,
        "load_after": round(os.getloadavg()[1], 1),
        "peak_mib": used.ru_maxrss // 1024,
        **{
            name: result[name]
            for name in ("met", "loss", "standard_error", "views", "compression", "macs_ratio", "latency_ratio")
        },
        "latency_ms": result["latency_ms"],
        "bytes": result["bytes"],
        "accuracy_change_interval": result["accuracy_change_interval"],
        "val": {"original": figures(result["teacher"]["val"]), "shrunk": figures(result["val"])},
        "test": {"original": figures(result["teacher"]["test"]), "shrunk": figures(result["test"])},
        "frontier": [{name: each[name] for name in POINT} for each in result["frontier"]],
        "versions": versions(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def figures(metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """Accuracy and macro-F1 with their intervals, and the number of images."""
    if metrics is None:
        return None
    chosen = {name: metrics[name] for name in ("accuracy", "macro_f1", "images")}
    return {**chosen, "intervals": {name: metrics["intervals"][name] for name in ("accuracy", "macro_f1")}}


if __name__ == "__main__":
    main()
