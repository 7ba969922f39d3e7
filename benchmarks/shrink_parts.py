"""Run a `cfp` command, and write how many processor seconds each part of `cfp shrink` took.

    python benchmarks/shrink_parts.py PARTS.json shrink MODEL DATA [options]

`benchmarks/shrink.py` runs its command this way. The time of a part does not contain that of the parts inside it, and
`other` is everything else, such as imports.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Name of a part, and the functions that belong to it: module, and name in the module.
PARTS = {
    "score": [("cfp_cli.runs.shrink", "run_score")],
    "trace": [("cfp_cli.runs.scored_network", "ScoredNetwork.graph")],
    "original on validation views": [("cfp_cli.runs.shrink", "Validation.__init__")],
    "original's outputs for the refit": [("cfp_cli.runs.candidate_work", "RecordedOutputs.of")],
    "plans": [("cfp_cli.runs.candidate_maker", "CandidateMaker.refit_job")],
    "refits": [("cfp_cli.runs.candidate_work", "CandidateWork._refitted")],
    "candidates on validation views": [("cfp_cli.runs.validation", "Validation.compare")],
    "decoding views": [("cfp_cli.data.views", "ViewStore.__init__")],
    "teachers' outputs": [("cfp_cli.training.teacher", "Teacher.with_logits")],
    "training": [("cfp_cli.training.train_network", "fit")],
    "other of fine-tuning": [("cfp_cli.runs.candidate_work", "CandidateWork._finetuned")],
    "class-balanced teacher": [("cfp_cli.runs.shrink_teachers", "DefaultTeachers.of")],
    "latency": [("cfp_cli.runs.shrink", "finish")],
    "test": [("cfp_cli.runs.shrink", "tested_once")],
    "export": [("cfp_cli.runs.shrink", "run_export")],
    "report": [("cfp_cli.runs.shrink", "run_report")],
}


class Clock:
    """Processor seconds of each part, without those of the parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def measured(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a clock around it."""

        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            self._inside.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                taken = time.process_time() - began
                self.seconds[part] += taken - self._inside.pop()
                if self._inside:
                    self._inside[-1] += taken

        return run


def measure(clock: Clock) -> None:
    """Put the clock around the functions of all parts."""
    for part, functions in PARTS.items():
        for module_name, path in functions:
            owner = importlib.import_module(module_name)
            *classes, name = path.split(".")
            for each in classes:
                owner = getattr(owner, each)
            found = vars(owner)[name]
            if isinstance(found, classmethod):
                setattr(owner, name, classmethod(clock.measured(part, found.__func__)))
            else:
                setattr(owner, name, clock.measured(part, found))


def main() -> None:
    """Run the command."""
    if len(sys.argv) < 3 or sys.argv[1] in ("-h", "--help"):
        print(f"usage: {Path(sys.argv[0]).name} PARTS.json COMMAND [options]\n\n{__doc__}")
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    # As `cfp` does before it imports torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    path, clock = Path(sys.argv[1]), Clock()
    measure(clock)
    main_of_cfp = importlib.import_module("cfp_cli.main").main
    sys.argv = ["cfp", *sys.argv[2:]]
    try:
        clock.measured("other", main_of_cfp)()
    finally:
        parts = {part: round(seconds, 1) for part, seconds in clock.seconds.items() if seconds >= 0.05}
        path.write_text(json.dumps(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
