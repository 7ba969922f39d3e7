"""The allocation by measured loss: a search that never returns a candidate worse than where it began."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cfp_cli.foundation.errors import DataError, TargetError, UsageError
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.pruning import reconstruct as reconstruct_module
from cfp_cli.pruning.measured import CLEARLY, MeasuredLoss, search
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.planning import make_plan
from cfp_cli.pruning.pruner import Pruner
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.reconstruct import POSITIONS, RecordedOutputs, reconstruct
from cfp_cli.scoring.score import score
from cfp_cli.scoring.scores import Scores

SETS = ("a", "b", "c", "d")
EQUAL = dict.fromkeys(SETS, 1.0)
CHANNELS = 400


def counts_of(shares: dict[str, float]) -> dict[str, int]:
    """Share CHANNELS over the sets, all of equal cost."""
    total = sum(shares.values())
    return {name: round(CHANNELS * share / total) for name, share in shares.items()}


def weighted(weights: tuple[float, ...]):
    """The loss Σ w² / n: by Lagrange it is smallest where the counts n are proportional to w."""
    return lambda counts: sum(w * w / max(counts[name], 1) for name, w in zip(SETS, weights, strict=True))


def powers(weights: tuple[float, ...]):
    """The family of the shares w^p: 1 is the minimum of `weighted`."""
    return lambda power: {name: w**power for name, w in zip(SETS, weights, strict=True)}


WEIGHTS = (1.0, 2.0, 3.0, 4.0)
LEAST = sum(WEIGHTS) ** 2 / CHANNELS


def test_the_best_of_the_family_is_found_with_few_candidates() -> None:
    best = search(powers(WEIGHTS), counts_of, weighted(WEIGHTS), candidates=6)
    assert best.shares == powers(WEIGHTS)(1.0)
    assert best.loss == pytest.approx(LEAST, rel=0.01)
    for power, found in ((0.95, 1.0), (1.53, 1.5), (2.25, 2.25), (0.05, 0.0)):
        targets = tuple(w**power for w in WEIGHTS)
        assert search(powers(WEIGHTS), counts_of, weighted(targets), candidates=9).shares == powers(WEIGHTS)(found)


@pytest.mark.parametrize(("power", "fourth"), [(0.3, 0.25), (0.7, 0.75), (0.0, 0.25), (1.4, 1.5)])
def test_the_fourth_candidate_lies_on_the_better_side(power: float, fourth: float) -> None:
    tried: list[float] = []

    def family(number: float) -> dict[str, float]:
        tried.append(number)
        return powers(WEIGHTS)(number)

    search(family, counts_of, weighted(tuple(w**power for w in WEIGHTS)), candidates=4)
    assert tried[:4] == [0.5, 1.0, 0.0, fourth]


def test_the_search_finds_the_minimum_of_a_known_loss() -> None:
    best = search(lambda _: EQUAL, counts_of, weighted(WEIGHTS), candidates=200)
    assert sorted(best.counts, key=lambda name: best.counts[name]) == list(SETS)
    # Changes that gain less than `CLEARLY` each are left.
    assert best.loss == pytest.approx(LEAST, rel=3 * CLEARLY)
    assert best.loss < 0.9 * weighted(WEIGHTS)(counts_of(EQUAL))
    assert best.loss == weighted(WEIGHTS)(best.counts)


@given(weights=st.tuples(*[st.floats(0.1, 10)] * 4), candidates=st.integers(1, 30), seed=st.integers(0, 5))
def test_no_result_is_clearly_worse_than_another_and_no_candidate_is_measured_twice(
    weights: tuple[float, ...], candidates: int, seed: int
) -> None:
    measured: list[tuple[int, ...]] = []

    def loss(counts: dict[str, int]) -> float:
        measured.append(tuple(counts.values()))
        return weighted(weights)(counts)

    family = powers((1.0, 1.0, 2.0, 3.0))
    best = search(family, counts_of, loss, candidates=candidates, seed=seed)
    assert len(measured) == len(set(measured)) <= candidates
    losses = [weighted(weights)(dict(zip(SETS, each, strict=True))) for each in measured]
    assert best.loss * (1 - CLEARLY) <= min(losses)
    # The default rule is among the candidates, and is never left for a worse one.
    assert best.loss <= losses[0]
    assert measured[0] == tuple(counts_of(family(0.5)).values())
    assert search(family, counts_of, weighted(weights), candidates=candidates, seed=seed) == best


def test_small_gains_are_left() -> None:
    """A change of one set that gains less than the images vary is not made."""
    found = search(lambda _: EQUAL, counts_of, lambda counts: 1 - 1e-5 * counts["a"], candidates=100)
    assert found.shares == EQUAL


def test_shares_that_miss_the_target_are_passed_over() -> None:
    def only_small(shares: dict[str, float]) -> dict[str, int]:
        if shares["d"] > 1.1:
            raise TargetError("cannot remove")
        return counts_of(shares)

    def family(power: float) -> dict[str, float]:
        return EQUAL if power > 1 else {**EQUAL, "d": 2.0}

    best = search(family, only_small, weighted((1, 1, 1, 9)), candidates=60)
    assert best.shares["d"] <= 1.1
    with pytest.raises(TargetError, match="cannot remove"):
        search(lambda _: {**EQUAL, "d": 2.0}, only_small, weighted((1, 1, 1, 9)), candidates=60)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 12), (12, 16), (16, 24)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def loader() -> list[tuple[Tensor, Tensor]]:
    images = torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return [(batch, torch.zeros(len(batch))) for batch in images.split(12)]


@pytest.fixture(scope="module")
def scores(network: nn.Module, loader: list[tuple[Tensor, Tensor]]) -> Scores:
    return score(network, loader)


def half(network: nn.Module, image: Tensor) -> Selection:
    graph = channel_sets(network, image)
    return Selection(graph, {each.name: np.arange(each.size // 2) for each in graph.prunable})


@pytest.mark.parametrize("budget", [1 << 30, 1 << 16])
def test_a_fit_to_recorded_outputs_is_the_refit(
    network: nn.Module, loader: list[tuple[Tensor, Tensor]], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all positions recorded, the weights equal those of `reconstruct`; with little memory they stay finite."""
    selection = half(network, loader[0][0][:1])
    expected, found = rebuild(network, selection).eval(), rebuild(network, selection).eval()
    number = reconstruct(expected, network, selection, loader)
    monkeypatch.setattr(reconstruct_module, "BUDGET", budget)
    recorded = RecordedOutputs.of(network, selection.graph, [images for images, _ in loader], POSITIONS)
    assert recorded.fit(found, selection) == number
    stored = sum(each.values.nbytes for targets in recorded.targets.values() for each in targets)
    if budget == 1 << 30:
        for (name, first), second in zip(expected.state_dict().items(), found.state_dict().values(), strict=True):
            torch.testing.assert_close(first, second, msg=name)
    else:
        assert budget / 2 < stored <= budget
        assert torch.isfinite(found(loader[0][0])).all()


def test_the_loss_grows_with_the_removed_channels(network: nn.Module, loader: list[tuple[Tensor, Tensor]]) -> None:
    graph = channel_sets(network, loader[0][0][:1])
    loss = MeasuredLoss(network, graph, loader)
    assert loss(Selection(graph)) < 1e-3
    one_less, two = (
        loss(Selection(graph, {each.name: np.arange(count(each.size)) for each in graph.prunable}))
        for count in (lambda size: size - 1, lambda size: 2)
    )
    assert 0.001 < one_less < two


@pytest.mark.parametrize("size", [48, 20, 12, 1])
def test_the_loss_does_not_depend_on_how_images_are_batched(
    network: nn.Module, loader: list[tuple[Tensor, Tensor]], size: int
) -> None:
    images = torch.cat([each for each, _ in loader])
    graph = channel_sets(network, images[:1])
    found = []
    for batches in ([images], images.split(size)):
        loss = MeasuredLoss(network, graph, [(each, torch.zeros(len(each))) for each in batches])
        found.append(loss(half(network, images[:1])))
    # Every batch has sampled positions of its own.
    assert found[1] == pytest.approx(found[0], rel=0.25)
    with pytest.raises(DataError, match="two training images, one to fit and one to measure, not 1"):
        MeasuredLoss(network, graph, [(images[:1], torch.zeros(1))])


def test_the_plan_meets_the_target_and_has_the_smaller_loss(
    network: nn.Module, loader: list[tuple[Tensor, Tensor]], scores: Scores
) -> None:
    graph = channel_sets(network, loader[0][0][:1])
    loss = MeasuredLoss(network, graph, loader)
    measured = PruneOptions(ratio=0.7, target="macs", allocation="measured", candidates=12)
    pruned, plan = Pruner(loader).prune(network, scores, measured, graph=graph)
    assert plan.achieved == pytest.approx(0.7, abs=0.005)
    assert plan.options["allocation"] == "measured"
    assert plan.options["candidates"] == 12
    assert sum(each.numel() for each in pruned.parameters()) == plan.params_after
    for rule in ("uniform", "redundancy"):
        other = make_plan(network, scores, PruneOptions(ratio=0.7, target="macs", allocation=rule), graph=graph)
        assert loss(Selection(graph, plan.kept)) <= loss(Selection(graph, other.kept))


@pytest.mark.parametrize(
    ("target", "images", "rule"),
    [
        ("macs", 0, "redundancy"),
        ("macs", 1, "redundancy"),
        ("macs", 31, "redundancy"),
        ("macs", 32, "measured"),
        ("macs", 48, "measured"),
        ("params", 48, "redundancy"),
        ("bytes", 48, "redundancy"),
    ],
)
def test_without_an_allocation_it_is_measured_where_there_are_enough_images(
    network: nn.Module, loader: list[tuple[Tensor, Tensor]], scores: Scores, target: str, images: int, rule: str
) -> None:
    graph = channel_sets(network, loader[0][0][:1])
    every = torch.cat([each for each, _ in loader])[:images]
    batches = [(part, torch.zeros(len(part))) for part in every.split(13)] if images else None
    plans = [
        make_plan(
            network, scores, PruneOptions(ratio=0.6, target=target, allocation=allocation), graph=graph, loader=given
        )
        for allocation, given in ((None, batches), (rule, loader if images < 32 else batches))
    ]
    assert plans[0].options == plans[1].options
    assert plans[0].options["allocation"] == rule
    assert plans[0].sets == plans[1].sets


def test_what_the_allocation_needs(network: nn.Module, loader: list[tuple[Tensor, Tensor]], scores: Scores) -> None:
    graph = channel_sets(network, loader[0][0][:1])
    with pytest.raises(UsageError, match="needs training images"):
        make_plan(network, scores, PruneOptions(ratio=0.5, allocation="measured"), graph=graph)
    with pytest.raises(UsageError, match="--allocation measured needs --ratio"):
        PruneOptions(allocation="measured", rates="[0.5]*4")
    with pytest.raises(UsageError, match="0 candidates"):
        PruneOptions(ratio=0.5, allocation="measured", candidates=0)


class Heads(nn.Module):
    """A network with an output that varies over images and one that does not."""

    def __init__(self, constant: float, varying: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 12, 3, stride=2)
        self.varying, self.constant = nn.Linear(12, 3), nn.Linear(12, 2)
        with torch.no_grad():
            self.constant.weight.zero_()
            self.constant.bias.fill_(constant)
            self.varying.weight.mul_(varying)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.features(x).relu().mean((2, 3))
        return self.varying(y), self.constant(y)


@pytest.mark.parametrize("varying", [1.0, 0.0])
def test_a_constant_output_does_not_decide(loader: list[tuple[Tensor, Tensor]], varying: float) -> None:
    """Beside an output that varies it does not count; alone it is compared by its size."""
    network = Heads(1000.0, varying).eval()
    graph = channel_sets(network, loader[0][0][:1])
    loss = MeasuredLoss(network, graph, loader)
    losses = [loss(Selection(graph, {each.name: np.arange(kept) for each in graph.prunable})) for kept in (12, 6, 1)]
    assert all(0 <= each < 10 for each in losses)
    if varying:
        assert losses[0] < 1e-4 < losses[1] < losses[2]


def test_a_single_unused_image_gives_finite_losses(network: nn.Module, loader: list[tuple[Tensor, Tensor]]) -> None:
    graph = channel_sets(network, loader[0][0][:1])
    loss = MeasuredLoss(network, graph, [(loader[0][0][:4], torch.zeros(4))])
    assert 0 < loss(Selection(graph, {each.name: np.arange(2) for each in graph.prunable})) < 1000


@pytest.mark.parametrize("candidates", [1, 2, 4, 20])
def test_without_a_finite_loss_the_search_stays_where_it_began(candidates: int) -> None:
    best = search(powers(WEIGHTS), counts_of, lambda _: float("inf"), candidates=candidates)
    assert best.shares == powers(WEIGHTS)(0.5)
