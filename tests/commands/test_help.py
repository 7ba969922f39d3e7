from __future__ import annotations

import subprocess
import sys

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


def test_the_public_names_are_importable() -> None:
    import cfp_cli

    for name in cfp_cli.__all__:
        assert callable(getattr(cfp_cli, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cfp_cli.nothing
