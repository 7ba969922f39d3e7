from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small_nets import conv, randomised
from torch import Tensor, nn

import cfp_cli as cfp
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.errors import GraphError, ProofError
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(4))


@dataclass
class Detection:
    """The output of a detector."""

    boxes: Tensor
    scores: list[Tensor]
    classes: int = 3
    aux: Tensor | None = None


class Pair(NamedTuple):
    """The output of a two-headed network."""

    maps: Tensor
    logits: Tensor


class OwnMapping(Mapping[str, Any]):
    """A mapping that PyTorch does not know."""

    def __init__(self, **values: Any) -> None:
        self.values_by_name = values

    def __getitem__(self, name: str) -> Any:
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)


class OwnList(list[Any]):
    """A list that PyTorch does not know."""


@dataclass
class ModelOutput(OrderedDict[str, Any]):
    """The output of a network of Hugging Face: a mapping without its entries that are None, and a dataclass."""

    loss: Tensor | None = None
    maps: Tensor | None = None
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        self.update({each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None})


PACKED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda maps, logits: (maps, logits),
    "list": lambda maps, logits: [maps, logits],
    "dict": lambda maps, logits: {"out": maps, "aux": logits},
    "ordered dict": lambda maps, logits: OrderedDict(out=maps, aux=logits),
    "dataclass": lambda maps, logits: Detection(maps, [logits]),
    "named tuple": Pair,
    "own mapping": lambda maps, logits: OwnMapping(out=maps, aux=[logits]),
    "own list": lambda maps, logits: OwnList([maps, (logits,)]),
    "deque": lambda maps, logits: deque([maps, logits]),
    "model output": lambda maps, logits: ModelOutput(maps=maps, logits=logits),
    "nested": lambda maps, logits: ({"maps": [maps]}, None, 7, (logits, maps.argmax(1))),
}


class Dense(nn.Module):
    """A network with a map of class scores and logits."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 8)
        self.maps, self.head = nn.Conv2d(8, 5, 1), nn.Linear(8, 4)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        y = self.b(torch.relu(self.a(x))).relu()
        return self.pack(self.maps(y), self.head(y.mean((2, 3))))


@pytest.mark.parametrize("kind", PACKED)
def test_every_output_is_frozen_compared_and_pruned_behind(kind: str) -> None:
    model = randomised(Dense(PACKED[kind]))
    graph = channel_sets(model, IMAGES[:1])
    assert {each.name: bool(each.frozen) for each in graph.sets} == {"a": False, "b": False, "maps": True, "head": True}
    assert graph.sets[-1].frozen == ("output of the network",)
    assert [tap.name for tap in graph.taps] == ["", ""] or all(tap.name for tap in graph.taps)
    for seed in range(2):
        selection, stuck = random_selection(graph, 0.5, np.random.default_rng(seed))
        assert not stuck
        rebuilt = rebuild(model, selection)
        assert verify(model, rebuilt, selection, IMAGES) < 1e-4
        assert selection.parameters == sum(p.numel() for p in rebuilt.parameters()) < graph_size(model)
        assert [each.shape for each in tensors_of(rebuilt(IMAGES))] == [(4, 5, 16, 16), (4, 4)]


def graph_size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("layer", ["maps", "head"])
def test_a_wrong_value_of_any_output_fails_the_proof(layer: str) -> None:
    model = randomised(Dense(PACKED["dict"]))
    graph = channel_sets(model, IMAGES[:1])
    selection = Selection(graph, {"b": np.arange(5)})
    rebuilt = rebuild(model, selection)
    with torch.no_grad():
        rebuilt.get_submodule(layer).bias[0] += 1.0
    with pytest.raises(ProofError, match=f"in output {int(layer == 'head')}"):
        verify(model, rebuilt, selection, IMAGES)


def test_a_dense_network_is_scored_and_pruned_from_python() -> None:
    model = randomised(Dense(PACKED["dict"]))
    batches = [(IMAGES, torch.zeros(len(IMAGES)))]
    pruned, plan = cfp.prune(model, cfp.score(model, batches), 0.4, loader=batches)
    assert plan.achieved == pytest.approx(0.4, abs=0.1)
    assert plan.max_abs_logit_error < 1e-4
    assert {name: value.shape for name, value in pruned(IMAGES).items()} == {"out": (4, 5, 16, 16), "aux": (4, 4)}


def test_a_network_without_a_floating_output_is_refused() -> None:
    with pytest.raises(GraphError, match="no floating-point tensor"):
        channel_sets(randomised(Dense(lambda maps, _: maps.argmax(1))), IMAGES[:1])


class WithMasks(nn.Module):
    """A network that also returns values without a gradient, which depend on features that a prune would change."""

    def __init__(self, masks: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8), conv(8, 8)
        self.head, self.masks = nn.Linear(8, 4), masks

    def forward(self, x: Tensor) -> Any:
        features = self.b(torch.relu(self.a(x)))
        return {"logits": self.head(self.c(features.relu()).mean((2, 3))), "masks": self.masks(features)}


@pytest.mark.parametrize("masks", [lambda y: y.argmax(1), lambda y: y > 0, lambda y: (y * 8).to(torch.int32)])
def test_channels_of_integer_outputs_are_frozen(masks: Callable[[Tensor], Tensor]) -> None:
    model = randomised(WithMasks(masks))
    graph = channel_sets(model, IMAGES[:1])
    assert {each.name: bool(each.frozen) for each in graph.sets} == {"a": False, "b": True, "c": False, "head": True}
    selection, _ = random_selection(graph, 0.5, np.random.default_rng(0))
    rebuilt = rebuild(model, selection)
    assert verify(model, rebuilt, selection, IMAGES) < 1e-4
    assert rebuilt(IMAGES)["masks"].shape == model(IMAGES)["masks"].shape


def test_complex_outputs_are_compared() -> None:
    model = randomised(Dense(lambda maps, logits: (torch.fft.fft2(maps), logits)))
    graph = channel_sets(model, IMAGES[:1])
    assert len(graph.traced.outputs) == 2
    selection = Selection(graph, {"a": np.arange(5)})
    rebuilt = rebuild(model, selection)
    assert verify(model, rebuilt, selection, IMAGES) < 1e-2
    with torch.no_grad():
        rebuilt.maps.bias[0] += 1.0
    with pytest.raises(ProofError, match="in output 0"):
        verify(model, rebuilt, selection, IMAGES)
