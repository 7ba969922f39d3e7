"""Every option of the training that the command line has reaches the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cfp_cli.commands import finetune, train
from cfp_cli.commands.cli import cli
from cfp_cli.commands.console import Console
from cfp_cli.foundation.errors import UsageError


@pytest.mark.parametrize(
    ("module", "line"),
    [(train, ["train", "data", "--arch", "dddn", "--out", "x.pt"]), (finetune, ["finetune", "--teachers", "x.pt"])],
)
def test_each_value_arrives(module: Any, line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken: dict[str, Any] = {}

    def take(values: dict[str, Any], **_: Any) -> None:
        taken.update(values)
        raise UsageError("enough")

    monkeypatch.setattr(module, "take_options", take)
    given = {"epochs": 3, "batch_size": 5, "views": 7, "lr": 0.25, "weight_decay": 0.125, "patience": 2}
    options = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.raises(UsageError, match="enough"):
        cli.main([*line, *options], prog_name="cfp", obj=Console(), standalone_mode=False)
    assert {name: taken.get(name) for name in given} == given
