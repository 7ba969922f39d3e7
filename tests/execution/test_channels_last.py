from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cfp_cli.execution.channels_last import faster_format
from cfp_cli.measuring.predictions import predict_logits

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def _network(flatten: Callable[[Tensor], Tensor]) -> nn.Module:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8 * 256, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(flatten(self.norm(self.conv(x)).relu()))

    torch.manual_seed(0)
    return Network().eval()


def _reads_memory(x: Tensor) -> Tensor:
    return torch.as_strided(x, (len(x), x[0].numel()), (x[0].numel(), 1))


def _asserts(x: Tensor) -> Tensor:
    assert x.is_contiguous()
    return x.flatten(1)


@pytest.mark.parametrize(
    ("flatten", "expected"),
    [
        (lambda x: x.flatten(1), torch.channels_last),
        (lambda x: x.view(len(x), -1), torch.contiguous_format),
        (_reads_memory, torch.contiguous_format),
        (_asserts, torch.contiguous_format),
    ],
    ids=["flatten", "view", "memory", "assertion"],
)
def test_only_a_network_that_computes_the_same_gets_channels_last(
    flatten: Callable[[Tensor], Tensor], expected: torch.memory_format
) -> None:
    model = _network(flatten)
    images = IMAGES.clone()
    with torch.no_grad():
        assert faster_format(model, images) == expected
        found, _ = predict_logits(model, [(images, torch.zeros(6))])
        torch.testing.assert_close(found, model(IMAGES).double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(images, IMAGES)


class Fails(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, _: Tensor) -> Tensor:
        raise self.error


def test_a_failing_network_gets_contiguous_images_so_that_its_error_is_reported_where_it_runs() -> None:
    assert faster_format(Fails(ValueError("no")), IMAGES) == torch.contiguous_format


def test_a_lack_of_memory_is_raised() -> None:
    with pytest.raises(RuntimeError, match="allocate"):
        faster_format(Fails(RuntimeError("DefaultCPUAllocator: can't allocate memory")), IMAGES)


class Integers(nn.Module):
    """Classes as integers, which the memory format changes."""

    def forward(self, x: Tensor) -> Tensor:
        return (torch.as_strided(x, (len(x), 3), (x[0].numel(), 1)) * 1000).long()


class NoTensor(nn.Module):
    def forward(self, _: Tensor) -> None:
        return None


@pytest.mark.parametrize("model", [Integers(), NoTensor()])
def test_without_an_equal_output_images_stay_contiguous(model: nn.Module) -> None:
    assert faster_format(model, IMAGES) == torch.contiguous_format


class FixedBatch(nn.Module):
    """Keeps a tensor of the size of its first batch, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor | None = None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mask = torch.ones(len(x), 3) if self.mask is None else self.mask
        return x.mean((2, 3)) * self.mask


def test_a_network_with_a_state_is_not_changed() -> None:
    model = FixedBatch()
    logits, _ = predict_logits(model, [(IMAGES, torch.zeros(6))])
    assert logits.shape == (6, 3)
    assert model.calls == 1


class Rows(nn.Module):
    """Runs on any single image, but on several only if their memory is in order."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 16, 16).mean((1, 2)).reshape(len(x), 3)


def test_a_first_batch_of_one_image_does_not_decide_for_larger_ones() -> None:
    labels = torch.zeros(6)
    logits, _ = predict_logits(Rows(), [(IMAGES[:1], labels[:1]), (IMAGES[1:], labels[1:])])
    torch.testing.assert_close(logits, IMAGES.mean((2, 3)).double())


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8)])
def test_images_without_a_batch_keep_their_format(shape: tuple[int, ...]) -> None:
    assert faster_format(nn.Identity(), torch.rand(shape)) == torch.contiguous_format
