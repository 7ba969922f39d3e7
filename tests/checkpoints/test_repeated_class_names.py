from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.foreign_facts import foreign_facts

NAMES = ["crane", "maillot", "crane", "ox", "maillot"]
EXPECTED = ["crane (0)", "maillot (1)", "crane (2)", "ox", "maillot (4)"]


@pytest.mark.parametrize("kind", ["list", "by index"])
def test_names_that_occur_twice_get_their_index(kind: str) -> None:
    names = NAMES if kind == "list" else dict(enumerate(NAMES))
    assert foreign_facts({"classes": names}, len(NAMES))["classes"] == EXPECTED


def test_a_network_with_such_names_loads_with_distinct_ones(tmp_path: Path) -> None:
    import cfp_cli as cfp

    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
    )
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, len(NAMES)))
    torch.save({"model": network.state_dict(), "classes": NAMES}, tmp_path / "x.pth")
    loaded = cfp.load(tmp_path / "x.pth", f"{tmp_path / 'net.py'}:net", input_size=(8, 8))
    assert list(loaded.spec.classes) == EXPECTED
