from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import cfp_core
from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import spec_of


def test_the_three_lines(cfp, tmp_path: Path, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    score = cfp("score", model, images, "--threads", 2, "--json")
    assert score.code == 0, score.err
    assert {"layers", "images", "seconds", "forward_seconds"} <= score.json.keys()
    assert [layer["channels"] for layer in score.json["layers"]] == [12, 16, 24]
    assert {"name", "channels", "height", "width", "clusters", "richness_mean"} <= score.json["layers"][0].keys()

    prune = cfp("prune", "--ratio", 0.6, "--threads", 2, "--json")
    assert prune.code == 0, prune.err
    assert abs(prune.json["achieved"] - 0.6) <= 0.005
    assert prune.json["params_before"] == sum(p.numel() for p in load(model).parameters())
    assert prune.json["params_after"] == sum(p.numel() for p in load(prune.json["out"]).parameters())
    assert prune.json["compression"] == pytest.approx(prune.json["params_before"] / prune.json["params_after"])
    assert prune.json["max_abs_logit_error"] < 1e-4

    options = ("--epochs", 2, "--batch-size", 16, "--views", 2, "--threads", 2, "--json")
    tuned = cfp("finetune", "--teachers", model, model, *options)
    assert tuned.code == 0, tuned.err
    assert {"epochs", "seconds", "best_epoch", "val", "test", "out"} <= tuned.json.keys()
    evaluated = cfp("eval", tuned.json["out"], images, "--json")
    assert {name: value for name, value in evaluated.json.items() if name != "mistakes"} == tuned.json["test"]
    assert evaluated.json["images"] == 24

    run = json.loads((tmp_path / "cfp-run" / "run.json").read_text())
    assert [record["command"] for record in run["records"]] == ["score", "prune", "finetune"]
    for record in run["records"]:
        assert {"arguments", "seed", "inputs", "seconds", "metrics", "versions"} <= record.keys()
    assert [entry["stage"] for entry in spec_of(load(tuned.json["out"])).lineage] == ["prune", "finetune"]


def test_the_score_file_holds_what_scripts_read(scored: Path, model: Path) -> None:
    with safe_open(scored / "scores.safetensors", framework="numpy") as file:
        facts = json.loads(file.metadata()["cfp"])
        for tap in facts["taps"]:
            norms, richness, linkage = (
                file.get_tensor(f"tap/{tap['name']}/{n}") for n in ("norms", "richness", "linkage")
            )
            channels = len(richness)
            assert norms.shape == (24, channels)
            assert linkage.shape == (channels - 1, 4)
            assert np.isfinite(norms).all()


@pytest.mark.parametrize("richness", ["explained-variance", "rank"])
def test_scores_are_those_of_a_plain_forward_pass(
    cfp, tmp_path: Path, model: Path, images: Path, richness: str
) -> None:
    from cfp_cli.data.dataset import open_dataset
    from cfp_cli.data.images import sample
    from cfp_cli.data.transforms import Preprocessing

    network = load(model)
    store = sample(open_dataset(images), 24, 0, Preprocessing.of(spec_of(network)))
    with torch.inference_mode():
        maps = network[1](network[0](next(iter(store.batches(24)))[0])).numpy()
    scored = cfp("score", model, images, "--images", 24, "--richness", richness, "--run", tmp_path / "run")
    assert scored.code == 0, scored.err
    with safe_open(tmp_path / "run" / "scores.safetensors", framework="numpy") as file:
        norms = file.get_tensor("tap/1.2/norms")
        found = file.get_tensor("tap/1.2/richness")
    np.testing.assert_allclose(norms, np.linalg.norm(maps, axis=(2, 3)), rtol=1e-5)
    if richness == "rank":
        np.testing.assert_allclose(found, np.linalg.matrix_rank(np.round(maps, 4)).mean(0), atol=1e-9)
    else:
        by_channel = maps.astype(np.float64).transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
        np.testing.assert_allclose(found, cfp_core.explained_variance(np.cov(by_channel)), atol=1e-4)


def test_scores_do_not_depend_on_the_batch_size(cfp, tmp_path: Path, model: Path, images: Path) -> None:
    taken = []
    for size in (5, 24):
        run = tmp_path / str(size)
        assert cfp("score", model, images, "--images", 24, "--batch-size", size, "--run", run).code == 0
        with safe_open(run / "scores.safetensors", framework="numpy") as file:
            taken.append({name: file.get_tensor(name) for name in file.keys() if "richness" in name})  # noqa: SIM118
    for name, value in taken[0].items():
        np.testing.assert_array_equal(value, taken[1][name])


def test_a_replayed_plan_gives_the_same_network_bit_for_bit(cfp, scored: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    assert cfp("prune", "--ratio", 0.5, "--out", first).code == 0
    replay = cfp("prune", "--plan", scored / "plan.json", "--out", second)
    assert replay.code == 0, replay.err
    assert fingerprint(load(first)) == fingerprint(load(second))


def test_a_dry_run_writes_nothing(cfp, scored: Path) -> None:
    before = {path: path.read_bytes() for path in scored.rglob("*") if path.is_file()}
    result = cfp("prune", "--ratio", 0.5, "--dry-run", "--json")
    assert result.code == 0
    assert result.json["out"] is None
    assert [group["channels"] for group in result.json["sets"]] == [12, 16, 24, 6]
    assert {path: path.read_bytes() for path in scored.rglob("*") if path.is_file()} == before


def test_a_dry_run_of_rounds_shows_the_first_round_and_the_end(cfp, scored: Path) -> None:
    before = {path: path.read_bytes() for path in scored.rglob("*") if path.is_file()}
    result = cfp("prune", "--ratio", 0.75, "--rounds", 2, "--dry-run", "--json")
    assert result.code == 0, result.err
    assert result.json["achieved"] == pytest.approx(0.5, abs=0.005)
    shown = cfp("prune", "--ratio", 0.75, "--steps", 2, "--dry-run").out
    assert "round 1 of 2" in " ".join(shown.split())
    assert "75.00%" in shown
    assert {path: path.read_bytes() for path in scored.rglob("*") if path.is_file()} == before


def test_flops_is_a_second_name_of_macs(cfp, scored: Path) -> None:
    plans = [cfp("prune", "--ratio", 0.5, "--target", name, "--dry-run", "--json").json for name in ("macs", "flops")]
    assert plans[0] == plans[1]
    assert plans[0]["target"] == "macs"
    assert plans[0]["macs_after"] == pytest.approx(0.5 * plans[0]["macs_before"], rel=0.02)


def test_accuracy_is_printed_by_stage(cfp, scored: Path) -> None:
    ask = ("prune", "--ratio", 0.5, "--json")
    assert [*cfp(*ask).json["accuracy"]] == ["before", "rebuilt", "reconstructed"]
    assert [*cfp(*ask, "--no-reconstruct").json["accuracy"]] == ["before", "rebuilt", "recalibrated"]
    assert [*cfp(*ask, "--no-reconstruct", "--no-bn-recalibrate").json["accuracy"]] == ["before", "rebuilt"]
    shown = cfp("prune", "--ratio", 0.5).out
    for line in ("val macro-F1", "val worst class"):
        assert shown.count(line) == 1


def test_an_input_of_another_run_is_refused_naming_both(cfp, scored: Path, tmp_path: Path, model: Path) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(model.read_bytes())
    assert cfp("prune", other, "--ratio", 0.5).code == 0, "the same content under another name is the same model"
    content = torch.load(model, weights_only=True)
    next(iter(content["state_dict"].values())).mul_(2)
    torch.save(content, other)
    refused = cfp("prune", other, "--ratio", 0.5)
    assert refused.code == 1
    assert str(model) in refused.err
    assert str(other) in refused.err


def test_training_a_teacher(cfp, tmp_path: Path, images: Path, arch: str) -> None:
    out = tmp_path / "rl.pt"
    options = ("--epochs", 2, "--batch-size", 16, "--views", 2, "--json")
    first = cfp("train", images, "--arch", arch, "--input-size", 32, "--out", out, *options)
    assert first.code == 0, first.err
    assert spec_of(load(out)).input_size == (32, 32)
    second = cfp("train", images, "--init", out, "--sampler", "balanced", "--out", tmp_path / "cl.pt", *options)
    assert second.code == 0, second.err
    assert [entry["stage"] for entry in spec_of(load(tmp_path / "cl.pt")).lineage] == ["train", "train"]


def test_a_teacher_of_other_classes_is_a_start(cfp, tmp_path: Path, model: Path, images: Path) -> None:
    data = tmp_path / "others"
    shutil.copytree(images, data)
    for split in ("train", "test"):
        shutil.rmtree(max((data / split).iterdir()))
    line = (
        "train",
        data,
        "--init",
        model,
        "--out",
        tmp_path / "rl.pt",
        "--epochs",
        1,
        "--batch-size",
        16,
        "--views",
        1,
    )
    refused = cfp(*line)
    assert refused.code == 1
    assert "--new-head" in refused.err
    assert cfp(*line, "--new-head", "--json").code == 0
    assert spec_of(load(tmp_path / "rl.pt")).classes == tuple(sorted(path.name for path in (data / "train").iterdir()))
    alone = cfp("train", data, "--arch", "vgg16_bn_gap", "--new-head", "--out", tmp_path / "x.pt")
    assert alone.code == 2
    assert "--init" in alone.err


def test_without_a_terminal_nothing_redraws(cfp, scored: Path) -> None:
    result = cfp("finetune", "--help")
    assert "\x1b" not in result.out + result.err
    pruned = cfp("prune", "--ratio", 0.5)
    assert pruned.code == 0
    assert "\x1b" not in pruned.out + pruned.err
    assert "\r" not in pruned.out + pruned.err


@pytest.mark.slow
def test_the_demo(cfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cfp_cli.runs import demo

    for name, value in (("PER_CLASS", 16), ("TEST_PER_CLASS", 4), ("TEACHER_EPOCHS", 1), ("BALANCED_EPOCHS", 1)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "STUDENT_EPOCHS", 1)
    # Timing other runtimes takes time and has tests of its own.
    monkeypatch.setattr("cfp_cli.exporting.benchmark.is_available", lambda _: False)
    result = cfp("demo", "--run", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    assert result.json["compression"] == pytest.approx(20, rel=0.15)
    assert Path(result.json["out"]).is_file()


def test_pruning_in_rounds_without_refit_measures_the_rebuilt_network(cfp, scored: Path) -> None:
    options = ("--rounds", 2, "--recovery-epochs", 1, "--no-reconstruct", "--no-bn-recalibrate")
    result = cfp("prune", "--ratio", 0.5, *options, "--json")
    assert result.code == 0, result.err
    assert list(result.json["accuracy"]) == ["before", "rebuilt"]


def test_pruning_in_rounds(cfp, scored: Path, model: Path, images: Path) -> None:
    result = cfp("prune", "--ratio", 0.7, "--rounds", 2, "--recovery-epochs", 1, "--json")
    assert result.code == 0, result.err
    assert abs(result.json["achieved"] - 0.7) <= 0.005
    pruned = load(result.json["out"])
    assert result.json["params_after"] == sum(p.numel() for p in pruned.parameters())
    kept = {group["name"]: group["kept"] for group in result.json["sets"]}
    assert kept["0.0"] == pruned[0][0].out_channels
    plan = json.loads((scored / "plan.json").read_text())
    assert all(len(set(group["kept"])) == len(group["kept"]) for group in plan["sets"])
    assert all(max(group["kept"]) < group["channels"] for group in plan["sets"])
    replay = cfp("prune", "--plan", scored / "plan.json")
    assert replay.code == 1
    assert "--rounds" in replay.err


def test_compare_takes_lists_and_goes_on(cfp, tmp_path: Path, model: Path, images: Path) -> None:
    asked = ["compare", images, "--teachers", model, model, "--ratios", 0.5, 0.6, "--seeds", 0, "--epochs", 1]
    asked += ["--views", 1, "--batch-size", 16, "--images", 12, "--out", tmp_path / "out", "--json"]
    found = cfp(*asked, "--methods", "l1", "random")
    assert found.code == 0, found.err
    assert [
        (each["ratio"], each["method"]) for each in sorted(found.json, key=lambda e: (e["ratio"], e["method"]))
    ] == [
        (0.5, "l1"),
        (0.5, "random"),
        (0.6, "l1"),
        (0.6, "random"),
    ]
    written = (tmp_path / "out" / "results.csv").read_bytes()
    again = cfp(*asked, "--methods", "l1", "random")
    assert again.json == found.json
    assert (tmp_path / "out" / "results.csv").read_bytes() == written
    assert cfp(*asked, "--methods", "l3").code == 2
    untrained = cfp(*asked, "--methods", "l1", "--no-finetune", "--no-reconstruct")
    assert untrained.code == 0, untrained.err
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == len(written.splitlines()) + 2
