from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cfp_cli.commands.cli import cli


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help(cfp, name: str) -> None:
    result = cfp(name, "--help")
    assert result.code == 0
    assert "Usage: cfp" in result.out


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys\nfrom cfp_cli.commands.cli import cli\ncli.main(['--help'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'numpy', 'scipy', 'rich', 'PIL', 'cfp_core') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_table_of_public_names_agrees_with_the_imports_for_type_checkers() -> None:
    import cfp_cli

    tree = ast.parse(Path(cfp_cli.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == {(f"cfp_cli.{module}", name) for name, module in cfp_cli._MODULE_OF.items()}
    assert len(cfp_cli._MODULE_OF) == sum(map(len, cfp_cli._MODULES.values()))


def test_the_public_names_are_importable() -> None:
    import cfp_cli

    for name in cfp_cli.__all__:
        assert callable(getattr(cfp_cli, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cfp_cli.nothing
