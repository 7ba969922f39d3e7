from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.commands.cli import cli
from cfp_cli.models.registry import create

FAST = ("--no-onnx", "--no-openvino", "--seconds", 0.01, "--threads", 1)
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra `export` is not installed",
)


@pytest.fixture
def tuned(cfp, scored: Path, model: Path) -> Path:
    """A run that is scored, pruned and fine-tuned; gives its folder."""
    assert cfp("prune", "--ratio", 0.6).code == 0
    assert cfp("finetune", "--teachers", model, "--epochs", 1, "--batch-size", 16, "--views", 2).code == 0
    return scored


def records(run: Path) -> list[dict]:
    return json.loads((run / "run.json").read_text())["records"]


def test_pt2_export_of_the_run_is_proven_on_its_test_images(cfp, tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.pt2"
    done = cfp("export", "--format", "pt2", "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json["samples"] == "given"
    assert done.json["images"] == 24
    assert done.json["top1_agreement"] == 1
    assert done.json["max_relative_error"] <= 1e-4
    network = load(tuned / "finetuned.pt")
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        given = torch.export.load(out).module()(images)
        torch.testing.assert_close(given, network(images), rtol=1e-4, atol=1e-5)
    record = records(tuned)[-1]
    assert record["command"] == "export"
    assert record["inputs"]["model"]["path"] == str(tuned / "finetuned.pt")
    assert record["metrics"]["bytes"] == out.stat().st_size


@needs_onnx
def test_int8_export_prints_accuracy_before_and_after(cfp, tuned: Path, tmp_path: Path, images: Path) -> None:
    done = cfp("export", "--format", "onnx", "--int8", "--out", tmp_path / "small.onnx", "--json")
    assert done.code == 0, done.err
    assert done.json["precision"] == "int8"
    tested = cfp("eval", tuned / "finetuned.pt", images, "--json").json
    assert done.json["accuracy_before"] == pytest.approx(tested["accuracy"])
    assert 0 <= done.json["accuracy_after"] <= 1


def test_a_model_of_no_run_is_exported_without_making_one(cfp, tmp_path: Path, model: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cfp("export", model, "--format", "pt2", "--out", "model.pt2", "--json")
    assert done.code == 0, done.err
    assert done.json["samples"] == "procedural"
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_a_changed_checkpoint_is_not_exported_as_the_runs(cfp, tuned: Path, model: Path, tmp_path: Path) -> None:
    (tuned / "finetuned.pt").write_bytes(model.read_bytes())
    done = cfp("export", "--format", "pt2", "--out", tmp_path / "x.pt2")
    assert done.code == 1
    assert "is not what `cfp finetune` wrote" in done.err
    assert not (tmp_path / "x.pt2").exists()


def test_export_before_fine_tuning_says_what_to_run(cfp, scored: Path) -> None:
    done = cfp("export", "--format", "pt2", "--out", "x.pt2")
    assert done.code == 1
    assert "run `cfp finetune` first" in done.err


def exported_parameters(cfp, out: Path, *options: object) -> int:
    done = cfp("export", "--format", "pt2", "--out", out, "--json", *options)
    assert done.code == 0, done.err
    return done.json["parameters"]


def parameters(path: Path) -> int:
    return sum(parameter.numel() for parameter in load(path).parameters())


def test_export_takes_the_newest_checkpoint_and_names_it(cfp, tuned: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.pt2"
    done = cfp("export", "--format", "pt2", "--out", out)
    assert f"exporting {tuned / 'finetuned.pt'}, the newest checkpoint" in done.err
    earlier = exported_parameters(cfp, out)
    assert cfp("prune", "--ratio", 0.3).code == 0
    done = cfp("export", "--format", "pt2", "--out", out)
    assert f"exporting {tuned / 'pruned.pt'}, the newest checkpoint" in done.err
    pruned = exported_parameters(cfp, out)
    assert pruned == parameters(tuned / "pruned.pt") != earlier
    # The fine-tuned file of the earlier prune is still there, and its name is a way to get it.
    assert exported_parameters(cfp, out, tuned / "finetuned.pt") == earlier
    assert cfp("finetune", "--teachers", model, "--epochs", 1, "--batch-size", 16, "--views", 2).code == 0
    assert f"exporting {tuned / 'finetuned.pt'}" in cfp("export", "--format", "pt2", "--out", out).err


def test_export_refuses_a_checkpoint_of_another_scored_model(
    cfp, tuned: Path, images: Path, arch: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "small.pt2"
    other = tmp_path / "other.pt"
    torch.manual_seed(1)
    save(other, describe(create(arch, len(classes)), ModelSpec(arch, classes, input_size=(32, 32))))
    assert cfp("score", other, images, "--images", 24).code == 0
    done = cfp("export", "--format", "pt2", "--out", out)
    assert done.code == 1
    assert f"{tuned / 'finetuned.pt'} is stale" in done.err
    assert str(other) in done.err
    assert "run `cfp prune` again, or pass a model" in done.err
    assert not out.exists()
    assert cfp("prune", "--ratio", 0.3).code == 0
    assert exported_parameters(cfp, out) == parameters(tuned / "pruned.pt")


def test_scoring_the_newest_checkpoint_itself_does_not_make_it_stale(
    cfp, tuned: Path, images: Path, tmp_path: Path
) -> None:
    assert cfp("score", tuned / "finetuned.pt", images, "--images", 24).code == 0
    assert exported_parameters(cfp, tmp_path / "small.pt2") == parameters(tuned / "finetuned.pt")


def test_int8_without_images_is_wrong_usage(cfp, tmp_path: Path, model: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cfp("export", model, "--format", "onnx", "--int8", "--out", "x.onnx")
    assert done.code == 2
    assert "pass the data" in done.err


def test_bench_counts_and_times_side_by_side(cfp, tuned: Path, model: Path) -> None:
    small = tuned / "finetuned.pt"
    done = cfp("bench", model, small, "--batch-size", 1, "--batch-size", 4, "--json", *FAST)
    assert done.code == 0, done.err
    assert [each["model"] for each in done.json] == [str(model), str(small)]
    for each, path in zip(done.json, (model, small), strict=True):
        assert each["params"] == sum(parameter.numel() for parameter in load(path).parameters())
        assert each["bytes"] == path.stat().st_size
        assert [time["batch"] for time in each["latency_ms"]] == [1, 4]
        for time in each["latency_ms"]:
            assert time["threads"] == 1
            assert 0 < time["p25"] <= time["median"] <= time["p75"]
    assert done.json[0]["macs"] > done.json[1]["macs"] > 0
    record = records(tuned)[-1]
    assert record["command"] == "bench"
    assert record["metrics"]["models"] == done.json
    table = cfp("bench", model, small, *FAST).out
    assert "fewer" in table
    assert "speed-up" in table


@pytest.mark.parametrize(
    ("command", "policy"),
    [("score", "PASSIVE"), ("finetune", "PASSIVE"), *((name, None) for name in ("bench", "prune", "report", "demo"))],
)
def test_idle_threads_sleep_except_in_commands_that_time(command: str, policy: str | None, monkeypatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    cli.main([command, "--help"], standalone_mode=False)
    assert os.environ.get("OMP_WAIT_POLICY") == policy


def test_report_of_the_run(cfp, tuned: Path, tmp_path: Path) -> None:
    done = cfp("report", "--no-bench", "--json")
    assert done.code == 0, done.err
    assert done.json["out"] == str(Path("cfp-run/report.html"))
    assert done.json["bytes"] == (tuned / "report.html").stat().st_size
    assert done.json["left_out"] == {"latency": "Latency was not measured."}
    other = cfp("report", tuned, "--no-bench", "--out", tmp_path / "page.html")
    assert other.code == 0, other.err
    assert "left out: latency" in other.out
    assert (tmp_path / "page.html").is_file()
    assert cfp("report", tmp_path / "nothing").code == 1


def test_bench_refuses_a_model_twice(cfp, model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cfp("bench", model, model, *FAST)
    assert done.code == 2
    assert "given twice" in done.err


def test_fuse_gives_a_checkpoint_that_loads_and_answers_the_same(cfp, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, out = tmp_path / "vgg.pt", tmp_path / "fused.pt"
    network = create("repvgg_a0", 3)
    save(source, describe(network, ModelSpec("repvgg_a0", ("a", "b", "c"), input_size=(64, 64))))
    done = cfp("fuse", source, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json["params_before"] > done.json["params_after"]
    fused = load(out)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), network.eval()(images), rtol=1e-4, atol=1e-5)
    assert spec_of(fused).lineage[-1]["stage"] == "fuse"
    again = cfp("fuse", out, "--out", tmp_path / "twice.pt")
    assert again.code == 1
    assert "fused already" in again.err
    assert not (tmp_path / "twice.pt").exists()
