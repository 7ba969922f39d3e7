"""Kills a distillation run many times (SIGKILL at random moments), and compares its result with an unkilled run.

Run as a program: `python killed_runs.py FOLDER KILLS SEED`. KILLS counts the kills that hit training. The program forks
its children, so that they need not import torch again. It computes nothing itself, because threads of autograd do not
survive a fork. It prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch
import torch._dynamo
from tiny_run import CLASSES, TensorViews, data, files, network, same

from cfp_cli.training.loop import fit
from cfp_cli.training.loss import Distillation
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.teacher_cache import teacher_logits

OPTIONS = TrainOptions.preset("paper", epochs=10, batch_size=12, lr=1e-2, ema=0.9, clip_norm=1.0, seed=1)


def run(folder: Path) -> None:
    """Cache the teachers' logits, then train. Both parts resume."""
    torch.set_num_threads(1)
    source = data(count=60, views=8)
    assert isinstance(source.views, TensorViews)
    tables = [teacher_logits(network(seed), source.views, len(CLASSES), folder / "teachers") for seed in (11, 12)]
    fit(network(), source, Distillation(tables, OPTIONS.epochs), OPTIONS, files(folder), resume=True)


def child(folder: Path) -> int:
    """Start the run in a child process."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            run(folder)
            status = 0
        finally:
            os._exit(status)
    return process


def reached(folder: Path) -> tuple[int, int]:
    """A value that changes with each cached block and each saved step."""
    last = folder / "last.pt"
    return len(list(folder.rglob("*.npy"))), last.stat().st_mtime_ns if last.exists() else 0


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    # The first run warms up the caches of the operating system. The second run is timed.
    assert os.waitpid(child(folder / "warm"), 0)[1] == 0
    started = time.monotonic()
    assert os.waitpid(child(folder / "whole"), 0)[1] == 0
    seconds = time.monotonic() - started
    phases, life = Counter(), 2.0 * seconds / kills
    while phases["training"] < kills:
        # If a run finishes before there were enough kills, start another one.
        cut = folder / f"cut{phases['finished']}"
        process, before = child(cut), reached(cut)
        time.sleep(chance.uniform(0.0, life))
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        if status == 0:
            phases["finished"] += 1
        elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            phases["training" if (cut / "last.pt").exists() else "caching"] += 1
        else:
            raise SystemExit(f"the run failed with status {status}")
        # On a busy machine the time until the kill may be too short for any progress.
        life *= 1.1 if reached(cut) == before else 0.97
    assert os.waitpid(child(cut), 0)[1] == 0
    results = [torch.load(path / "last.pt", weights_only=True) for path in (folder / "whole", cut)]
    best = [torch.load(path / "best.pt", weights_only=True) for path in (folder / "whole", cut)]
    report = {
        "phases": phases,
        "seconds": seconds,
        "best": same(*best),
        "last": same(results[0]["model"], results[1]["model"]),
        "losses": [row["loss"] for row in results[0]["rows"]] == [row["loss"] for row in results[1]["rows"]],
        "leftovers": [path.name for path in cut.rglob("*.tmp")],
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
