from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import data, files, network

from cfp_cli.foundation.errors import TrainingError
from cfp_cli.training.loop import fit
from cfp_cli.training.loss import CrossEntropy
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.restart import mark_of, replacing


def train(folder: Path, seed: int, resume: bool) -> int:
    options = TrainOptions(epochs=1, batch_size=12, lr=1e-2, warmup=0.0, augment="none", ema=0.0, seed=seed)
    return len(fit(network(), data(), CrossEntropy(), options, files(folder), resume=resume).rows)


class Killed(BaseException):
    """What a kill leaves: no code of ours runs after it."""


def test_resume_after_a_kill_before_the_first_step_starts_the_new_run(tmp_path: Path) -> None:
    train(tmp_path, seed=1, resume=False)
    with pytest.raises(TrainingError, match="was started with other options"):
        train(tmp_path, seed=2, resume=True)
    with pytest.raises(Killed), replacing(tmp_path / "last.pt", active=True):
        raise Killed
    assert train(tmp_path, seed=2, resume=True) == 1
    assert not mark_of(tmp_path / "last.pt").exists()
    with pytest.raises(TrainingError, match="was started with other options"):
        train(tmp_path, seed=1, resume=True)


def test_the_state_of_the_same_run_is_resumed_although_it_was_started_anew(tmp_path: Path) -> None:
    train(tmp_path, seed=1, resume=False)
    state = (tmp_path / "last.pt").stat().st_mtime_ns
    with pytest.raises(Killed), replacing(tmp_path / "last.pt", active=True):
        raise Killed
    assert (tmp_path / "last.pt").stat().st_mtime_ns == state
    assert train(tmp_path, seed=1, resume=True) == 1
    assert not mark_of(tmp_path / "last.pt").exists()


def test_a_new_run_with_a_wrong_argument_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    train(tmp_path, seed=1, resume=False)
    with pytest.raises(TrainingError, match="wrong"), replacing(tmp_path / "last.pt", active=True):
        raise TrainingError("wrong argument")
    assert not mark_of(tmp_path / "last.pt").exists()
    with replacing(tmp_path / "nothing.pt", active=True), replacing(tmp_path / "last.pt", active=False):
        assert not mark_of(tmp_path / "nothing.pt").exists()
        assert not mark_of(tmp_path / "last.pt").exists()
