from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy

from cfp_cli.comparing.criteria import CRITERIA, WEIGHT_CRITERIA, rescored
from cfp_cli.graph import channel_sets
from cfp_cli.scoring.score import score


class Residual(nn.Module):
    """Two layers make the same channels, so that their importances are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.back = nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.back(torch.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = Residual().eval()
    batches = [(torch.rand(8, 3, 12, 12), torch.randint(0, 4, (8,))) for _ in range(2)]
    graph = channel_sets(model, batches[0][0][:1])
    return model, graph, batches, score(model, batches, graph=graph)


def importance(case, criterion: str, seed: int = 0) -> dict[str, np.ndarray]:
    model, graph, batches, scores = case
    found = rescored(scores, criterion, model, graph, batches, seed)
    assert found.richness == criterion
    return {group.name: group.richness for group in found.sets}


def rows(weight: torch.Tensor) -> np.ndarray:
    return weight.detach().double().flatten(1).numpy()


@pytest.mark.parametrize(
    ("criterion", "measure"),
    [
        ("l1", lambda w: np.abs(w).sum(1)),
        ("l2", lambda w: np.sqrt((w**2).sum(1))),
        ("fpgm", lambda w: np.array([np.linalg.norm(w - row, axis=1).sum() for row in w])),
    ],
)
def test_weight_criteria_are_those_of_their_papers(case, criterion: str, measure) -> None:
    model = case[0]
    found = importance(case, criterion)
    alone = measure(rows(model.inner.weight))
    np.testing.assert_allclose(found["inner"], alone / alone.mean(), rtol=1e-5)
    # The residual stream is made by two layers, each scaled to mean 1.
    both = [measure(rows(layer.weight)) for layer in (model.stem, model.back)]
    np.testing.assert_allclose(found["stem"], np.mean([one / one.mean() for one in both], axis=0), rtol=1e-5)


def test_taylor_is_the_squared_product_of_weight_and_gradient(case) -> None:
    model, _, batches, _ = case
    expected = np.zeros(5)
    for images, labels in batches:
        (gradient,) = torch.autograd.grad(cross_entropy(model(images), labels), [model.inner.weight])
        expected += (gradient * model.inner.weight).detach().flatten(1).sum(1).square().numpy()
    np.testing.assert_allclose(importance(case, "taylor")["inner"], expected / expected.mean(), rtol=1e-4)


def test_group_norm_is_over_all_that_goes_with_a_channel(case) -> None:
    model = case[0]
    inner = (rows(model.inner.weight) ** 2).sum(1) + model.inner.bias.detach().double().numpy() ** 2
    read = (model.back.weight.detach().double().numpy() ** 2).sum((0, 2, 3))
    np.testing.assert_allclose(importance(case, "group-norm")["inner"], np.sqrt(inner + read), rtol=1e-6)
    stream = sum(
        (rows(layer.weight) ** 2).sum(1) + layer.bias.detach().double().numpy() ** 2
        for layer in (model.stem, model.back)
    )
    stream = stream + (model.inner.weight.detach().double().numpy() ** 2).sum((0, 2, 3))
    stream = stream + (model.head.weight.detach().double().numpy() ** 2).sum(0)
    np.testing.assert_allclose(importance(case, "group-norm")["stem"], np.sqrt(stream), rtol=1e-6)


def test_random_follows_its_seed(case) -> None:
    assert np.array_equal(importance(case, "random", 3)["stem"], importance(case, "random", 3)["stem"])
    assert not np.array_equal(importance(case, "random", 3)["stem"], importance(case, "random", 4)["stem"])


def test_distances_stay_and_unknown_criteria_are_named(case) -> None:
    model, graph, batches, scores = case
    for criterion in CRITERIA:
        found = rescored(scores, criterion, model, graph, batches, 0)
        assert all(
            np.array_equal(a.distance, b.distance) and a.effective == b.effective
            for a, b in zip(scores.sets, found.sets, strict=True)
        )
    with pytest.raises(ValueError, match="no criterion 'l3'"):
        rescored(scores, "l3", model, graph, batches, 0)


class Filtered(nn.Module):
    """A fixed filter, whose weight is a buffer, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.register_buffer("filter", torch.rand(6, 1, 3, 3))
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(conv2d(self.stem(x), self.filter, groups=len(self.filter)).relu().mean((2, 3)))


@pytest.mark.parametrize("criterion", [*WEIGHT_CRITERIA, "taylor"])
def test_fixed_filters_have_no_say(criterion: str) -> None:
    torch.manual_seed(0)
    model = Filtered().eval()
    batches = [(torch.rand(8, 3, 12, 12), torch.randint(0, 4, (8,)))]
    graph = channel_sets(model, batches[0][0][:1])
    scores = score(model, batches, graph=graph)
    (found,) = rescored(scores, criterion, model, graph, batches, 0).sets
    assert found.name == "stem"
    # Relative to the mean over the one layer that has weights to judge.
    assert found.richness.mean() == pytest.approx(1)
