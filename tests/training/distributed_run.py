"""One process of several that train: `python distributed_run.py FOLDER NORM`, with torchrun's environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tiny_run import CLASSES, data, files, network

from cfp_cli.training import distributed
from cfp_cli.training.loop import fit
from cfp_cli.training.loss import Distillation
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.teacher_cache import teacher_logits

OPTIONS = TrainOptions(epochs=3, batch_size=16, lr=1e-2, seed=1)


class Told:
    """Counts what is told."""

    def __init__(self) -> None:
        self.lines = 0

    def track(self, items, description, total=None, unit="batch"):
        yield from items

    def say(self, message: str) -> None:
        self.lines += 1


def main() -> None:
    torch.set_num_threads(1)
    folder, norm = Path(sys.argv[1]), sys.argv[2] == "norm"
    workers, device = distributed.join(torch.device("cpu"))
    source, told = data(views=8), Told()
    tables = [teacher_logits(network(seed), source.views, len(CLASSES), folder / "teachers") for seed in (11, 12)]
    model = network(norm=norm, dropout=0.3 if norm else 0.0)
    history = fit(
        model, source, Distillation(tables, 3), OPTIONS, files(folder), resume=True, device=device, progress=told
    )
    torch.save(model.state_dict(), folder / f"rank{workers.rank}of{workers.world}.pt")
    facts = {"lines": told.lines, "losses": [row.loss for row in history.rows], "rank": distributed.rank()}
    (folder / f"rank{workers.rank}of{workers.world}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
