from __future__ import annotations

from dataclasses import fields
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cfp_cli.commands.cli import cli
from cfp_cli.commands.training import take_options, training_options
from cfp_cli.foundation.errors import UsageError
from cfp_cli.training.options import PRESETS, TrainOptions


def parsed(*arguments: str, preset: str = "student", defaults: dict[str, Any] | None = None) -> TrainOptions:
    """The options that a command with `training_options` gets from its command line and configuration file."""
    found: list[TrainOptions] = []

    @click.command(context_settings={"default_map": defaults or {}})
    @training_options(preset, distillation=True)
    def command(resume: bool, **values: Any) -> None:
        found.append(take_options(values, seed=7))
        assert values == {}

    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_sets_the_defaults_of_a_command(name: str) -> None:
    assert parsed(preset=name) == TrainOptions.preset(name, seed=7)
    assert parsed("--preset", name) == TrainOptions.preset(name, seed=7)


def test_explicit_values_replace_those_of_the_preset() -> None:
    # 0.001 is also the default of the command.
    options = parsed("--preset", "paper", "--lr", "0.001", "--compile")
    assert options == TrainOptions.preset("paper", lr=1e-3, compile=True, seed=7)


def test_values_of_the_configuration_file_replace_those_of_the_preset() -> None:
    options = parsed("--preset", "paper", "--epochs", "5", defaults={"epochs": 9, "ema": 0.5})
    assert options == TrainOptions.preset("paper", epochs=5, ema=0.5, seed=7)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown preset 'rl'; use one of paper, teacher, student"):
        TrainOptions.preset("rl")


def test_options_without_a_preset_are_refused() -> None:
    with pytest.raises(TypeError, match="epochs"):
        TrainOptions()


def test_every_field_is_an_option() -> None:
    for name, left_out in (
        ("train", {"temperature", "label_weight", "freeze_norm", "val_views"}),
        ("finetune", set()),
        ("compare", {"seed"}),
    ):
        parameters = {parameter.name for parameter in cli.commands[name].params}
        assert {field.name for field in fields(TrainOptions)} - left_out <= parameters
