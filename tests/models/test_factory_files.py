"""Factory files that import their neighbours with a dot, and factories whose arguments have no position."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfp_cli.foundation.errors import UsageError
from cfp_cli.models.registry import create

BLOCKS = "from torch import nn\nfrom . import sizes\ndef head(n): return nn.Linear(sizes.WIDTH, n)\n"


def test_a_file_imports_its_neighbours_with_a_dot(tmp_path: Path) -> None:
    for folder, width in (("one", 4), ("two", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sizes.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / folder / "blocks.py").write_text(BLOCKS)
        (tmp_path / folder / "net.py").write_text(
            "from .blocks import head\ndef make(num_classes): return head(num_classes)\n"
        )
        # Two files of one name do not take each other's neighbours.
        assert create(f"{tmp_path / folder / 'net.py'}:make", 3).weight.shape == (3, width)


def test_an_import_from_above_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from ..blocks import head\n")
    with pytest.raises(UsageError, match=r"imports from above its folder .*PYTHONPATH"):
        create(f"{tmp_path / 'net.py'}:make", 3)


@pytest.mark.parametrize(
    "signature",
    ["*, num_outputs", "*, num_outputs, width=4", "width=4, *, num_outputs=9", "*, size_of_head", "*, n, **more"],
)
def test_the_number_of_classes_reaches_keyword_only_arguments(tmp_path: Path, signature: str) -> None:
    name = signature.split("*, ")[1].split(",")[0].split("=")[0]
    (tmp_path / "net.py").write_text(f"from torch import nn\ndef make({signature}): return nn.Linear(4, {name})\n")
    assert create(f"{tmp_path / 'net.py'}:make", 3).weight.shape == (3, 4)


def test_several_keyword_only_arguments_are_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def make(*, depth, outs): return None\n")
    with pytest.raises(UsageError, match="needs depth, outs, and none of them is num_classes"):
        create(f"{tmp_path / 'net.py'}:make", 3)
