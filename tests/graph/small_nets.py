"""Small networks, one for every way in which operators can tie channels together."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 3


class Net(nn.Module):
    """Named layers and a forward function; a linear head on the global mean unless the function gives logits itself."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], head: int, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.head = nn.Linear(head, CLASSES)
        self.body = forward

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self, x)
        return self.head(y.mean((2, 3))) if y.dim() == 4 else self.head(y)


def conv(a: int, b: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, padding=1, **options)  # type: ignore[arg-type]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode with no statistic, scale or bias left at its neutral initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.dim() == 1:
                spread = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(spread + 0.5 if "var" in name or "weight" in name else spread - 0.5)
    return model.eval()


class Fire(nn.Module):
    """A branch whose code writes a channel count down."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 8)
        self.second = conv(4, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)[:, :4]).mean((2, 3)))


class Filter(nn.Module):
    """A fixed depthwise filter in a buffer, which keeps its number of channels in an attribute."""

    def __init__(self, channels: int, *, persistent: bool = False, attribute: str = "channels") -> None:
        super().__init__()
        weight = torch.arange(1.0, 9 * channels + 1).reshape(channels, 1, 3, 3) / (9 * channels)
        self.register_buffer("filter", weight, persistent=persistent)
        setattr(self, attribute, channels)
        self.attribute = attribute

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filter, groups=getattr(self, self.attribute))


class Scale(nn.Module):
    """A fixed vector in a buffer that no state dict holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, channels).view(1, channels, 1, 1), persistent=False)


def squeeze_excite(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.a(x))
    gate = torch.sigmoid(net.up(F.relu(net.down(F.adaptive_avg_pool2d(y, 1)))))
    return net.b(y * gate)


def spatial_attention(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.a(x))
    return net.b(y * torch.sigmoid(net.one(y)))


def shared(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.a(x))
    return net.b(net.s(F.relu(net.s(y))))


class Tied(nn.Module):
    """Two layers with one weight and a bias each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = conv(channels, channels), conv(channels, channels)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x)))


def tied(net: Net, x: Tensor) -> Tensor:
    return net.b(F.relu(net.s(F.relu(net.a(x)))))


def shared_norm(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.a(x))
    return net.b(F.relu(net.n(net.s(y))) - F.relu(net.n(net.t(y))))


def norm_of_places(net: Net, x: Tensor) -> Tensor:
    """Batch norm over the sixteen places of a map, behind a linear layer over its channels."""
    places = F.adaptive_avg_pool2d(F.relu(net.a(x)), 4).flatten(2).transpose(1, 2)
    return F.relu(net.n(net.s(places))).mean(1)


def radix(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.a(x))
    n, c, h, w = y.shape
    return net.b(y.view(n, 2, c // 2, h, w).sum(1))


def split_attention(net: Net, x: Tensor) -> Tensor:
    y = F.relu(net.a(x))
    n, c, h, w = y.shape
    parts = y.view(n, 2, c // 2, h, w)
    gate = net.up(F.relu(net.down(parts.sum(1).mean((2, 3), keepdim=True))))
    gate = gate.view(n, 1, 2, -1).transpose(1, 2).softmax(1).reshape(n, -1)
    return net.b((parts * gate.view(n, 2, c // 2, 1, 1)).sum(1))


def octave(net: Net, x: Tensor) -> Tensor:
    high, low = net.hh(x), net.hl(F.avg_pool2d(x, 2))
    high, low = F.relu(high), F.relu(low)
    high_sum = net.h2h(high) + F.interpolate(net.l2h(low), scale_factor=2.0, mode="nearest")
    low_sum = net.h2l(F.avg_pool2d(high, 2)) + net.l2l(low)
    return net.b(torch.cat([high_sum, F.interpolate(low_sum, scale_factor=2.0)], 1))


def shuffled(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    n, c, h, w = y.shape
    y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    return net.c(net.bn(net.depth(y)))


def halves_after_shuffle(net: Net, x: Tensor) -> Tensor:
    first, second = F.channel_shuffle(torch.cat([net.a(x), net.b(x)], 1), 2).chunk(2, 1)
    return net.c(torch.cat([net.d(first), second], 1))


def manual_shuffle_up(net: Net, x: Tensor) -> Tensor:
    return net.b(F.pixel_shuffle(net.a(x), 2))


# name: (network, sizes by set, sets that must be frozen)


class SmallNet(NamedTuple):
    """A network and the channel sets that it has.

    Attributes:
        build: makes the network.
        sets: size of each set by name, in network order.
        frozen: names of the sets that may not be pruned, except for the head.
    """

    build: Callable[[], nn.Module]
    sets: dict[str, int]
    frozen: set[str]


NETS: dict[str, SmallNet] = {}


def expect(
    sets: dict[str, int], *, name: str, frozen: set[str] | None = None
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Enter a network into `NETS` with the sets that it is expected to have."""

    def enter(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        NETS[name] = SmallNet(build, sets, frozen or set())
        return build

    return enter


@expect({"a": 8, "b": 5, "head": 3}, name="plain")
def plain() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.relu(m.bn(m.a(x))))

    return Net(forward, 5, a=conv(3, 8), bn=nn.BatchNorm2d(8), b=conv(8, 5))


@expect({"a": 8, "b": 6, "head": 3}, name="residual")
def residual() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return (lambda y: y + m.c(F.relu(m.b(y))))(m.a(x))

    return Net(forward, 8, a=conv(3, 8), b=conv(8, 6), c=conv(6, 8))


@expect({"a": 8, "c": 4, "head": 3}, name="subtract and scale")
def subtract_and_scale() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.c((m.a(x) - m.b(x)) * m.scale / 2 + m.shift)

    return Net(
        forward,
        4,
        a=conv(3, 8),
        b=conv(3, 8),
        c=conv(8, 4),
        scale=nn.Parameter(torch.rand(8, 1, 1) + 0.5),
        shift=nn.Parameter(torch.rand(1, 8, 1, 1)),
    )


@expect({"a": 8, "b": 4, "head": 3}, name="position bias")
def position_bias() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x) + m.p)

    return Net(forward, 4, a=conv(3, 8), b=conv(8, 4), p=nn.Parameter(torch.rand(8, 16, 16)))


@expect({"a": 5, "b": 7, "c": 4, "head": 3}, name="concatenation")
def concatenation() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.c(m.bn(torch.cat([m.a(x), m.b(x), x], 1)))

    return Net(
        forward,
        4,
        a=conv(3, 5),
        b=conv(3, 7),
        bn=nn.BatchNorm2d(15),
        c=conv(15, 4),
    )


@expect({"a": 8, "d": 4, "head": 3}, name="concatenation added to a convolution")
def concatenation_added_to_a_convolution() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.d(torch.cat([m.a(x), m.b(x)], 1) + m.c(x))

    return Net(
        forward,
        4,
        a=conv(3, 4),
        b=conv(3, 4),
        c=conv(3, 8),
        d=conv(8, 4),
    )


@expect({"a": 8, "down": 4, "b": 4, "head": 3}, name="squeeze excite")
def squeeze_excite_net() -> nn.Module:
    return Net(squeeze_excite, 4, a=conv(3, 8), down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1), b=conv(8, 4))


@expect({"a": 4, "down": 4, "b": 4, "head": 3}, name="split attention")
def split_attention_net() -> nn.Module:
    return Net(split_attention, 4, a=conv(3, 8), down=nn.Conv2d(4, 4, 1), up=nn.Conv2d(4, 8, 1), b=conv(4, 4))


@expect({"a": 8, "one": 1, "b": 4, "head": 3}, frozen={"one"}, name="spatial attention is not coupled")
def spatial_attention_is_not_coupled() -> nn.Module:
    return Net(spatial_attention, 4, a=conv(3, 8), one=nn.Conv2d(8, 1, 1), b=conv(8, 4))


@expect({"a": 8, "c": 4, "head": 3}, name="depthwise")
def depthwise() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.c(m.b(m.a(x)))

    return Net(forward, 4, a=conv(3, 8), b=conv(8, 8, groups=8), c=conv(8, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="fixed filter that no state dict holds")
def fixed_filter_that_no_state_dict_holds() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.f(m.a(x)))

    return Net(forward, 4, a=conv(3, 8), f=Filter(8), b=conv(8, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="fixed filter that state dicts hold")
def fixed_filter_that_state_dicts_hold() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.f(m.a(x)))

    return Net(forward, 4, a=conv(3, 8), f=Filter(8, persistent=True), b=conv(8, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="fixed filter with a count of its own")
def fixed_filter_with_a_count_of_its_own() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.f(m.a(x)))

    return Net(forward, 4, a=conv(3, 8), f=Filter(8, attribute="mine"), b=conv(8, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="fixed scale that no state dict holds")
def fixed_scale_that_no_state_dict_holds() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x) * m.s.scale)

    return Net(forward, 4, a=conv(3, 8), s=Scale(8), b=conv(8, 4))


@expect({"a": 6, "c": 4, "head": 3}, name="depthwise with multiplier")
def depthwise_with_multiplier() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.c(m.b(m.a(x)))

    return Net(forward, 4, a=conv(3, 6), b=conv(6, 18, groups=6), c=conv(18, 4))


@expect({"a": 8, "b": 12, "c": 4, "head": 3}, name="grouped")
def grouped() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.c(m.b(m.a(x)))

    return Net(forward, 4, a=conv(3, 8), b=conv(8, 12, groups=4), c=conv(12, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="dilated and strided")
def dilated_and_strided() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x))

    return Net(forward, 4, a=nn.Conv2d(3, 8, 3, 2, 2, 2), b=nn.Conv2d(8, 4, (1, 3)))


@expect({"a": 8, "b": 12, "d": 4, "head": 3}, name="transposed")
def transposed() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.d(m.c(m.b(m.a(x))))

    return Net(
        forward,
        4,
        a=nn.ConvTranspose2d(3, 8, 2, 2),
        b=nn.ConvTranspose2d(8, 12, 3, groups=4),
        c=nn.ConvTranspose2d(12, 12, 3, groups=12),
        d=conv(12, 4),
    )


@expect({"a": 6, "l": 10, "head": 3}, name="flattened over space")
def flattened_over_space() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.l(F.max_pool2d(m.a(x), 4).flatten(1)).relu()

    return Net(forward, 10, a=conv(3, 6), l=nn.Linear(96, 10))


@expect({"a": 6, "l": 10, "head": 3}, name="viewed flat")
def viewed_flat() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.l(F.avg_pool2d(m.a(x), 4).view(x.shape[0], -1))

    return Net(forward, 10, a=conv(3, 6), l=nn.Linear(96, 10))


@expect({"a": 8, "up": 12, "down": 8, "head": 3}, name="channels last")
def channels_last() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.down(F.gelu(m.up(m.norm(m.a(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2) * m.gamma

    return Net(
        forward,
        8,
        a=conv(3, 8),
        norm=nn.LayerNorm(8),
        up=nn.Linear(8, 12),
        down=nn.Linear(12, 8),
        gamma=nn.Parameter(torch.rand(8, 1, 1) + 0.5),
    )


@expect({"a": 8, "b": 4, "head": 3}, name="group norm")
def group_norm() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.n(m.a(x)))

    return Net(forward, 4, a=conv(3, 8), n=nn.GroupNorm(4, 8), b=conv(8, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="instance norm and PReLU")
def instance_norm_and_prelu() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.p(m.n(m.a(x))))

    return Net(
        forward,
        4,
        a=conv(3, 8),
        n=nn.InstanceNorm2d(8, affine=True),
        p=nn.PReLU(8),
        b=conv(8, 4),
    )


@expect({"a": 8, "b": 4, "head": 3}, name="softmax over channels")
def softmax_over_channels() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x).softmax(1))

    return Net(forward, 4, a=conv(3, 8), b=conv(8, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="mean over channels")
def mean_over_channels() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return (lambda y: m.b(y * torch.sigmoid(y.mean(1, keepdim=True))))(m.a(x))

    return Net(
        forward,
        4,
        a=conv(3, 8),
        b=conv(8, 4),
    )


@expect({"a": 4, "b": 4, "head": 3}, name="copies summed")
def copies_summed() -> nn.Module:
    return Net(radix, 4, a=conv(3, 8), b=conv(4, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="equal chunks")
def equal_chunks() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return (lambda p: m.b(p[0]) + m.c(p[1]))(m.a(x).chunk(2, 1))

    return Net(
        forward,
        4,
        a=conv(3, 8),
        b=conv(4, 4),
        c=conv(4, 4),
    )


@expect({"a": 4, "b": 4, "head": 3}, name="gated halves")
def gated_halves() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.glu(m.a(x), 1))

    return Net(forward, 4, a=conv(3, 8), b=conv(4, 4))


@expect({"a": 16, "c": 8, "head": 3}, name="channel shuffle between grouped convolutions")
def channel_shuffle_between_grouped_convolutions() -> nn.Module:
    return Net(
        shuffled,
        8,
        a=conv(3, 16),
        depth=conv(16, 32, groups=16),
        bn=nn.BatchNorm2d(32),
        c=conv(32, 8, groups=4),
    )


@expect({"a": 12, "b": 4, "head": 3}, name="native channel shuffle")
def native_channel_shuffle() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.relu(F.channel_shuffle(m.a(x), 3)))

    return Net(forward, 4, a=conv(3, 12), b=conv(12, 4))


@expect({"a": 8, "b": 8, "d": 6, "c": 4, "head": 3}, name="halves after a shuffle")
def halves_after_a_shuffle() -> nn.Module:
    return Net(halves_after_shuffle, 4, a=conv(3, 8), b=conv(3, 8), d=conv(8, 6), c=conv(14, 4))


@expect({"a": 6, "l": 10, "head": 3}, name="shuffled and flattened over space")
def shuffled_and_flattened_over_space() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.l(F.max_pool2d(F.channel_shuffle(m.a(x), 2), 4).flatten(1))

    return Net(
        forward,
        10,
        a=conv(3, 6),
        l=nn.Linear(96, 10),
    )


@expect({"a": 8, "b": 4, "head": 3}, name="arguments by name and sizes asked of values")
def arguments_by_name_and_sizes_asked_of_values() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return F.conv2d(input=m.a(x).reshape(m.a(x).size(0), -1, 16, 16), weight=m.b.weight, bias=m.b.bias, padding=1)

    return Net(
        forward,
        4,
        a=conv(3, 8),
        b=conv(8, 4),
    )


@expect({"a": 8, "b": 4, "head": 3}, name="half by share")
def half_by_share() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return (lambda y: m.b(y[:, : y.shape[1] // 2]))(m.a(x))

    return Net(forward, 4, a=conv(3, 8), b=conv(4, 4))


@expect({"first": 8, "second": 6, "head": 3}, frozen={"first"}, name="slice at a fixed place")
def slice_at_a_fixed_place() -> nn.Module:
    return Fire()


@expect({"a": 8, "c": 4, "head": 3}, name="stacked and read apart")
def stacked_and_read_apart() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.c(torch.stack([m.a(x), m.b(x)], 1).amax(1))

    return Net(forward, 4, a=conv(3, 8), b=conv(3, 8), c=conv(8, 4))


@expect({"a": 3, "b": 4, "head": 3}, name="pixel shuffle")
def pixel_shuffle() -> nn.Module:
    return Net(manual_shuffle_up, 4, a=conv(3, 12), b=conv(3, 4))


@expect({"a": 3, "b": 4, "head": 3}, name="pixel unshuffle")
def pixel_unshuffle() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.pixel_unshuffle(m.a(x), 2))

    return Net(forward, 4, a=conv(3, 3), b=conv(12, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="pools and interpolation")
def pools_and_interpolation() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.interpolate(F.adaptive_max_pool2d(F.pad(m.a(x), (1, 1, 1, 1)), 5), size=(9, 9), mode="bilinear"))

    return Net(
        forward,
        4,
        a=conv(3, 8),
        b=conv(8, 4),
    )


@expect({"a": 8, "b": 4, "head": 3}, name="shared layer")
def shared_layer() -> nn.Module:
    return Net(shared, 4, a=conv(3, 8), s=conv(8, 8), b=conv(8, 4))


@expect({"a": 8, "b": 4, "head": 3}, name="tied weight")
def tied_weight() -> nn.Module:
    return Net(tied, 4, a=conv(3, 8), s=Tied(8), b=conv(8, 4))


@expect({"a": 8, "s": 6, "b": 4, "head": 3}, name="shared norm")
def shared_norm_net() -> nn.Module:
    return Net(
        shared_norm,
        4,
        a=conv(3, 8),
        s=conv(8, 6, bias=False),
        t=conv(8, 6, bias=False),
        n=nn.BatchNorm2d(6),
        b=conv(6, 4),
    )


@expect({"a": 8, "s": 16, "head": 3}, frozen={"s"}, name="norm of places")
def norm_of_places_net() -> nn.Module:
    return Net(norm_of_places, 16, a=conv(3, 8), s=nn.Linear(8, 16, bias=False), n=nn.BatchNorm1d(16))


@expect({"hh": 6, "hl": 2, "h2h": 5, "h2l": 3, "b": 4, "head": 3}, name="octave")
def octave_net() -> nn.Module:
    return Net(
        octave,
        4,
        hh=conv(3, 6),
        hl=conv(3, 2),
        h2h=conv(6, 5),
        l2h=conv(2, 5),
        h2l=conv(6, 3),
        l2l=conv(2, 3),
        b=conv(8, 4),
    )


@expect({"a": 8, "b": 4, "head": 3}, frozen={"a"}, name="fixed tensor")
def fixed_tensor() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x) * torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1))

    return Net(forward, 4, a=conv(3, 8), b=conv(8, 4))


@expect({"a": 8, "b": 4, "head": 3}, frozen={"a"}, name="unknown operator")
def unknown_operator() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x).cummax(1)[0])

    return Net(forward, 4, a=conv(3, 8), b=conv(8, 4))


@expect({"a": 8, "b": 4, "head": 3}, frozen={"a"}, name="attention over positions")
def attention_over_positions() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b((lambda y: (y.flatten(2) @ y.flatten(2).mT).unsqueeze(1))(m.a(x)))

    return Net(
        forward,
        4,
        a=conv(3, 8),
        b=conv(1, 4),
    )


@expect({"a": 8, "b": 4, "head": 3}, frozen={"b"}, name="computed weight")
def computed_weight() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return F.conv2d(m.a(x), m.b.weight / m.b.weight.norm(), m.b.bias)

    return Net(forward, 4, a=conv(3, 8), b=conv(8, 4))
