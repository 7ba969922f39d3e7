"""One of several training processes, with the arguments FOLDER NORM STOP and torchrun's environment.

After STOP steps (0 for never) only the last process gets a SIGTERM. All processes must then stop at the same step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from tiny_run import CLASSES, data, files, network

from cfp_cli.execution import distributed
from cfp_cli.training.loop import fit
from cfp_cli.training.loss import Distillation
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.teacher_cache import teacher_logits

OPTIONS = TrainOptions.preset("paper", epochs=3, batch_size=16, lr=1e-2, seed=1)


class CountingProgress:
    """Counts the printed lines, and sends this process a signal after some steps."""

    def __init__(self, stop: int) -> None:
        self.lines, self.stop = 0, stop

    def track(self, items, description, total=None, unit="batch"):
        for number, item in enumerate(items, 1):
            yield item
            if number == self.stop:
                os.kill(os.getpid(), signal.SIGTERM)

    def say(self, message: str) -> None:
        self.lines += 1


def train() -> None:
    torch.set_num_threads(1)
    folder, norm = Path(sys.argv[1]), sys.argv[2] == "norm"
    workers, device = distributed.join(torch.device("cpu"))
    stop = int(sys.argv[3]) if workers.rank == workers.world_size - 1 else 0
    source, progress = data(views=8), CountingProgress(stop)
    tables = [teacher_logits(network(seed), source.views, len(CLASSES), folder / "teachers") for seed in (11, 12)]
    model = network(norm=norm, dropout=0.3 if norm else 0.0)
    history = fit(
        model, source, Distillation(tables, 3), OPTIONS, files(folder), resume=True, device=device, progress=progress
    )
    torch.save(model.state_dict(), folder / f"rank{workers.rank}of{workers.world_size}.pt")
    facts = {"lines": progress.lines, "losses": [row.loss for row in history.rows], "rank": distributed.rank()}
    (folder / f"rank{workers.rank}of{workers.world_size}.json").write_text(json.dumps(facts))


def main() -> None:
    try:
        train()
    except KeyboardInterrupt:
        sys.exit(130)
