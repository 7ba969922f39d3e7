"""Standard output has only results, whatever the code of a network and its libraries print."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.models.registry import create

LOUD = """
import logging
import sys
from torch import nn

logger = logging.Logger("loud")
logger.addHandler(logging.StreamHandler(sys.stdout))
print("at import")

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        print("in the constructor")
        self.a, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, classes)

    def forward(self, x):
        logger.warning("in forward")
        return self.head(self.a(x).mean((2, 3)))

def net(num_classes): return Net(num_classes)
"""


@pytest.mark.parametrize("command", ["inspect", "eval", "predict"])
def test_prints_of_a_network_go_to_stderr(cfp, images: Path, tmp_path: Path, capsys, command: str) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    arch, model = f"{tmp_path}/loud.py:net", tmp_path / "m.pt"
    save(model, describe(create(arch, 6), ModelSpec(arch, tuple("012345"), input_size=(16, 16))))
    data = [] if command == "inspect" else [images]
    before = sys.stdout
    result = cfp(command, model, *data, "--arch", arch, "--json")
    assert result.code == 0, result.err
    assert result.json
    for text in ("at import", "in the constructor", "in forward"):
        assert text in result.err
    assert sys.stdout is before
    shown = cfp(command, model, *data, "--arch", arch)
    assert "in forward" not in shown.out
    assert shown.out


def test_a_size_of_two_words_gets_a_hint(cfp, tmp_path: Path) -> None:
    result = cfp("inspect", tmp_path / "m.pt", "--input-size", 32, 160)
    assert result.code == 2
    assert "unexpected extra argument (160); write height and width as --input-size 256x512" in result.err
