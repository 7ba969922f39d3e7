"""A training that keeps other weights than those of its best epoch says which, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cfp_cli.commands.kept_epoch import kept_epoch
from cfp_cli.runs.train import run_train


def history(best_epoch: int, accuracy: Sequence[float], macro_f1: Sequence[float]) -> SimpleNamespace:
    rows = [
        SimpleNamespace(epoch=i, accuracy=a, macro_f1=f, val_loss=None)
        for i, (a, f) in enumerate(zip(accuracy, macro_f1, strict=True))
    ]
    return SimpleNamespace(best_epoch=best_epoch, rows=rows)


def test_an_epoch_below_the_best_is_explained_by_the_metric_that_chose_it() -> None:
    done = history(2, (0.4333, 0.41, 0.42), (0.3, 0.35, 0.36))
    (line,) = kept_epoch(done, "accuracy", "rl.pt")
    assert line.startswith("epoch 3 is kept: the latest epoch")
    assert "val accuracy, 43.33% in epoch 1" in line
    assert kept_epoch(done, "macro_f1", "rl.pt") == ()
    done.rows[0].val_loss = 0.1
    assert kept_epoch(done, "accuracy", "rl.pt")[0].startswith("epoch 3 is kept: the epoch nearest to the teachers")


def test_the_smallest_loss_needs_no_explanation() -> None:
    done = history(1, (0.5, 0.4), (0.4, 0.3))
    assert kept_epoch(done, "loss", "rl.pt") == ()
    assert "no epoch was better" in kept_epoch(history(-1, (), ()), "loss", "rl.pt")[0]


@pytest.mark.parametrize("best_epoch", [0, 1])
def test_a_best_value_needs_no_explanation(best_epoch: int) -> None:
    assert kept_epoch(history(best_epoch, (0.5, 0.5), (0.4, 0.4)), "accuracy", "rl.pt") == ()


@pytest.mark.parametrize("best_epoch", [-1, 0])
def test_train_says_that_it_kept_its_init(
    cfp, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best_epoch: int
) -> None:
    def run(*args: Any, **options: Any) -> Any:
        trained = run_train(*args, **options)
        return replace(trained, history=replace(trained.history, best_epoch=best_epoch))

    monkeypatch.setattr("cfp_cli.runs.train.run_train", run)
    options = ("--epochs", 1, "--views", 1, "--batch-size", 16, "--out", tmp_path / "cl.pt")
    done = cfp("train", images, "--init", model, *options)
    assert done.code == 0, done.err
    line = f"no epoch was better than {model}, so its weights are kept"
    assert (line in " ".join(done.out.split())) == (best_epoch < 0)


def test_a_training_that_helped_nothing_names_each_remedy() -> None:
    (line,) = kept_epoch(history(-1, (), ()), "accuracy", "the student before fine-tuning")
    assert all(option in line for option in ("--epochs", "--lr", "--batch-size"))
