from __future__ import annotations

import io
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
from rich.console import Console

from cfp_cli.commands.training import show_epochs
from cfp_cli.foundation.errors import MissingExtraError
from cfp_cli.training.epoch_table import epoch_table, seconds_left
from cfp_cli.training.history import EpochRow, TensorBoard, read_csv, write_csv
from cfp_cli.training.options import TrainOptions


def row(epoch, accuracy=0.5, cl=0.2, mix=0.9):
    rl = 0.1 if cl is not None or mix is not None else None
    return EpochRow(epoch, 0.3, rl, cl, mix, 5e-5, accuracy, 0.5, 0.5, 0.4, 0.6, 123.4, 2.0)


def render(rows, epochs=30):
    console = Console(file=io.StringIO(), width=110, color_system=None)
    console.print(epoch_table(rows, epochs))
    return console.file.getvalue()


def test_whole_table():
    assert render([row(0, 0.9), row(1, 0.8)]).splitlines() == [
        "┏━━━━━━━┳━━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┓",
        "┃ epoch ┃      lr ┃   loss ┃     RL ┃     CL ┃    mix ┃ accuracy ┃ macro-F1 ┃ balanced ┃ images/s ┃",
        "┡━━━━━━━╇━━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━┩",
        "│ *1/30 │ 5.0e-05 │ 0.3000 │ 0.1000 │ 0.2000 │ 0.9000 │   90.00% │   40.00% │   60.00% │      123 │",
        "│  2/30 │ 5.0e-05 │ 0.3000 │ 0.1000 │ 0.2000 │ 0.9000 │   80.00% │   40.00% │   60.00% │      123 │",
        "└───────┴─────────┴────────┴────────┴────────┴────────┴──────────┴──────────┴──────────┴──────────┘",
        "2 of 30 epochs, 0:56 left; * best on validation                                                    ",
    ]


def test_keeps_the_best_and_the_last():
    text = render([row(epoch, 0.9 if epoch == 3 else 0.5) for epoch in range(20)])
    assert "*4/30" in text
    assert "20/30" in text
    assert " 8/30" not in text
    assert "mix" not in render([row(0, cl=None, mix=None)])


def test_time_left_is_that_of_the_last_epochs():
    assert seconds_left([row(0), row(1)], 12) == 20.0
    assert seconds_left([], 12) == 0.0


def test_csv_and_back(tmp_path):
    rows = (row(0, 1 / 3), row(1, cl=None, mix=None))
    write_csv(tmp_path / "history.csv", rows)
    assert read_csv(tmp_path / "history.csv") == rows


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"run pip install tensorboard$"):
        TensorBoard(tmp_path)


def test_tensorboard_holds_the_rows(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    for epoch in range(3):
        board.write(row(epoch, accuracy=0.1 * epoch))
    board.close()
    resumed = TensorBoard(tmp_path, first_epoch=2)
    resumed.write(row(2, accuracy=0.9))
    resumed.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("accuracy")] == [
        (0, 0.0),
        (1, 0.1),
        (2, 0.9),
    ]


def test_the_star_marks_the_best_epoch_of_the_selected_metric():
    class LiveConsole:
        interactive = True

        @contextmanager
        def live(self, view):
            self.view = view
            yield self

        def update(self, view):
            self.view = view

    console, rows = LiveConsole(), [replace(row(0, 0.9), macro_f1=0.4), replace(row(1, 0.8), macro_f1=0.6)]
    with show_epochs(console, TrainOptions.preset("paper", epochs=5, select="macro_f1")) as listen:
        listen(rows)
    assert [str(cell) for cell in console.view.columns[0].cells] == ["1/5", "*2/5"]
    rows = [replace(each, val_loss=loss) for each, loss in zip(rows, (0.1, 0.2), strict=True)]
    with show_epochs(console, TrainOptions.preset("short", epochs=5, select="loss")) as listen:
        listen(rows)
    assert [str(cell) for cell in console.view.columns[0].cells] == ["*1/5", "2/5"]
