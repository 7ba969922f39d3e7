from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_defaults_come_from_the_folders_file(cfp, scored: Path, tmp_path: Path) -> None:
    (tmp_path / "cfp.toml").write_text("quiet = true\n\n[prune]\nratio = 0.5\nmin-channels = 3\n")
    result = cfp("prune", "--dry-run", "--json")
    assert result.code == 0, result.err
    assert result.json["requested"] == 0.5
    assert min(group["kept"] for group in result.json["sets"]) >= 3
    assert cfp("prune", "--dry-run", "--json", "--ratio", 0.4).json["requested"] == 0.4


def test_defaults_come_from_pyproject_too(cfp, scored: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.cfp.prune]\nratio = 0.5\n")
    assert cfp("prune", "--dry-run", "--json").json["requested"] == 0.5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[prun]\nratio = 0.5\n", ("command 'prun'", "'prune'")),
        ("[prune]\nratoi = 0.5\n", ("option of prune 'ratoi'", "'ratio'")),
        ("sead = 1\n", ("option 'sead'", "'seed'")),
        ("[prune\n", ("cfp.toml", "TOML")),
    ],
)
def test_a_misspelt_name_in_the_file_is_an_error(
    cfp, scored: Path, tmp_path: Path, content: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "cfp.toml").write_text(content)
    result = cfp("prune", "--ratio", 0.5)
    assert result.code == 2
    assert all(word in result.err for word in words), result.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(cfp, shell: str) -> None:
    result = cfp("completion", shell)
    assert result.code == 0
    assert "_CFP_COMPLETE" in result.out


def test_the_bash_script_completes_a_command() -> None:
    code = "from cfp_cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['cfp']; {code}"],
        env={"_CFP_COMPLETE": "bash_complete", "COMP_WORDS": "cfp fi", "COMP_CWORD": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "plain,finetune", done.stderr


def test_versions(cfp) -> None:
    result = cfp("--version")
    assert result.code == 0
    assert all(name in result.out for name in ("cfp ", "core ", "torch ", "python "))
