from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.comparing.methods import METHODS
from cfp_cli.comparing.published import published_plan
from cfp_cli.comparing.students import Students, recovery_epochs
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.data.synthetic import generate
from cfp_cli.foundation.errors import TargetError
from cfp_cli.graph import channel_sets
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.ranking import Ranking
from cfp_cli.scoring.clusters import ClusterRule
from cfp_cli.scoring.score import score


def network(*widths: int, classes: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inner, outer in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(inner, outer, 3, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)).eval()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(generate(tmp_path_factory.mktemp("students") / "data", per_class=6, test_per_class=2, size=64))


@pytest.fixture(scope="module")
def students(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Students:
    model = network(24, 36, 48, classes=len(dataset.classes))
    describe(model, ModelSpec("tiny", dataset.classes, input_size=(24, 24)))
    return Students(model, dataset, tmp_path_factory.mktemp("folder"), 12, torch.device("cpu"))


def test_the_published_selection_keeps_what_the_scripts_keep_at_the_ratio() -> None:
    model = network(32, 48, classes=4)
    batches = [(torch.rand(8, 3, 24, 24, generator=torch.Generator().manual_seed(1)), torch.zeros(8))]
    graph = channel_sets(model, batches[0][0][:1])
    scores = score(model, batches, graph=graph)
    made = published_plan(model, scores, PruneOptions(ratio=0.6, clusters="2"), graph=graph)
    assert abs(made.achieved - 0.6) <= 0.005
    assert made.requested == 0.6
    for group in scores.sets:
        ranking = Ranking.of(group, ClusterRule(count=2))
        # One of the floors of (1 - rate) x size, for some rate.
        ways = [ranking.keep_published(rate) for rate in np.linspace(0, 0.999, 2000)]
        assert any(np.array_equal(made.kept[group.name], way) for way in ways)


def test_the_published_selection_that_cannot_meet_the_ratio_is_refused() -> None:
    model = network(4, 4, classes=4)
    batches = [(torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(1)), torch.zeros(4))]
    graph = channel_sets(model, batches[0][0][:1])
    scores = score(model, batches, graph=graph)
    with pytest.raises(TargetError, match=r"cannot remove 99\.00% of the parameters"):
        published_plan(model, scores, PruneOptions(ratio=0.99, clusters="2"), graph=graph)


@pytest.mark.parametrize("epochs", [1, 2, 3, 8, 40])
def test_recoveries_and_fine_tuning_have_all_epochs_together(epochs: int) -> None:
    for method in METHODS.values():
        recovering = recovery_epochs(method, epochs)
        assert recovering >= 0
        assert epochs - (method.rounds - 1) * recovering >= 1
    assert recovery_epochs(METHODS["cfp"], epochs) == 0
    assert recovery_epochs(METHODS["cfp-rounds"], 40) == 5


def test_rounds_train_between_them_and_reach_the_ratio(students: Students) -> None:
    student, made = students.make(METHODS["cfp-rounds"], 0.7, 0, 1)
    assert made.options["rounds"] == 3
    assert abs(made.achieved - 0.7) <= 0.005
    # Recovered weights are none of the original's.
    original = students.original[0].weight[torch.as_tensor(made.kept[made.sets[0].name])]
    assert not torch.allclose(student[0].weight, original)
    assert torch.equal(students.make(METHODS["cfp-rounds"], 0.7, 0, 1)[0][0].weight, student[0].weight)


def test_another_richness_has_scores_of_its_own(students: Students) -> None:
    students.make(METHODS["cfp"], 0.5, 3, 0)
    _, made = students.make(METHODS["cfp-entropy"], 0.5, 3, 0)
    assert made.options["richness"] == "entropy"
    assert {path.name for path in Path(students.folder).glob("scores-*-3.*")} == {
        "scores-explained-variance-3.safetensors",
        "scores-entropy-3.safetensors",
    }
    # Scores of other images are not taken.
    other = replace(students, images=10)
    assert other.make(METHODS["cfp"], 0.5, 3, 0)[1].options["images"] == 10


def test_another_choice_of_channels_at_the_counts_of_a_plan(students: Students) -> None:
    plan = students.make(METHODS["cfp"], 0.6, 0, 0)[1]
    other = students.make(METHODS["random"], 0.6, 0, 0, like=plan)[1]
    assert [len(each.kept) for each in other.sets] == [len(each.kept) for each in plan.sets]
    assert [each.kept for each in other.sets] != [each.kept for each in plan.sets]


def test_plain_methods_keep_the_allocation_they_name(students: Students) -> None:
    for name in ("cfp-redundancy", "hrank"):
        assert students.make(METHODS[name], 0.5, 0, 0)[1].options["allocation"] == METHODS[name].allocation


def test_round_8_keeps_multiples_of_eight(students: Students) -> None:
    _, made = students.make(METHODS["cfp-round-8"], 0.6, 0, 0)
    assert {len(kept) % 8 for name, kept in made.kept.items() if name != "11"} == {0}
