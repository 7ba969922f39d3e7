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


def test_nested_commands_have_defaults_too(cfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("source").mkdir()
    for content in ('[data.split]\nlayout = "x-sdd"\n', '[data]\nlayout = "x-sdd"\n', 'layout = "x-sdd"\n'):
        Path("cfp.toml").write_text(content)
        result = cfp("data", "split", "source", "out")
        assert result.code == 1
        assert "does not have the layout x-sdd" in result.err, result.err
    Path("cfp.toml").write_text("[data.split]\nlayuot = 1\n")
    result = cfp("data", "split", "source", "out")
    assert result.code == 2
    assert "unknown option of data split 'layuot'; did you mean 'layout'" in result.err
    Path("cfp.toml").write_text("[data.splitt]\nseed = 1\n")
    assert "unknown command of data 'splitt'; did you mean 'split'" in cfp("data", "split", "source", "out").err


@pytest.mark.parametrize("option", ["no-reconstruct = true", "reconstruct = false"])
def test_a_flag_that_switches_off_can_be_a_default(cfp, scored: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "cfp.toml").write_text(f"[prune]\n{option}\n")
    result = cfp("prune", "--ratio", 0.5, "--json")
    assert "reconstructed" not in result.json["accuracy"]


WRONG = ["nan", "inf", "true", "[]", "[1]", "{}", "1979-05-27", '"text"', "-1", "1e400", "1.5", '"\\u0000"']


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("option", ["ratio", "min-channels", "target", "keep", "plan", "dry-run", "seed", "run"])
def test_wrong_values_name_the_file_and_the_option(
    cfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cfp.toml").write_text(f"[prune]\n{option} = {value}\n")
    result = cfp("prune")
    assert result.code in (1, 2)
    assert len(result.err.strip().splitlines()) == 1
    assert "bug" not in result.err
    text = option in ("keep", "plan", "run") and value in ('"text"', "[]")
    number = option == "ratio" and value in ("-1", "1.5")
    if not (text or number or (option, value) == ("dry-run", "true")):
        assert result.code == 2
        assert f"cfp.toml: prune.{option}" in result.err or "cfp.toml names an unknown" in result.err, result.err


@pytest.mark.parametrize("line", ["unsafe-pickle = true", 'arch = "net.py:tiny"'])
def test_a_configuration_file_allows_no_code(cfp, scored: Path, tmp_path: Path, line: str) -> None:
    for content in (line, f"[inspect]\n{line}"):
        (tmp_path / "cfp.toml").write_text(content)
        result = cfp("inspect", "model.pt")
        assert result.code == 2
        assert "a file must not" in result.err


@pytest.mark.parametrize(("value", "accepted"), [("8", True), ('"auto"', True), ('"x"', False), ("0", False)])
def test_an_option_takes_a_number_or_its_word(
    cfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, accepted: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cfp.toml").write_text(f"[shrink]\nround-to = {value}\n")
    result = cfp("shrink", "absent.pt", "absent")
    assert ("cfp.toml" in result.err) is not accepted
    assert ("absent" in result.err) is accepted
