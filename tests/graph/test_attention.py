from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_nets import CLASSES, conv, randomised
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.swin_transformer import SwinTransformerBlockV2
from torchvision.ops import Permute

from cfp_cli.graph import ChannelGraph, channel_sets
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify
from cfp_cli.scoring.score import score

WIDTH, HEADS = 24, 4
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def fused(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(layer.norm(q), layer.norm(k), v)


def by_hand(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (layer.norm(q) * 0.4) @ layer.norm(k).transpose(-2, -1)
    return scores.add(layer.bias[layer.index].permute(2, 0, 1)).softmax(-1) @ v


def with_bias(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = layer.bias[layer.index].permute(2, 0, 1).unsqueeze(0)
    return F.scaled_dot_product_attention(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, attn_mask=bias)


def by_einsum(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("n h i d, n h j d -> n h i j", q, k)
    return torch.einsum("nhij,nhjd->nhid", scores.softmax(-1), v)


def over_channels(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention between the channels of a head, as in XCiT."""
    return ((q.mT @ k).softmax(-1) @ v.mT).mT


Product = Callable[..., Tensor]
PRODUCTS = (fused, by_hand, with_bias, by_einsum, over_channels)


class Attention(nn.Module):
    """Attention over 16 tokens whose counts are attributes, so that its heads need not fill the embedding."""

    def __init__(self, product: Product, *, chunked: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = HEADS, WIDTH // HEADS, WIDTH
        self.product, self.chunked, self.tied = product, chunked, tied
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(self.head_dim)
        self.bias = nn.Parameter(torch.rand(31, HEADS))
        self.register_buffer("index", torch.arange(16)[:, None] - torch.arange(16) + 15)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        if self.chunked:
            parts = [each.view(n, tokens, self.num_heads, -1).transpose(1, 2) for each in self.qkv(x).chunk(3, -1)]
        else:
            size = width // self.num_heads if self.tied else self.head_dim
            parts = list(self.qkv(x).reshape(n, tokens, 3, self.num_heads, size).permute(2, 0, 3, 1, 4).unbind(0))
        y = self.product(self, *parts).transpose(1, 2)
        return self.proj(y.reshape(n, tokens, width if self.tied else self.attn_dim))


class Transformer(nn.Module):
    """A block of attention and one of hidden channels, with residual sums and layer norms."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.position = nn.Parameter(torch.rand(1, 16, WIDTH))
        self.one, self.two = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = attention
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.attention(self.one(x))
        x = x + self.down(F.gelu(self.up(self.two(x))))
        return self.head(x.mean(1))


def rebuilt_rightly(model: nn.Module, images: Tensor = IMAGES) -> ChannelGraph:
    """The network's channel graph, after the proof of random selections."""
    graph = channel_sets(model, images[:1])
    for seed, fraction in enumerate((0.8, 0.5, 0.2)):
        selection, stuck = random_selection(graph, fraction, np.random.default_rng(seed), spread=0.1)
        assert not stuck
        verify(model, rebuild(model, selection), selection, images)
    return graph


def free(graph: ChannelGraph) -> dict[str, int]:
    return {each.name: each.size for each in graph.prunable}


@pytest.mark.parametrize("product", PRODUCTS)
def test_heads_are_units_and_the_embedding_is_free(product: Product) -> None:
    graph = rebuilt_rightly(randomised(Transformer(Attention(product, chunked=product is by_hand))))
    assert free(graph) == {"patch": WIDTH, "attention.qkv": HEADS, "up": 32}
    assert graph.links == ()


def test_heads_fill_the_embedding_where_the_code_takes_its_width_from_the_input() -> None:
    graph = rebuilt_rightly(randomised(Transformer(Attention(by_hand, tied=True))))
    assert free(graph) == {"patch": WIDTH, "attention.qkv": HEADS, "up": 32}
    selection, _ = random_selection(graph, 0.5, np.random.default_rng(0))
    assert len(selection["patch"]) == WIDTH // HEADS * len(selection["attention.qkv"])


@pytest.mark.parametrize("product", [fused, by_hand])
def test_a_single_head_fills_the_embedding_too(product: Product) -> None:
    class Single(nn.Module):
        """One head whose size is an attribute, as in the first stage of PVT."""

        def __init__(self) -> None:
            super().__init__()
            self.head_dim, self.norm = WIDTH, nn.Identity()
            self.q, self.kv, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.bias, self.index = torch.rand(31, 1), torch.arange(16)[:, None] - torch.arange(16) + 15

        def forward(self, x: Tensor) -> Tensor:
            n, tokens, width = x.shape
            q = self.q(x).reshape(n, tokens, 1, self.head_dim).transpose(1, 2)
            k, v = self.kv(x).reshape(n, tokens, 2, 1, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            return self.proj(product(self, q, k, v).transpose(1, 2).reshape(n, tokens, width))

    graph = rebuilt_rightly(randomised(Transformer(Single())))
    # A channel of queries and keys is a unit, and so is one of values; one layer makes keys and values.
    assert free(graph) == {"patch": WIDTH, "attention.q": 2 * WIDTH, "up": 32}
    selection, _ = random_selection(graph, 0.5, np.random.default_rng(0))
    assert 2 * len(selection["patch"]) == len(selection["attention.q"])


class Hard(Attention):
    """Attention whose code has the number of heads."""

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(self.product(self, *parts).transpose(1, 2).flatten(2))


def test_a_hard_coded_number_of_heads_freezes_them() -> None:
    graph = rebuilt_rightly(randomised(Transformer(Hard(by_hand))))
    assert free(graph) == {"patch": WIDTH, "up": 32}


@pytest.mark.parametrize("scaled", [False, True])
def test_attention_without_heads_sums_over_channels(scaled: bool) -> None:
    class Positions(nn.Module):
        """Attention between positions: the channels of queries and keys are summed, those of values pass."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = conv(8, 6), conv(8, 6), conv(8, 10), conv(10, 8)
            self.first, self.head = conv(3, 8), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(F.avg_pool2d(x, 4))
            q, k, v = (each(x).flatten(2).transpose(1, 2) for each in (self.q, self.k, self.v))
            if scaled:
                y = F.scaled_dot_product_attention(q, k, v)
            else:
                y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
            return self.head(self.out(y.transpose(1, 2).unflatten(2, (4, 4))).mean((2, 3)))

    graph = rebuilt_rightly(randomised(Positions()))
    assert free(graph) == {"first": 8, "q": 6, "v": 10, "out": 8}


def test_multihead_attention_of_pytorch_keeps_its_heads_and_embedding_together() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, 2, 4, 32, 40, num_classes=CLASSES)
    nn.init.normal_(model.heads.head.weight)
    graph = rebuilt_rightly(randomised(model))
    assert [each.name for each in graph.sets if each.frozen] == ["heads.head"]
    assert sorted(free(graph).values()) == [4, 4, 32, 40, 40]
    scores = score(model, [(IMAGES, torch.zeros(2)), (IMAGES.flip(0), torch.zeros(2))], graph=graph)
    assert {each.name for each in scores.sets} == set(free(graph))


def test_windows_and_bias_of_a_swin_transformer_follow_the_heads() -> None:
    torch.manual_seed(0)
    model = SwinTransformer([4, 4], 12, [2, 2], [3, 6], [2, 2], num_classes=CLASSES)
    nn.init.normal_(model.head.weight)
    graph = rebuilt_rightly(randomised(model), torch.rand(2, 3, 32, 32))
    assert [each.name for each in graph.sets if each.frozen] == ["head"]
    scores = score(model, [(torch.rand(2, 3, 32, 32), torch.zeros(2))] * 2, graph=graph)
    assert {each.name for each in scores.sets} == set(free(graph))


def test_part_of_a_bias_that_the_code_sets_to_zero_follows_the_heads() -> None:
    block = SwinTransformerBlockV2(WIDTH, HEADS, [2, 2], [1, 1])
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 4, 4), Permute([0, 2, 3, 1]), block, Permute([0, 3, 1, 2]))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, CLASSES))
    graph = rebuilt_rightly(randomised(nn.Sequential(model, head)))
    assert {each.name for each in graph.sets if each.frozen} == {"0.2.attn.cpb_mlp.0", "1.2"}


def test_a_list_of_positions_of_the_size_of_a_count_stays() -> None:
    class Shifted(Attention):
        """Its shift equals its number of heads, as in the first stage of Swin-T."""

        def __init__(self) -> None:
            super().__init__(by_hand, tied=True)
            self.shift, self.notes = [HEADS], [{"heads": HEADS}]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.roll([-self.shift[0]], [1])).roll(self.shift, [1])

    graph = rebuilt_rightly(randomised(Transformer(Shifted())))
    assert free(graph) == {"patch": WIDTH, "attention.qkv": HEADS, "up": 32}


def test_counts_of_a_module_of_which_only_a_method_is_called_follow_the_heads() -> None:
    class Bias(nn.Module):
        """A relative position bias that stores its shape, as in CoAtNet."""

        def __init__(self) -> None:
            super().__init__()
            self.shape = (16, 16, HEADS)
            self.table = nn.Parameter(torch.rand(31, HEADS))
            self.register_buffer("index", torch.arange(16)[:, None] - torch.arange(16) + 15)

        def get(self) -> Tensor:
            return self.table[self.index.view(-1)].view(self.shape).permute(2, 0, 1)

    class Biased(Attention):
        def __init__(self) -> None:
            super().__init__(lambda layer, q, k, v: ((q @ k.mT + layer.relative.get()).softmax(-1)) @ v)
            self.relative = Bias()

    assert free(rebuilt_rightly(randomised(Transformer(Biased())))) == {
        "patch": WIDTH,
        "attention.qkv": HEADS,
        "up": 32,
    }
