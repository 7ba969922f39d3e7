"""The trial file of `require_readable` goes away, also that of a killed process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.readable import require_readable
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.models.registry import create

KILLED = """
import os, signal, sys
from pathlib import Path
from cfp_cli.checkpoints import readable
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.models.registry import create
readable.load = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
model = describe(create("dddn", 2), ModelSpec("dddn", ("a", "b"), input_size=(32, 32)))
readable.require_readable(model, Path(sys.argv[1]))
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    return describe(create("dddn", 2), ModelSpec("dddn", ("a", "b"), input_size=(32, 32)))


def test_nothing_is_left(tmp_path: Path) -> None:
    require_readable(network(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_next_check_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(tmp_path.rglob("trial.pt"))
    require_readable(network(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [-0.0, 1e-40, -1e-40, 0.0], ids=["minus zero", "subnormal", "negative", "zero"])
def test_weights_that_are_written_as_zero_are_read_as_the_same_network(tmp_path: Path, value: float) -> None:
    model = network()
    with torch.no_grad():
        # Pruning masks leave -0, and weight decay leaves subnormal numbers.
        next(model.parameters()).flatten()[:3] = value
    require_readable(model, tmp_path)
