from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cfp_cli.training.loss import Batch, CrossEntropy, Distillation, class_weights, kd, mix


def hand_kd(student, teacher, temperature):
    """T^2 times the mean over the batch of sum_k p_k log(p_k / q_k), in plain Python."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = ([math.exp(x / temperature) for x in row] for row in (t, s))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


logits = st.lists(st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=4), min_size=3, max_size=3)


@given(logits, logits, st.sampled_from([1.0, 2.0, 4.0]))
def test_kd_is_the_hand_computed_divergence(student, teacher, temperature):
    value = kd(torch.tensor(student, dtype=torch.float64), torch.tensor(teacher, dtype=torch.float64), temperature)
    assert float(value) == pytest.approx(hand_kd(student, teacher, temperature), rel=1e-9, abs=1e-12)


def draw(count=3, epoch=0, labels=None):
    images, views = np.arange(count), np.zeros(count, dtype=np.int64)
    return Batch(images, views, torch.zeros(count, dtype=torch.int64) if labels is None else labels, epoch)


def tables(count=2, images=3, views=2, classes=4):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(images, views, classes)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(("epoch", "share"), [(0, 1.0), (50, math.sqrt(0.5)), (75, math.cos(0.375 * math.pi))])
def test_two_teachers_are_mixed_by_the_cosine(epoch, share):
    first, second = tables()
    student = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    loss, to_first, to_second = Distillation([first, second], epochs=100)(student, draw(epoch=epoch)).tolist()
    expected = [hand_kd(student.tolist(), table[:, 0].tolist(), 2.0) for table in (first, second)]
    assert mix(epoch, 100) == pytest.approx(share)
    assert (to_first, to_second) == (pytest.approx(expected[0], rel=1e-5), pytest.approx(expected[1], rel=1e-5))
    assert loss == pytest.approx(share * expected[0] + (1 - share) * expected[1], rel=1e-5)


def test_gradient_is_that_of_the_mixed_loss():
    first, second = tables()
    objective = Distillation([first, second], epochs=10)
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    objective(student, draw(epoch=4))[0].backward()
    share = mix(4, 10)
    target = [torch.softmax(torch.from_numpy(table[:, 0]).double() / 2, 1) for table in (first, second)]
    # d KD / d s = T (softmax(s/T) - softmax(t/T)) / n
    expected = 2 * (torch.softmax(student.detach() / 2, 1) - share * target[0] - (1 - share) * target[1]) / 3
    torch.testing.assert_close(student.grad, expected, rtol=1e-6, atol=1e-8)


def test_the_view_decides_the_target():
    (table,) = tables(1)
    student = torch.zeros(3, 4)
    one, other = (
        Distillation([table], 10)(student, Batch(np.arange(3), np.full(3, view), torch.zeros(3), 0)) for view in (0, 1)
    )
    assert one[0] != other[0]


def test_one_teacher_is_plain_distillation():
    (table,) = tables(1)
    objective = Distillation([table], epochs=10, temperature=3.0)
    student = torch.randn(3, 4)
    loss, to_first, to_second = objective(student, draw(epoch=7))
    assert loss == to_first == kd(student, torch.from_numpy(table[:, 0]), 3.0)
    assert to_second == 0
    assert objective.mix(7) is None


def test_the_same_logits_cost_nothing():
    first, _ = tables()
    loss = Distillation([first, first], 10)(torch.from_numpy(first[:, 0]), draw(epoch=3))[0]
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


def test_label_weight_adds_class_balanced_cross_entropy():
    (table,) = tables(1)
    labels = torch.tensor([0, 0, 3])
    weights = torch.tensor([0.5, 1.0, 1.0, 2.0])
    student = torch.randn(3, 4)
    plain = Distillation([table], 10)(student, draw(labels=labels))[0]
    loss = Distillation([table], 10, label_weight=0.3, weights=weights)(student, draw(labels=labels))[0]
    each = -torch.log_softmax(student, 1)[torch.arange(3), labels]
    assert float(loss - plain) == pytest.approx(0.3 * float((each * weights[labels]).mean()), rel=1e-4)


def test_class_weights_balance_whatever_the_sampler():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    plain = class_weights(labels, 3, torch.full((10,), 0.1))
    assert plain.tolist() == pytest.approx([10 / (3 * n) for n in (6, 3, 1)])
    counts = torch.tensor([6, 3, 1])
    balanced = class_weights(labels, 3, 1 / (3.0 * counts[labels]))
    assert balanced.tolist() == pytest.approx([1, 1, 1])
    assert class_weights(labels, 4, torch.full((10,), 0.1))[3] == 0


def test_teachers_learn_by_cross_entropy():
    student, labels = torch.randn(3, 4), torch.tensor([1, 2, 0])
    loss, first, second = CrossEntropy()(student, draw(labels=labels))
    assert float(loss) == pytest.approx(float(torch.nn.CrossEntropyLoss()(student, labels)))
    assert first == second == 0


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="0 teachers"):
        Distillation([], 10)
    with pytest.raises(ValueError, match="needs class weights"):
        Distillation(tables(1), 10, label_weight=1.0)
