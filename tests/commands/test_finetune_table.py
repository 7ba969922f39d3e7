from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cfp_cli.commands.finetune import error_table
from cfp_cli.runs.finetune import Finetuned
from cfp_cli.training.history import History


@pytest.mark.parametrize("epoch", [-1, 4])
def test_errors_of_both_splits_are_shown_before_and_after(epoch: int) -> None:
    history = History((), epoch, 1.0, None, output_error=0.1, test_output_error=0.15)
    text = io.StringIO()
    Console(file=text, width=100).print(error_table(Finetuned(history, None, None, (), Path("x.pt"), 0.2, 0.3)))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.getvalue().splitlines() if "%" in line]
    after = [["after epoch 5", "10.00%", "15.00%"]] if epoch >= 0 else []
    assert rows == [["before", "20.00%", "30.00%"], *after]
