"""Counts that no run can finish are refused at once."""

from __future__ import annotations

import pytest

from cfp_cli.foundation.errors import UsageError
from cfp_cli.training.options import TrainOptions

HUGE = 10**9


@pytest.mark.parametrize("option", ["--views", "--epochs", "--batch-size", "--patience", "--folds"])
def test_train_refuses_huge_counts(cfp, images, option: str, tmp_path) -> None:
    result = cfp("train", images, "--arch", "dddn", "--out", tmp_path / "x.pt", option, HUGE)
    assert result.code == 2
    assert option in result.err
    assert str(HUGE) in result.err


@pytest.mark.parametrize("option", ["--rounds", "--candidates", "--recovery-epochs", "--batch-size", "--round-to"])
def test_prune_refuses_huge_counts(cfp, option: str) -> None:
    result = cfp("prune", "--ratio", 0.5, option, HUGE)
    assert result.code == 2
    assert str(HUGE) in result.err


@pytest.mark.parametrize("command", ["bench", "eval", "predict"])
def test_others_refuse_huge_batches(cfp, model, images, command: str) -> None:
    assert cfp(command, model, *([images] if command != "bench" else []), "--batch-size", HUGE).code == 2


def test_the_library_refuses_them_too() -> None:
    with pytest.raises(UsageError, match="--views is 1000000000; pass 1000 or less"):
        TrainOptions.preset("teacher", views=HUGE)
