"""`train` and `finetune` on image files, from networks with specs to checkpoints on disk."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import same

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.images import load_images
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.views import ViewStore
from cfp_cli.foundation.errors import DataError, TrainingError, UsageError
from cfp_cli.measuring.metrics import evaluate
from cfp_cli.models.registry import create
from cfp_cli.training.finetune import finetune
from cfp_cli.training.loss import kd
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.train import train

ARCH = f"{Path(__file__).with_name('tiny_net.py')}:tiny"
CLASSES = ("dark", "light", "striped")
TEACHER = TrainOptions.preset("teacher", epochs=6, batch_size=16, lr=1e-2)
STUDENT = TrainOptions.preset("paper", epochs=4, batch_size=16, lr=1e-2, label_weight=0.1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three kinds of 24 px images with 30, 24 and 12 of each in train."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, counts in (("train", (30, 24, 12)), ("test", (8, 8, 8))):
        for name, count in zip(CLASSES, counts, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.normal({"dark": 90, "light": 150, "striped": 120}[name], 30, (24, 24))
                pixels[::4] += 80 if name == "striped" else 0
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return open_dataset(root)


def network(seed: int, size: int = 16, classes=CLASSES, mean=(0.0, 0.0, 0.0)):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return describe(create(ARCH, len(classes)), ModelSpec(ARCH, classes, input_size=(size, size), mean=mean))


def tune(folder, dataset, teachers=None, options=STUDENT, model=None, **arguments):
    model = network(5) if model is None else model
    history = finetune(
        model,
        dataset,
        [network(1), network(2)] if teachers is None else teachers,
        options,
        out=folder / "finetuned.pt",
        last=folder / "last.pt",
        cache_folder=folder / "cache",
        **arguments,
    )
    return model, history


def test_teacher_learns_and_is_saved(tmp_path, dataset):
    model, history = train(network(0), dataset, TEACHER, tmp_path / "rl.pt")
    assert len(history.rows) == 6
    assert history.rows[0].loss_rl is None
    assert history.test is not None
    assert history.test.images == 24
    assert history.test.balanced_accuracy > 0.6
    loaded = load(tmp_path / "rl.pt", ARCH)
    assert same(loaded.state_dict(), model.state_dict())
    assert not model.training
    spec = spec_of(loaded)
    assert spec.classes == CLASSES
    assert [entry["stage"] for entry in spec.lineage] == ["train"]
    assert spec.lineage[0]["options"]["lr"] == 1e-2
    test = load_images(dataset, "test", Preprocessing.of(spec)).batches(7)
    assert evaluate(loaded, test).accuracy == history.test.accuracy
    assert (tmp_path / "rl.history.csv").exists()
    assert (tmp_path / "rl.last.pt").exists()


def test_balanced_teacher_starts_from_given_weights(tmp_path, dataset):
    start = network(0)
    train(start, dataset, TEACHER, tmp_path / "rl.pt")
    options = TrainOptions.preset("teacher", epochs=1, batch_size=16, sampler="balanced", lr=1e-9)
    model, _ = train(load(tmp_path / "rl.pt", ARCH), dataset, options, tmp_path / "cl.pt")
    for first, second in zip(model.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)
    assert [step["options"]["sampler"] for step in spec_of(load(tmp_path / "cl.pt", ARCH)).lineage] == [
        "instance",
        "balanced",
    ]


def test_student_follows_two_teachers(tmp_path, dataset):
    model, history = tune(tmp_path, dataset)
    first = history.rows[0]
    assert first.mix == 1.0
    assert first.loss_rl is not None
    assert first.loss_cl is not None
    assert history.rows[-1].mix == pytest.approx(np.cos(0.75 * np.pi / 2))
    assert history.test is not None
    assert same(load(tmp_path / "finetuned.pt", ARCH).state_dict(), model.state_dict())
    with (tmp_path / "history.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["loss_cl"]) for line in lines] == [row.loss_cl for row in history.rows]
    data = history.to_json()
    assert {"epochs", "seconds", "best_epoch", "val", "test"} <= data.keys()
    assert data["epochs"] == 4


@pytest.mark.parametrize(("seed", "val_views"), [(1, 0), (5, 0), (5, 2)])
def test_the_kept_epoch_is_the_one_nearest_to_the_teachers_on_the_validation_images(tmp_path, dataset, seed, val_views):
    teachers = [network(1, size=24), network(2)]
    # A rate that changes no prediction, so that all epochs are within one standard error of the best.
    augment = "geometric" if val_views else STUDENT.augment
    options = dataclasses.replace(STUDENT, label_weight=0.0, lr=1e-4, augment=augment, val_views=val_views)
    model, history = tune(tmp_path, dataset, teachers, options, network(seed))
    losses = [row.val_loss for row in history.rows]

    def logits(each):
        preprocessing = Preprocessing.of(spec_of(each))
        batches = list(load_images(dataset, "val", preprocessing).batches(8))
        if val_views:
            store = ViewStore(dataset.split("val"), preprocessing, "geometric", val_views, options.seed + 1)
            batches += store.batches(8)
        return torch.cat([each(batch) for batch, _ in batches]).double()

    with torch.inference_mode():
        student, *targets = (logits(each) for each in (model, *teachers))
        expected = sum(float(kd(student, each, options.temperature)) for each in targets) / 2
    assert len({row.accuracy for row in history.rows}) == 1
    kept = expected if history.best_epoch < 0 else losses[history.best_epoch]
    assert kept == pytest.approx(expected, rel=1e-5)
    assert kept <= min(losses)


def test_the_distillation_loss_alone_chooses_the_epoch(tmp_path, dataset):
    options = dataclasses.replace(STUDENT, label_weight=0.0, select="loss")
    _, history = tune(tmp_path, dataset, options=options)
    losses = [row.val_loss for row in history.rows]
    assert losses[history.best_epoch] == min(losses)
    with pytest.raises(UsageError, match="--select loss is the distillation loss, which needs teachers"):
        train(network(0), dataset, dataclasses.replace(TEACHER, select="loss"), tmp_path / "rl.pt")


def test_student_becomes_its_teacher(tmp_path, dataset):
    teacher, _ = train(network(0), dataset, TEACHER, tmp_path / "rl.pt")
    _, history = tune(tmp_path, dataset, [teacher], TrainOptions.preset("paper", epochs=25, batch_size=16, lr=2e-2))
    assert history.rows[-1].loss < 0.2 * history.rows[0].loss
    assert history.rows[-1].mix is None
    assert history.rows[-1].loss_cl is None


def test_second_run_takes_the_teachers_from_the_cache(tmp_path, dataset):
    class Descriptions:
        def __init__(self):
            self.descriptions = []

        def track(self, items, description, total=None, unit="batch"):
            if "teacher" in description:
                self.descriptions.append(description)
            yield from items

        def say(self, message):
            pass

    first, second = Descriptions(), Descriptions()
    one, _ = tune(tmp_path, dataset, progress=first)
    two, _ = tune(tmp_path, dataset, progress=second)
    assert first.descriptions == ["representation teacher", "class-balanced teacher"]
    assert second.descriptions == []
    assert same(one.state_dict(), two.state_dict())


def test_teachers_of_another_input_size(tmp_path, dataset):
    _, history = tune(tmp_path, dataset, [network(1, size=24, mean=(0.5, 0.5, 0.5)), network(2, size=20)])
    assert history.test is not None


def test_interrupted_fine_tuning_goes_on(tmp_path, dataset):
    from test_loop import StopAfter

    class StopTraining(StopAfter):
        def track(self, items, description, total=None, unit="batch"):
            yield from super().track(items, description) if description == "fine-tuning" else items

    whole, _ = tune(tmp_path / "whole", dataset)
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "cut", dataset, progress=StopTraining(6))
    cut, _ = tune(tmp_path / "cut", dataset, resume=True)
    assert same(whole.state_dict(), cut.state_dict())
    with pytest.raises(TrainingError, match="teacher_1 was"):
        tune(tmp_path / "cut", dataset, [network(9), network(2)], resume=True)


def test_wrong_inputs_are_refused(tmp_path, dataset):
    with pytest.raises(UsageError, match="0 teachers; pass one or two"):
        tune(tmp_path, dataset, [])
    with pytest.raises(DataError, match="class-balanced teacher was made for the classes a, b, c, the data has dark"):
        tune(tmp_path, dataset, [network(1), network(1, classes=("a", "b", "c"))])
    with pytest.raises(DataError, match="the student was made for the classes"):
        tune(tmp_path, dataset, model=network(1, classes=("dark", "light")))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_network_without_trainable_parameters_is_refused(optimizer, tmp_path, dataset):
    frozen = network(5).requires_grad_(False)
    with pytest.raises(TrainingError, match=r"no parameter .* gradient.*; call network.requires_grad_\(\)"):
        tune(tmp_path, dataset, model=frozen, options=dataclasses.replace(STUDENT, optimizer=optimizer))
    assert not any(tmp_path.iterdir())  # it fails before the teachers run
    with pytest.raises(TrainingError, match="no parameter"):
        train(frozen, dataset, TEACHER, out=tmp_path / "t.pt", last=tmp_path / "last.pt", cache_folder=tmp_path / "c")


def test_draws_are_as_probable_as_the_samplers_make_them():
    from cfp_cli.data.samplers import Sampler, draw_probability

    labels = torch.tensor([0] * 30 + [1] * 9 + [2])
    for kind in ("instance", "balanced", "sqrt"):
        sampler = Sampler(kind, labels, 0)
        drawn = np.concatenate([sampler.epoch(epoch) for epoch in range(400)])
        share = np.bincount(labels.numpy()[drawn], minlength=3) / len(drawn)
        expected = torch.zeros(3, dtype=torch.float64).index_add_(0, labels, draw_probability(kind, labels))
        assert share == pytest.approx(expected.numpy(), abs=0.01)
