from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from cfp_cli.exporting.agreement import FACTOR, TOLERANCE, check
from cfp_cli.foundation.errors import CfpError


class Amplifier(nn.Module):
    """A network that amplifies float32 rounding: it subtracts numbers that are almost equal.

    The logits are differences of about `1 / gain` between values of about 1, so their relative float32 error is about
    6e-8 times `gain`.
    """

    def __init__(self, gain: float, classes: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, classes)
        torch.manual_seed(0)
        nn.init.normal_(self.linear.weight, std=0.1 / gain)
        nn.init.constant_(self.linear.bias, 1.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)) - 1.0


IMAGES = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def float64_logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).double()(images.double())


def file_with_error(model: nn.Module, relative: float):
    """A file whose logits are off by `relative` of the largest logit in float64, with alternating sign."""
    scale = float64_logits(model, IMAGES).abs().max()
    sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    return lambda part: float64_logits(model, part) + relative * scale * sign


def own_error(model: nn.Module) -> float:
    exact = float64_logits(model, IMAGES)
    with torch.no_grad():
        return ((model(IMAGES) - exact).abs().max() / exact.abs().max()).item()


def test_an_error_that_float32_rounding_explains_is_accepted() -> None:
    model = Amplifier(3e3).eval()
    error = own_error(model)
    # The float32 error of torch itself is near 1e-4.
    assert TOLERANCE < FACTOR / 2 * error < 1e-2
    agreement = check(model, file_with_error(model, FACTOR / 2 * error), IMAGES)
    assert agreement.error > TOLERANCE
    assert agreement.checkpoint_float64_error == pytest.approx(error, rel=1e-4)
    assert agreement.float64_error == pytest.approx(FACTOR / 2 * error, rel=1e-2)
    assert agreement.budget == pytest.approx(FACTOR * error, rel=1e-4)


def test_a_larger_error_is_refused() -> None:
    model = Amplifier(3e3).eval()
    with pytest.raises(CfpError, match=r"differs from the checkpoint .* allowed .*; try another --format"):
        check(model, file_with_error(model, 2 * FACTOR * own_error(model)), IMAGES)


def test_a_network_that_rounds_little_has_the_plain_tolerance() -> None:
    model = Amplifier(1).eval()
    assert FACTOR * own_error(model) < TOLERANCE
    agreement = check(model, file_with_error(model, TOLERANCE / 2), IMAGES)
    assert (agreement.budget, agreement.float64_error) == (TOLERANCE, None)
    with pytest.raises(CfpError, match=r"allowed 1\.0e-04"):
        check(model, file_with_error(model, 2 * TOLERANCE), IMAGES)


def test_a_network_of_rounding_noise_is_refused_and_named_as_such() -> None:
    model = Amplifier(3e5).eval()
    with pytest.raises(CfpError, match="its logits are dominated by rounding; train it"):
        check(model, file_with_error(model, 0.05), IMAGES)


def test_a_tie_within_the_budget_may_predict_either_class() -> None:
    model = Amplifier(1).eval()
    with torch.no_grad():
        model.linear.weight[1] = model.linear.weight[0]
        model.linear.bias.copy_(torch.tensor([1.0, 1.0, -9.0]))
    agreement = check(model, file_with_error(model, -TOLERANCE / 4), IMAGES)
    assert agreement.top1 < 1
    assert agreement.float64_error is not None
    assert agreement.float64_error <= TOLERANCE


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(wrong: float) -> None:
    model = Amplifier(3e3).eval()
    with pytest.raises(CfpError, match="differs from the checkpoint"):
        check(model, lambda part: model(part) * wrong, IMAGES)


def test_a_network_that_cannot_run_in_float64_has_the_plain_tolerance() -> None:
    class Mixed(Amplifier):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.float())

    model = Mixed(3e3).eval()
    with pytest.raises(CfpError, match=r"allowed 1\.0e-04"):
        check(model, lambda part: model(part) * 1.0002, IMAGES)
