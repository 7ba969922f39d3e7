"""Outputs of any shape are distilled without labels, and training resumes bit by bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_net import tiny
from torch import Tensor, nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.data.without_labels import open_without_labels
from cfp_cli.foundation.errors import TrainingError, UsageError
from cfp_cli.measuring.output_error import output_error
from cfp_cli.training.finetune import finetune
from cfp_cli.training.history import History, read_csv
from cfp_cli.training.loss import Batch, kd
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.output_distillation import OutputDistillation

SIZE = (16, 16)
OPTIONS = TrainOptions.preset("student", epochs=3, batch_size=6, views=2, lr=2e-2, warmup=0.0, ema=0.0)


class Dense(nn.Module):
    """A network with a map of three class scores and boxes; in training it returns something else, as detectors do."""

    def __init__(self, seed: int = 0, drop: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.maps, self.boxes, self.drop = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 4, 1), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Any:
        y = self.drop(self.norm(self.a(x)).relu())
        if self.training:
            return self.maps(y)
        return {
            "maps": self.maps(y),
            "boxes": [self.boxes(y).flatten(2).movedim(1, 2)],
            "index": self.maps(y).argmax(1),
        }


def dense(seed: int, **spec: Any) -> nn.Module:
    return describe(Dense(seed).eval(), ModelSpec("net.py:dense", (), input_size=SIZE, **spec))


class Views:
    """Three images of one view."""

    key, views = "views", 1

    def __init__(self) -> None:
        self.images = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return 3

    def get(self, images: Any, _views: Any) -> Tensor:
        return self.images[torch.from_numpy(images)]


BATCH = Batch(np.arange(3), np.zeros(3, np.int64), torch.zeros(3), 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 255, (30, 20, 20, 3), np.uint8)
    for index, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{index:02d}.png")
    return folder


def test_the_loss_is_kl_a_pixel_and_relative_squared_error(tmp_path: Path) -> None:
    teacher, other, views = Dense(1), Dense(2), Views()
    student = Dense(3).eval()(views.images)
    outputs = [student["maps"], student["boxes"][0]]
    with torch.no_grad():
        targets = [network.eval()(views.images) for network in (teacher, other)]
    expected = []
    for target in targets:
        pixels = [
            kd(outputs[0][:, :, row, column], target["maps"][:, :, row, column], 2.0)
            for row in range(8)
            for column in range(8)
        ]
        boxes = target["boxes"][0]
        squared = (outputs[1] - boxes).square().mean() / boxes.var(correction=0)
        expected.append((torch.stack(pixels).mean() + squared) / 2)
    found = OutputDistillation([teacher, other], views, tmp_path, 4, 2.0, 3)(outputs, BATCH)
    weight = float(np.cos(np.pi / 8))
    torch.testing.assert_close(found[1:], torch.stack(expected))
    torch.testing.assert_close(found[0], weight * expected[0] + (1 - weight) * expected[1])
    alone = OutputDistillation([teacher], views, tmp_path, 4, 2.0, 0)
    torch.testing.assert_close(alone(outputs, BATCH), torch.stack([expected[0], expected[0], torch.tensor(0.0)]))
    assert alone.mix(1) is None


def test_maps_of_another_number_than_the_classes_are_no_class_scores(tmp_path: Path) -> None:
    teacher, views = Dense(1), Views()
    outputs = [Dense(3).eval()(views.images)["maps"], torch.zeros(3, 64, 4)]
    by_pixel, squared = (
        OutputDistillation([teacher], views, tmp_path, 4, 2.0, classes)(outputs, BATCH)[0] for classes in (3, 7)
    )
    assert not torch.isclose(by_pixel, squared)


class Counting(Dense):
    """Counts its passes in evaluation mode. `fixed` adds an output without an entry for each image."""

    passes = 0

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(1)
        self.fixed = fixed

    def forward(self, x: Tensor) -> Any:
        Counting.passes += 1
        output = super().forward(x)
        return {**output, "anchors": self.boxes.weight.flatten()} if self.fixed else output


@pytest.mark.parametrize("limit", [None, 0])
@pytest.mark.parametrize("fixed", [False, True])
def test_outputs_are_cached_if_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, fixed: bool
) -> None:
    if limit is not None:
        monkeypatch.setattr("cfp_cli.training.output_distillation.MOST_CACHED", limit)
    teacher, views = Counting(fixed=fixed).eval(), Views()
    expected = teacher(views.images)
    outputs = [torch.zeros(3, 3, 8, 8), torch.zeros(3, 64, 4)] + ([torch.zeros(32)] if fixed else [])
    losses = []
    for _ in range(2):
        distillation = OutputDistillation([teacher], views, tmp_path, 4, 2.0, 3)
        Counting.passes = 0
        losses += [distillation(outputs, BATCH) for _ in range(3)]
        assert Counting.passes == (0 if limit is None and not fixed else 3)
    assert all(torch.equal(loss, losses[0]) for loss in losses)
    boxes = expected["boxes"][0]
    pixels = kd(torch.zeros(192, 3), expected["maps"].movedim(1, -1).reshape(-1, 3), 2.0)
    parts = [pixels, boxes.square().mean() / boxes.var(correction=0)]
    if fixed:
        parts.append(expected["anchors"].square().mean() / expected["anchors"].var(correction=0))
    torch.testing.assert_close(losses[0][0], torch.stack(parts).mean())


def run(folder: Path, out: Path, teachers: list[nn.Module], student: nn.Module, **arguments: Any) -> History:
    options = arguments.pop("options", OPTIONS)
    dataset = open_without_labels(folder)
    return finetune(
        student,
        dataset,
        teachers,
        options,
        out=out / "s.pt",
        last=out / "l.pt",
        cache_folder=out / "cache",
        **arguments,
    )


def test_a_student_comes_nearer_to_its_teacher(folder: Path, tmp_path: Path) -> None:
    teacher, student = dense(1), dense(2)
    batches = [(Views().images, torch.zeros(3))]
    before = output_error(student, teacher, batches)
    history = run(folder, tmp_path, [teacher], student)
    assert output_error(student, teacher, batches) < 0.9 * before
    assert history.val is None
    assert history.test is None
    assert history.output_error == pytest.approx(min(row.output_error or 9.0 for row in history.rows), rel=1e-4)
    assert history.test_output_error is not None
    rows = read_csv(tmp_path / "history.csv")
    assert [row.accuracy for row in rows] == [None] * 3
    assert rows == history.rows
    assert not teacher.training


def test_an_interrupted_run_resumes_bit_by_bit(folder: Path, tmp_path: Path) -> None:
    teachers, whole, parts = [dense(1), dense(4)], dense(2), dense(2)
    run(folder, tmp_path / "whole", teachers, whole)

    def stop(rows: Any) -> None:
        if len(rows) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "parts", teachers, copy.deepcopy(parts), listen=stop)
    run(folder, tmp_path / "parts", teachers, parts, resume=True)
    for one, other in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("teacher", "options", "error", "message"),
    [
        (lambda: dense(1, mean=(0.5,) * 3), OPTIONS, TrainingError, "teacher 1 has another input size, mean or std"),
        (
            lambda: describe(tiny(3).eval(), ModelSpec("tiny", (), input_size=SIZE)),
            OPTIONS,
            TrainingError,
            "teacher 1 returns tensors of shapes",
        ),
        (
            lambda: dense(1),
            TrainOptions.preset("student", epochs=1, label_weight=0.1),
            UsageError,
            "--label-weight needs labels",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    teacher: Callable[[], nn.Module],
    options: TrainOptions,
    error: type[Exception],
    message: str,
    folder: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        run(folder, tmp_path, [teacher()], dense(2), options=options)


def test_the_error_of_the_outputs_is_relative_to_their_spread() -> None:
    class Constant(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.scale * x[..., 0], torch.fft.fft(x)

    batches = [(torch.rand(2, 3, 4, 4), torch.zeros(2)), (torch.rand(1, 3, 4, 4), torch.zeros(1))]
    values = torch.cat([images for images, _ in batches])[..., 0]
    expected = float((0.5 * values).square().mean().sqrt() / values.std(correction=0)) / 2
    assert output_error(Constant(0.5), Constant(1.0), batches) == pytest.approx(expected, rel=1e-5)


def test_a_constant_added_to_all_class_scores_is_no_error() -> None:
    class Shifted(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(shift))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.shift

    batches = [(torch.rand(2, 3, 4, 4), torch.zeros(2))]
    assert output_error(Shifted(1.0), Shifted(0.0), batches) == pytest.approx(0, abs=1e-6)
    assert output_error(Shifted(1.0), Shifted(0.0), batches, classes=5) > 1
