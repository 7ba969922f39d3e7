"""The result of `cfp shrink`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfp_cli.foundation.typed_json import to_json
from cfp_cli.measuring.intervals import Interval
from cfp_cli.measuring.loss_rule import Judged
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.report.frontier import FrontierPoint
from cfp_cli.runs.records import ShrinkMetrics


@dataclass(frozen=True)
class Shrunk:
    """The result of `cfp shrink`.

    Attributes:
        metrics: what was measured.
        judged: the judgement on the chosen network.
        chosen: the chosen point of the frontier.
        params_before, macs_before: costs of the original.
        change: 95 % interval of the change of the test accuracy; None without a test split.
        out: the checkpoint.
        export, report: further files; None if their package is not installed.
        seconds: how long the command took.
        line: the command line that repeats it.
    """

    metrics: ShrinkMetrics
    judged: Judged
    chosen: FrontierPoint
    params_before: int
    macs_before: int
    change: Interval | None
    out: Path
    export: Path | None
    report: Path | None
    seconds: float
    line: tuple[str, ...]

    @property
    def compression(self) -> float:
        """Parameters of the original divided by those of the chosen network."""
        return self.params_before / self.chosen.params

    @property
    def macs_ratio(self) -> float:
        """Multiply-adds of the original divided by those of the chosen network."""
        return self.macs_before / self.chosen.macs

    @property
    def latency_ratio(self) -> float | None:
        """Latency of the original divided by that of the chosen network; None if they were not measured."""
        before, after = self.metrics.original_latency, self.metrics.latency
        return before.median / after.median if before is not None and after is not None else None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        metrics = self.metrics
        latencies = {"original": metrics.original_latency, "shrunk": metrics.latency}

        def full(each: Metrics | None) -> dict[str, Any] | None:
            return each.to_json() if each is not None else None

        return {
            "out": str(self.out),
            "met": metrics.met,
            "complete": metrics.complete,
            "loss": self.judged.loss.points,
            "standard_error": self.judged.loss.standard_error,
            "views": metrics.views,
            "compression": self.compression,
            "macs_ratio": self.macs_ratio,
            "latency_ratio": self.latency_ratio,
            "latency_ms": {name: to_json(each) for name, each in latencies.items()} if metrics.latency else None,
            "bytes": metrics.bytes,
            "over_budget": list(metrics.over_budget),
            "val": full(metrics.val),
            "test": full(metrics.test),
            "teacher": {"val": full(metrics.original_val), "test": full(metrics.original_test)},
            "accuracy_change_interval": list(self.change) if self.change else None,
            "frontier": [{**to_json(each), "val": each.val.to_json()} for each in metrics.frontier],
            "export": str(self.export) if self.export else None,
            "report": str(self.report) if self.report else None,
            "seconds": self.seconds,
            "command": shlex.join(self.line),
        }
