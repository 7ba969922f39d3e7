"""Time of each stage of the README's three commands, as one stacked bar.

    python benchmarks/stages.py MODEL DATA [--side 224] [--epochs 1] [--threads 2] [--out FILE]
    python benchmarks/stages.py --figure docs/figures/stages.svg [--out FILE]

MODEL is the network to prune and the only teacher, DATA its images. The commands print the time of each part with
`--verbose`. What remains of a command is its start, files and the choice of channels; parts below a hundredth of the
whole are added to it. The fine-tuning has `--epochs` epochs of one view; its default is 120 epochs of eight views.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from plot import stacked_bar

from cfp_cli.execution.processor import processor

PART = re.compile(r"^(?P<name>[^:]+): \d+ x [\w ]+ in (?P<seconds>[\d.]+) s$")
WHOLE = re.compile(r"^finished in (?P<seconds>[\d.]+) s$")
SCORED = re.compile(r"images in (?P<seconds>[\d.]+) s \((?P<forward>[\d.]+) s in the forward passes\)$")
REST = "the rest"
# Parts below this fraction of all commands are added to `REST` in the figure.
SMALL = 0.01


def stages(lines: list[str]) -> dict[str, float]:
    """Seconds of each part of a command, of what it prints with `--verbose`.

    Parts of one name are added; `REST` is what no part contains. Scoring is divided into forward passes and scores.
    """
    seconds: dict[str, float] = {}
    whole = 0.0
    for line in lines:
        if found := PART.match(line):
            seconds[found["name"]] = seconds.get(found["name"], 0.0) + float(found["seconds"])
        elif found := SCORED.search(line):
            seconds.pop("scoring", None)
            seconds["forward passes"] = float(found["forward"])
            seconds["trace, scores"] = float(found["seconds"]) - float(found["forward"])
        elif found := WHOLE.match(line):
            whole = float(found["seconds"])
    seconds[REST] = max(whole - sum(seconds.values()), 0.0)
    return {name: round(value, 1) for name, value in seconds.items()}


def main() -> None:
    """Run the commands and write the results, or draw the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stages.json")
    parser.add_argument("--figure", type=Path, help="only draw the bar of the results into this file")
    arguments = parser.parse_args()
    if arguments.figure:
        results = json.loads(arguments.out.read_text())
        whole = sum(sum(line["stages"].values()) for line in results["lines"])
        parts: dict[str, float] = {}
        for line in results["lines"]:
            for name, seconds in line["stages"].items():
                part = f"{line['command']}: {name if seconds >= SMALL * whole else REST}"
                parts[part] = parts.get(part, 0.0) + seconds
        stacked_bar(arguments.figure, f"The three commands, {results['title']}: {whole:.0f} s", parts)
        return
    if not (arguments.model and arguments.data):
        parser.error("pass MODEL and DATA, or --figure")
    threads = ["--threads", str(arguments.threads)]
    model, data = str(arguments.model.resolve()), str(arguments.data.resolve())
    commands = {
        "score": [model, data, "--input-size", str(arguments.side)],
        "prune": ["--ratio", "0.95"],
        "finetune": ["--teachers", model, "--epochs", str(arguments.epochs), "--views", "1"],
    }
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, options in commands.items():
            command = [sys.executable, "-m", "cfp_cli", name, *options, *threads, "--verbose"]
            done = subprocess.run(
                command, cwd=folder, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            if done.returncode:
                sys.exit(done.stdout)
            lines.append({"command": name, "stages": stages(done.stdout.splitlines())})
            print(json.dumps(lines[-1]), flush=True)
    facts = {
        "title": f"{arguments.model.stem}, {arguments.side} pixels, epochs of fine-tuning: {arguments.epochs}",
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        "threads": arguments.threads,
        "lines": lines,
    }
    arguments.out.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
