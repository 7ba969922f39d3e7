"""Every benchmark starts, and the pages that benchmarks write are current."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from cfp_cli.commands.cli import cli
from cfp_cli.comparing.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import their neighbours, as they do when Python runs them as scripts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")


def test_scoring_measures_the_defaults_of_cfp_score() -> None:
    import scoring

    defaults = {parameter.name: parameter.default for parameter in cli.commands["score"].params}
    assert {cell.richness[0] for cell in scoring.CELLS.values()} == {defaults["richness"]}
    assert max(cell.images for cell in scoring.CELLS.values() if cell.goals) == defaults["images"]


def test_experiments_name_known_methods_and_have_results() -> None:
    import experiments

    catalogue = experiments.load()
    used = {method for entry in catalogue.experiments.values() for method in entry.methods}
    assert used <= METHODS.keys() & experiments.METHOD_LABELS.keys()
    assert [name for name in catalogue.experiments if not experiments.rows_of(name)] == []
    for name, collection in (catalogue.figures | catalogue.pooled).items():
        assert set(collection.experiments) <= catalogue.experiments.keys(), name
    for name, figure in catalogue.figures.items():
        assert len({row.ratio for row in figure.rows()}) > 1, name


def test_cfp_accepts_the_command_of_every_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import experiments

    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for name in ("rl.pt", "cl.pt"):
        Path(name).touch()
    for experiment in experiments.load().experiments.values():
        arguments = experiment.command("data", list(experiment.teachers), "cfp-compare", 1)[2:]
        cli.commands["compare"].make_context("compare", arguments)


@pytest.mark.parametrize(("name", "task"), [("compression", "page"), ("coverage", "table"), ("export_table", "table")])
def test_page_is_current(name: str, task: str) -> None:
    script = importlib.import_module(name)
    current = script.PAGE.read_text(encoding="utf-8") == script.page()
    assert current, f"{script.PAGE.name} is not current; run `python benchmarks/{name}.py {task}`"


def test_every_figure_of_an_experiment_is_in_the_data_file() -> None:
    import compression

    drawn = {path.stem for path in compression.FIGURES.glob("neu-*.svg")}
    assert drawn == set(compression.load().figures)
