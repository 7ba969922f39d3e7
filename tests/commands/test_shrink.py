"""`cfp shrink`: from a model and images to a small network in one command, which can be interrupted and repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cfp_cli
from cfp_cli.checkpoints.load import load
from cfp_cli.data.dataset import Dataset
from cfp_cli.exporting import runtimes
from cfp_cli.exporting.layer_times import Setting
from cfp_cli.foundation.errors import MissingExtraError
from cfp_cli.foundation.files import sha256
from cfp_cli.graph import Selection
from cfp_cli.graph.layer_shapes import LayerShape
from cfp_cli.measuring.compared import Loss
from cfp_cli.measuring.latency import Latency
from cfp_cli.measuring.loss_rule import Judged
from cfp_cli.pruning.frontier import next_compressions
from cfp_cli.pruning.refit import Refit
from cfp_cli.runs import candidate_maker, candidate_plans, candidate_work, shrink_costs, shrink_search
from cfp_cli.runs import shrink as shrink_module
from cfp_cli.runs import tested as tested_module
from cfp_cli.runs.candidates import Candidate, Candidates
from cfp_cli.runs.shrink_costs import Costs, Finished
from cfp_cli.runs.shrink_options import short_training

# The fastest fine-tuning.
QUICK = ("--epochs", 1, "--views", 1)
STRICT = ("--metric", "agreement", "--max-loss", 1, "--json")


@pytest.fixture(scope="module")
def varied(model: Path, vary: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained model with a bias by which it predicts several classes."""
    path = tmp_path_factory.mktemp("varied") / "model.pt"
    vary(model, path)
    return path


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarse search over synthetic losses with borders at 20x (refitted) and 100x (fine-tuned)."""

    def judge(self: shrink_search.Search, candidate: Candidate) -> Judged:
        loss = candidate.compression / (100 if candidate.trained else 20)
        return Judged(Loss(loss, 0.0), loss <= self.options.rule.max_loss)

    def following(tried: dict[float, bool], count: int, **known: float) -> list[float]:
        return next_compressions(tried, count, **{**known, "close": 4.0})

    monkeypatch.setattr(shrink_search.Search, "judge", judge)
    monkeypatch.setattr(shrink_search, "next_compressions", following)


@pytest.fixture
def shrink(cfp, varied: Path, images: Path, tmp_path: Path, monkeypatch, coarse: None) -> Callable[..., Any]:
    """Run the command without refit, export and report, which take most of its time."""

    def missing(*_: object, **__: object) -> None:
        raise MissingExtraError("left out in this test")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shrink_module, "run_export", missing)
    monkeypatch.setattr(shrink_module, "run_report", missing)
    monkeypatch.setattr(Costs, "finish", missing)
    monkeypatch.setattr(candidate_work.RecordedOutputs, "of", lambda *_, **__: None)
    monkeypatch.setattr(candidate_plans, "MeasuredLoss", lambda *_: lambda selection: 1 / selection.macs)
    monkeypatch.setattr(candidate_work, "Refit", lambda recorded: Refit(reconstruct=False, recalibrate=False))

    def run_command(*options: object, run: str = "run") -> Any:
        quick = () if "--no-finetune" in options else QUICK
        return cfp("shrink", varied, images, *STRICT, *quick, *options, "--run", run)

    return run_command


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """The candidates that are measured and stored from now on."""
    added: list[Candidate] = []
    original = Candidates.add

    def add(self: Candidates, candidate: Candidate) -> None:
        original(self, candidate)
        added.append(candidate)

    monkeypatch.setattr(Candidates, "add", add)
    return added


def facts(result: Any) -> Any:
    """The result without what depends on the clock and on the folder."""
    if isinstance(result, dict):
        return {k: facts(v) for k, v in result.items() if k not in ("seconds", "command", "out", "sha256")}
    return [facts(each) for each in result] if isinstance(result, list) else result


def test_one_command(cfp, tmp_path: Path, varied: Path, images: Path, monkeypatch, coarse: None) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    split = Dataset.split

    def split_at_the_end(self: Dataset, name: str) -> Any:
        assert name != "test" or (run / "shrunk.pt").exists()
        return split(self, name)

    monkeypatch.setattr(Dataset, "split", split_at_the_end)
    tested: list[Any] = []
    predict = tested_module.predict

    def counted(network: Any, batches: Any) -> Any:
        tested.append(network)
        return predict(network, batches)

    monkeypatch.setattr(tested_module, "predict", counted)
    done = cfp("shrink", varied, images, *STRICT, *QUICK, "--teachers", varied, "--freeze-norm", "--run", run)
    assert done.code == 0, done.err
    result = done.json
    keys = {"out", "compression", "macs_ratio", "latency_ratio", "val", "test", "teacher", "frontier", "seconds"}
    assert keys | {"command"} <= result.keys()
    assert result["command"].startswith("cfp shrink ")
    chosen = [each for each in result["frontier"] if each["chosen"]]
    assert [each["passes"] for each in chosen] == [True]
    assert chosen[0]["params"] == min(each["params"] for each in result["frontier"] if each["passes"])
    assert chosen[0]["params"] == sum(each.numel() for each in load(result["out"]).parameters())
    assert result["compression"] == pytest.approx(
        sum(p.numel() for p in load(varied).parameters()) / chosen[0]["params"]
    )
    looks = [(each["params"], each["macs"], each["trained"]) for each in result["frontier"]]
    assert len(set(looks)) == len(looks)
    assert any(trained for _, _, trained in looks)
    evaluated = cfp("eval", result["out"], images, "--json").json
    assert {name: value for name, value in evaluated.items() if name != "mistakes"} == result["test"]
    records = json.loads((run / "run.json").read_text())["records"]
    assert [each["command"] for each in records][-3:] == ["shrink", "export", "report"]
    training = next(each["arguments"] for each in records if each["command"] == "finetune")
    assert {"select": "loss", "val_views": 3, "freeze_norm": True}.items() <= training.items()
    page = (run / "report.html").read_text()
    assert page.count('class="chosen"') == 2
    # The original and the chosen network once, for the result and the report, and the refitted one for the report.
    assert len(tested) == 2 + chosen[0]["trained"]
    for command in ("export --format onnx --out x.onnx", "report --no-bench"):
        again = cfp(*command.split(), "--run", run)
        assert again.code == 0, again.err


def test_an_interrupted_command_goes_on(
    shrink, varied: Path, images: Path, measured: list[Candidate], monkeypatch
) -> None:
    teacher = ("--teachers", varied)
    whole = shrink(*teacher)
    assert whole.code == 0, whole.err
    count = len(measured)
    assert [each.trained for each in measured] == [False, False, True]
    measured.clear()
    add = Candidates.add

    def interrupt(self: Candidates, candidate: Candidate) -> None:
        add(self, candidate)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Candidates, "add", interrupt)
        for _ in range(2):
            stopped = shrink(*teacher, run="other")
            assert stopped.code == 130
            assert "repeat the command to continue" in stopped.err
    repeated = shrink(*teacher, run="other")
    assert repeated.code == 0, repeated.err
    assert facts(repeated.json) == facts(whole.json)
    assert len(measured) == count
    assert sha256(Path("run/shrunk.pt")) == sha256(Path("other/shrunk.pt"))
    measured.clear()
    assert facts(shrink(*teacher, run="other").json) == facts(whole.json)
    training = short_training(epochs=1, views=1)
    named = {"metric": "agreement", "max_loss": 1.0, "teachers": [varied], "training": training}
    called = cfp_cli.shrink(varied, images, "other", **named)
    assert facts(called.to_json()) == facts(whole.json)
    assert measured == []


def test_an_interrupted_training_goes_on_and_the_looks_serve_another_loss(shrink, measured, monkeypatch) -> None:
    finetune = candidate_work.run_finetune
    asked: list[bool] = []

    def interrupted(*arguments: Any, resume: bool, **named: Any) -> Any:
        asked.append(resume)
        done = finetune(*arguments, resume=resume, **named)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(candidate_work, "run_finetune", interrupted)
    assert shrink().code == 130
    done = shrink()
    assert done.code == 0, done.err
    assert asked[:2] == [True, True]
    measured.clear()
    looser = shrink("--max-loss", 3.3, "--no-finetune")
    assert looser.code == 0, looser.err
    assert looser.json["compression"] > 50
    assert measured == []
    records = json.loads(Path("run/run.json").read_text())["records"]
    teachers = [len(each["inputs"]["teachers"]) for each in records if each["command"] == "finetune"]
    assert set(teachers) == {2}, "the classes are unbalanced"


def test_budgets(shrink, model: Path) -> None:
    params = sum(each.numel() for each in load(model).parameters())
    done = shrink("--budget", f"params<={params // 6}", "--budget", "macs<=1M", "--no-finetune", "--max-loss", 100)
    assert done.code == 0, done.err
    assert "0.00 points of agreement with the original, together" in done.err
    assert "(allowed 100): passes" in done.err
    assert all(each["params"] <= params // 6 for each in done.json["frontier"])
    failed = shrink("--budget", f"params<={params // 40}", "--no-finetune", "--max-loss", 0)
    assert failed.code == 3, failed.err
    assert failed.out, failed.err
    assert failed.json["met"] is False
    assert sum(each.numel() for each in load(failed.json["out"]).parameters()) <= params // 40
    impossible = shrink("--budget", "params<=10")
    assert impossible.code == 3
    assert "no network fits the budgets" in impossible.err
    for budget in ("latency<=2", "latency<=2k", "bytes<=2ms", "params<400", "speed<=1"):
        refused = shrink("--budget", budget)
        assert refused.code == 2
        assert "is not a budget" in refused.err


def test_limits(shrink, measured: list[Candidate], monkeypatch: pytest.MonkeyPatch) -> None:
    hurried = shrink("--time-limit", "0.01s", "--max-loss", 100)
    assert hurried.code == 0, hurried.err
    assert len(measured) == 1
    assert "the time limit leaves no time" in hurried.err
    assert hurried.json["complete"] is False
    few = shrink("--time-limit", "0.01s", run="few")
    assert few.code in (0, 3), few.err
    assert "8 validation images are few" in few.err
    assert shrink("--time-limit", "soon").code == 2
    monkeypatch.setitem(runtimes.NEEDS, "openvino", ("no_such_package",))
    missing = shrink("--runtime", "openvino", "--round-to", 1)
    assert missing.code == 1
    assert "needs no_such_package" in missing.err


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[LayerShape]:
    """The layers that are measured; a layer takes as long as it has weights, a network twice as long and 1 ms more."""
    measured: list[LayerShape] = []

    def time_layer(shape: LayerShape, _setting: Setting) -> float:
        measured.append(shape)
        return shape.inputs * shape.outputs / shape.groups / 1000

    def time_network(self: Costs, selection: Selection) -> float:
        return 1 + 2 * self.layers(selection)

    monkeypatch.setattr(shrink_costs, "time_layer", time_layer)
    monkeypatch.setattr(Costs, "_measured", time_network)
    return measured


def latency(before: float, after: float) -> Finished:
    before, after = (Latency(1, 1, each, each, each, 10, "torch", "contiguous", "cpu") for each in (before, after))
    return Finished(before, after, 5_000)


def test_latency(shrink, timed: list[LayerShape], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Costs, "finish", lambda *_: latency(4.0, 1.5))
    options = ("--target", "latency", "--runtime", "torch", "--batch", 2, "--no-finetune", "--budget", "latency<=1.6ms")
    done = shrink(*options, "--max-loss", 100)
    assert done.code == 0, done.err
    assert "torch, 1 thread, batch 2" in done.err
    assert done.json["latency_ratio"] == pytest.approx(4 / 1.5)
    assert done.json["latency_ms"]["shrunk"]["median"] == 1.5
    assert all(0 < each["latency_ms"] <= 1.6 for each in done.json["frontier"])
    chosen = next(each for each in done.json["frontier"] if each["chosen"])
    assert chosen["latency_ms"] == min(each["latency_ms"] for each in done.json["frontier"])
    count = len(timed)
    assert count > 0
    again = shrink(*options, "--max-loss", 100)
    assert facts(again.json) == facts(done.json)
    assert len(timed) == count, "layers are measured once in a run"
    other = shrink(*options[:4], "--no-finetune", "--max-loss", 100)
    assert "of another machine or runtime" in other.err
    assert len(timed) > count


def test_bytes(shrink, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(Costs, "finish", lambda *_: latency(4.0, 1.5))
    most = 12_000
    done = shrink("--target", "bytes", "--budget", f"bytes<={most}", "--no-finetune", "--max-loss", 100)
    assert done.code == 0, done.err
    sizes = {each["params"]: each["bytes"] for each in done.json["frontier"]}
    assert 0 < max(sizes.values()) <= most
    assert sorted(sizes, key=lambda each: sizes[each]) == sorted(sizes)
    impossible = shrink("--target", "bytes", "--budget", "bytes<=100")
    assert impossible.code == 3
    assert "no network fits the budgets" in impossible.err


@pytest.mark.parametrize(
    ("budget", "finished", "line"),
    [
        ("latency<=1.9ms", latency(4.0, 2.5), "it exceeds the budget latency<=1.9ms"),
        ("params<=1M", latency(2.0, 2.5), "warning: it is slower than the original"),
    ],
)
def test_a_slow_result_is_named(
    shrink, timed: list[LayerShape], monkeypatch: pytest.MonkeyPatch, budget: str, finished: Finished, line: str
) -> None:
    monkeypatch.setattr(Costs, "finish", lambda *_: finished)
    monkeypatch.setitem(globals(), "STRICT", STRICT[:-1])
    done = shrink("--budget", budget, "--runtime", "torch", "--no-finetune", "--max-loss", 100)
    met = budget.startswith("params")
    assert done.code == (0 if met else 3), done.err
    assert line in done.out
    metrics = json.loads(Path("run/run.json").read_text())["records"][-1]["metrics"]
    assert (metrics["met"], metrics["over_budget"]) == (met, [] if met else [budget])


@pytest.mark.parametrize(
    "option", [("--teachers", "rl.pt"), ("--epochs", 3), ("--lr", 0.1), ("--views", 2), ("--freeze-norm",)]
)
def test_an_option_of_the_fine_tuning_without_fine_tuning_is_refused(shrink, option: tuple[object, ...]) -> None:
    done = shrink("--no-finetune", *option)
    assert done.code == 2
    assert f"{option[0]}: the fine-tuning is off; leave this out, or pass --finetune" in done.err


def test_images_without_labels(cfp, tmp_path: Path, varied: Path, images: Path, monkeypatch, coarse: None) -> None:
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate(sorted(images.rglob("train/*/*.png"))):
        target = tmp_path / "plain" / f"{number:03}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.setattr(Costs, "finish", lambda *_: None)
    refused = cfp("shrink", varied, "plain", "--run", "run")
    assert refused.code == 1
    assert "only the agreement with the original can be measured" in refused.err
    done = cfp("shrink", varied, "plain", *STRICT[:-1], "--run", "run")
    assert done.code == 0, done.err
    assert "not fine-tuned" in done.err
    assert "the original's predictions are the labels" in " ".join(done.out.split())
    record = json.loads(Path("run/run.json").read_text())["records"][-2]
    assert record["command"] == "shrink"
    assert record["metrics"]["labelled"] is False
    assert record["metrics"]["original_val"]["accuracy"] == 1
    assert record["metrics"]["test"] is None
    assert not any(each["trained"] for each in record["metrics"]["frontier"])
    assert Path("run/shrunk.onnx").is_file()


@pytest.mark.parametrize(("epoch", "how"), [(-1, "fine-tuned without a gain"), (0, "fine-tuned")])
def test_a_fine_tuning_without_a_gain_is_said(
    shrink, varied: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, how: str
) -> None:
    original = candidate_maker.CandidateMaker.finetune_record

    def kept(self: candidate_maker.CandidateMaker, candidate: Candidate) -> Any:
        record = original(self, candidate)
        return record and replace(record, metrics=replace(record.metrics, best_epoch=epoch))

    monkeypatch.setattr(candidate_maker.CandidateMaker, "finetune_record", kept)
    done = shrink("--teachers", varied)
    assert done.code == 0, done.err
    assert f"x fewer parameters, {how}: " in done.err
    assert "x fewer parameters, refitted: " in done.err
