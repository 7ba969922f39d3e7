from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from tiny_run import CLASSES, TensorViews, images, network
from torch import nn

from cfp_cli.execution.channels_last import faster_format
from cfp_cli.foundation.errors import TrainingError
from cfp_cli.training import teacher_cache as module
from cfp_cli.training.teacher_cache import teacher_logits


class Counting(nn.Module):
    """Counts the images it sees; returns logits that differ between images."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, len(CLASSES))
        self.norm = nn.BatchNorm1d(3)
        self.seen = 0

    def forward(self, pixels):
        assert not self.training
        self.seen += len(pixels)
        return self.head(self.norm(pixels.mean((2, 3))))


def views(count=70, versions=3):
    return TensorViews(images(count, versions)[0])


def test_logits_are_those_of_the_teacher_in_eval_mode(tmp_path):
    teacher, source = network(4).train(), views()
    logits = teacher_logits(teacher, source, 3, tmp_path)
    assert logits.shape == (70, 3, 3)
    assert teacher.training
    teacher.eval()
    with torch.inference_mode():
        for view in range(3):
            expected = teacher(source.pixels[:, view])
            torch.testing.assert_close(torch.from_numpy(logits[:, view].copy()), expected, rtol=1e-4, atol=1e-6)


def test_computed_once_for_a_teacher_and_views(tmp_path):
    teacher, source = Counting(), views()
    first = teacher_logits(teacher, source, 3, tmp_path)
    assert teacher.seen == 210
    again = teacher_logits(teacher, views(), 3, tmp_path)
    assert teacher.seen == 210
    assert np.array_equal(first, again)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    with torch.no_grad():
        teacher.head.bias[0] += 1
    other = teacher_logits(teacher, source, 3, tmp_path)
    assert teacher.seen == 420
    assert np.allclose(other[..., 0], first[..., 0] + 1, atol=1e-5)
    teacher_logits(teacher, views(versions=2), 3, tmp_path)
    assert teacher.seen == 560


def test_a_view_named_twice_is_computed_once(tmp_path):
    teacher, source = Counting(), views(40, 2)
    source.pixels = source.pixels[:, [0, 1, 0]]
    logits = teacher_logits(teacher, source, 3, tmp_path)
    assert teacher.seen < 90
    assert np.array_equal(logits[:, 0], logits[:, 2])
    assert not np.allclose(logits[:, 0], logits[:, 1])


class Signal:
    """Sends SIGTERM after some blocks."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def track(self, items, description, total=None, unit="batch"):
        for index, item in enumerate(items):
            if index == self.blocks:
                os.kill(os.getpid(), signal.SIGTERM)
            yield item

    def say(self, message: str) -> None:
        pass


def test_cut_off_computation_goes_on(tmp_path):
    teacher, source = Counting(), views(300, 3)
    uninterrupted = teacher_logits(teacher, source, 3, tmp_path / "whole")
    teacher.seen = 0
    with pytest.raises(KeyboardInterrupt):
        teacher_logits(teacher, source, 3, tmp_path / "cut", progress=Signal(5))
    before = teacher.seen
    assert 0 < before < 900
    logits = teacher_logits(teacher, source, 3, tmp_path / "cut")
    assert teacher.seen == 900
    assert np.array_equal(logits.view(np.uint32), uninterrupted.view(np.uint32))


def test_resumed_computation_uses_the_same_memory_format(tmp_path, monkeypatch):
    tried = []

    def record(model, images, forward):
        tried.append(images)
        return faster_format(model, images, forward)

    monkeypatch.setattr(module, "faster_format", record)
    source = views(300, 3)
    with pytest.raises(KeyboardInterrupt):
        teacher_logits(network(), source, 3, tmp_path, progress=Signal(5))
    teacher_logits(network(), source, 3, tmp_path)
    first, resumed = tried
    assert len(first) == 2
    assert torch.equal(first, resumed)


def test_parts_of_a_run_killed_after_the_table_was_written_are_removed(tmp_path):
    first = teacher_logits(network(), views(), len(CLASSES), tmp_path)
    (whole,) = tmp_path.iterdir()
    parts = whole.with_suffix(".parts")
    parts.mkdir()
    (parts / ".000000032.npy.abc.tmp").write_bytes(b"half")
    (tmp_path / f".{whole.name}.abc.tmp").write_bytes(b"half")
    assert np.array_equal(teacher_logits(network(), views(), len(CLASSES), tmp_path), first)
    assert list(tmp_path.iterdir()) == [whole]


def test_damaged_file_is_computed_again(tmp_path):
    teacher, source = Counting(), views()
    first = np.array(teacher_logits(teacher, source, 3, tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:200])
    assert np.array_equal(teacher_logits(teacher, source, 3, tmp_path), first)


def test_unusable_teachers_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"shape \(3,\), not 4 classes"):
        teacher_logits(Counting(), views(), 4, tmp_path)
    broken = Counting()
    with torch.no_grad():
        broken.head.bias[0] = torch.nan
    with pytest.raises(TrainingError, match="NaN or infinite outputs"):
        teacher_logits(broken, views(), 3, tmp_path)


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return FACTOR * self.head(x.mean((2, 3)))
"""


def test_a_teacher_whose_code_has_changed_is_computed_again(tmp_path):
    tables = []
    for factor in (1, 5):
        file = tmp_path / "net.py"
        file.write_text(NET.replace("FACTOR", str(factor)))
        scope = {}
        exec(compile(file.read_text(), str(file), "exec"), scope)
        torch.manual_seed(0)
        tables.append(np.array(teacher_logits(scope["Net"](), views(), 3, tmp_path / "cache")))
    np.testing.assert_allclose(tables[1], 5 * tables[0], rtol=1e-5)
