from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load


def test_folds_report_mean_and_spread_and_leave_the_network_as_it_is(
    cfp, tmp_path: Path, images: Path, arch: str
) -> None:
    options = ["--arch", arch, "--epochs", 1, "--views", 1, "--batch-size", 16, "--input-size", 32, "--json"]
    done = cfp("train", images, *options, "--folds", 3, "--out", tmp_path / "folds.pt")
    assert done.code == 0, done.err
    results = done.json["cross_validation"]
    accuracies = [fold["test"]["accuracy"] for fold in results["folds"]]
    assert len(accuracies) == 3
    assert results["mean"]["accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert results["spread"]["accuracy"] == pytest.approx(statistics.stdev(accuracies))
    # Every training image is tested once, and the images of the test split never.
    assert sum(fold["test"]["images"] for fold in results["folds"]) == sum(1 for _ in (images / "train").glob("*/*"))
    for number, fold in enumerate(results["folds"], 1):
        assert Path(fold["out"]) == tmp_path / f"folds.fold-{number}.pt"
        load(fold["out"])

    alone = cfp("train", images, *options, "--out", tmp_path / "alone.pt")
    assert alone.json["cross_validation"] is None
    assert fingerprint(load(tmp_path / "alone.pt")) == fingerprint(load(tmp_path / "folds.pt"))

    resumed = cfp("train", images, *options, "--folds", 3, "--out", tmp_path / "folds.pt", "--resume")
    assert resumed.json["cross_validation"] == results


def test_one_fold_is_refused(cfp, tmp_path: Path, images: Path, arch: str) -> None:
    refused = cfp("train", images, "--arch", arch, "--folds", 1, "--out", tmp_path / "x.pt")
    assert refused.code == 2
    assert "--folds" in refused.err
