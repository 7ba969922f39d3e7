"""Commands say when the original only guesses, and when a shrunk network loses too much on the test images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from cfp_cli.commands.figures import guessing_verdict
from cfp_cli.commands.prune import REMEDY, pruned_verdict
from cfp_cli.commands.shrink_figures import loss_on_test
from cfp_cli.measuring.metrics import Metrics, compute_metrics


def measured(predicted: list[int], true: list[int], classes: int = 3) -> Metrics:
    return compute_metrics(torch.tensor(predicted), torch.tensor(true), [f"class {i}" for i in range(classes)])


@pytest.mark.parametrize(
    ("predicted", "true", "guesses"),
    [
        ([1, 2, 0, 0], [0, 1, 2, 0], True),  # worse than guessing
        ([0, 0, 0, 0], [0, 0, 1, 2], True),  # accuracy 50 %, but balanced accuracy 1/3
        ([0, 1, 0, 0], [0, 1, 2, 2], False),
        ([1, 1], [0, 0], False),  # one class says nothing
        ([1, 0], [0, 1], True),  # classes without images do not count
    ],
)
def test_the_rule(predicted: list[int], true: list[int], guesses: bool) -> None:
    said = guessing_verdict(measured(predicted, true), "net.pt")
    assert len(said) == guesses
    assert all("net.pt has a balanced accuracy of" in line and "--normalise" in line for line in said)


@pytest.mark.parametrize(
    ("predicted", "words"),
    [
        ([0, 0, 0, 0, 0, 0], "collapsed: pruned.pt"),
        ([1, 1, 2, 2, 0, 0], "no better than guessing: pruned.pt"),
        ([0, 0, 1, 1, 2, 0], None),
    ],
)
def test_a_pruned_network_gets_one_line_and_the_remedy(predicted: list[int], words: str | None) -> None:
    said = pruned_verdict(measured(predicted, [0, 0, 1, 1, 2, 2]), "pruned.pt")
    assert len(said) == (words is not None)
    assert all(line.startswith(str(words)) and line.endswith(REMEDY) for line in said)


def test_eval_and_prune_say_it(cfp, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = " ".join(cfp("eval", model, images).out.split())
    assert "collapsed: " in shown
    assert "no better than guessing" not in shown  # one line with the same advice is enough
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "collapse", None)
        shown = " ".join(cfp("eval", model, images).out.split())
    assert "no better than guessing: model.pt has a balanced accuracy of 16.67%" in shown
    assert cfp("score", model, images, "--images", 8).code == 0
    planned = cfp("prune", "--ratio", 0.3, "--dry-run")
    assert "in brackets" not in planned.out
    pruned = cfp("prune", "--ratio", 0.3)
    assert "no better than guessing: the original" in " ".join(pruned.out.split())


@pytest.mark.parametrize(
    ("after", "metric", "words", "too_much"),
    [
        ([0, 1, 2, 2], "macro_f1", "loses 0.00 points of macro-F1 and loses 0.00 points of accuracy", False),
        ([0, 1, 2, 0], "macro_f1", "loses 25.00 points of accuracy", True),
        ([0, 1, 2, 0], "agreement", "loses 25.00 points of accuracy", True),
    ],
)
def test_the_loss_on_the_test_images(after: list[int], metric: str, words: str, too_much: bool) -> None:
    true = [0, 1, 2, 2]
    result = SimpleNamespace(
        original_test=measured(true, true), test=measured(after, true), metric=metric, max_loss=0.5
    )
    (line,) = loss_on_test(cast(Any, result))
    assert words in line
    assert ("more than --max-loss 0.5" in line) == too_much
    result.test, result.original_test = result.original_test, result.test
    (line,) = loss_on_test(cast(Any, result))
    assert "more than" not in line
    assert ("gains 25.00 points of accuracy" in line) == too_much
    result.test = None
    assert loss_on_test(cast(Any, result)) == ()
