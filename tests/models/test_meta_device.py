from __future__ import annotations

import builtins
import importlib
import sys
from pathlib import Path

import pytest

from cfp_cli.foundation.errors import UsageError
from cfp_cli.models.head import tensor_shapes

ANCHORS = """
import torch


class Anchors:
    table = torch.ones(3)
"""
FACTORY = """
from torch import nn


def by_statement():
    from anchors_of_a_statement import Anchors

    return nn.Conv2d(3, len(Anchors.table), 1)


def by_name():
    import importlib

    return nn.Conv2d(3, len(importlib.import_module("anchors_by_name").Anchors.table), 1)
"""


@pytest.mark.parametrize(
    ("factory", "module"), [("by_statement", "anchors_of_a_statement"), ("by_name", "anchors_by_name")]
)
def test_tensors_of_modules_that_a_factory_imports_have_values(
    factory: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{module}.py").write_text(ANCHORS)
    (tmp_path / "net.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    before = builtins.__import__, importlib.import_module
    assert tensor_shapes(f"{tmp_path / 'net.py'}:{factory}", {}).two["weight"] == (3, 3, 1, 1)
    assert sys.modules[module].Anchors.table.tolist() == [1, 1, 1]
    assert (builtins.__import__, importlib.import_module) == before


PRETRAINED = """
import sys
from torch import nn, ones


def pretrained(num_classes):
    net = nn.Linear(3, num_classes)
    net.load_state_dict({"weight": ones(num_classes, 3), "bias": ones(num_classes)})
    print("loaded pretrained weights")
    print("loaded pretrained weights", file=sys.stderr)
    return net
"""


def test_the_shapes_of_a_factory_that_loads_weights_are_read_in_silence(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(PRETRAINED)
    shapes = tensor_shapes(f"{tmp_path / 'net.py'}:pretrained", {})
    assert shapes.two["weight"] == (2, 3)
    assert [str(each.message) for each in recwarn] == []
    assert capsys.readouterr() == ("", "")


def test_an_error_of_a_factory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def broken(num_classes):\n    raise OSError('no file of weights')\n")
    with pytest.raises(UsageError, match="no file of weights"):
        tensor_shapes(f"{tmp_path / 'net.py'}:broken", {})
