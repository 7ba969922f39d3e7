"""`cfp predict`: the same classes as `cfp eval`, from every kind of model file and of image source."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.exporting.export import export

RUNTIMES = {"onnx": "onnxruntime", "pt2": "torch", "openvino": "openvino"}
FORMATS = [
    pytest.param(
        name, marks=pytest.mark.skipif(importlib.util.find_spec(runtime) is None, reason=f"{runtime} is not installed")
    )
    for name, runtime in RUNTIMES.items()
]
ENDINGS = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}


@pytest.fixture(scope="module")
def varied(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with preprocessing of its own, whose logits differ from image to image."""
    network = load(model)
    with torch.no_grad():
        network[-1].weight.mul_(300)
    from dataclasses import replace

    network.spec = replace(network.spec, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), input_size=(32, 48))
    path = tmp_path_factory.mktemp("varied") / "varied.pt"
    save(path, network)
    return path


@pytest.fixture(scope="module")
def expected(varied: Path, images: Path) -> dict[str, torch.Tensor]:
    """Probabilities of each test image by path, computed one image at a time."""
    network = load(varied)
    preprocessing = Preprocessing.of(network.spec)
    found = {}
    with torch.inference_mode():
        for path in sorted((images / "test").rglob("*.png")):
            pixels = preprocessing.normalise(torch.from_numpy(preprocessing.pixels(path))[None])
            found[str(path)] = network(pixels).softmax(1)[0]
    return found


def check(rows, expected, classes) -> None:
    assert [row["path"] for row in rows] == list(expected)
    for row in rows:
        probabilities = expected[row["path"]]
        assert list(row["probabilities"]) == list(classes)
        assert list(row["probabilities"].values()) == pytest.approx(probabilities.tolist(), abs=1e-4)
        assert row["class"] == classes[int(probabilities.argmax())]
        assert row["confidence"] == max(row["probabilities"].values())
        assert row["unsure"] is False


def test_a_checkpoint_on_a_folder_tree(cfp, varied, images, expected, classes) -> None:
    done = cfp("predict", varied, images / "test", "--batch-size", 5, "--json")
    assert done.code == 0, done.err
    check(done.json, expected, classes)


@pytest.mark.parametrize("format", FORMATS)
def test_exported_files_need_nothing_beside_them(cfp, format, varied, images, expected, classes, tmp_path) -> None:
    path = tmp_path / f"small{ENDINGS[format]}"
    export(load(varied), path, format)
    done = cfp("predict", path, images / "test", "--json", *(["--unsafe-pickle"] if format == "pt2" else []))
    assert done.code == 0, done.err
    check(done.json, expected, classes)
    if format == "pt2":
        refused = cfp("predict", path, images / "test")
        assert refused.code == 1
        assert "can run code" in refused.err
        assert "--unsafe-pickle" in refused.err


@pytest.mark.parametrize("given", [False, True])
def test_the_bit_depth_of_images_is_given_or_said(cfp, varied, tmp_path: Path, given: bool) -> None:
    Image.fromarray(np.full((40, 40), 700, np.uint16)).save(tmp_path / "dark.png")
    done = cfp("predict", varied, tmp_path, *(["--bit-depth", 12] if given else []))
    assert done.code == 0, done.err
    assert ("the bit depth is 10" in " ".join(done.err.split())) is not given


def test_sources(cfp, varied, images, expected, classes, tmp_path, monkeypatch) -> None:
    tree = tmp_path / "in coming"
    shutil.copytree(images / "test", tree)
    monkeypatch.chdir(tmp_path)
    some = sorted(tree.rglob("*.png"))
    (tree / ".hidden.png").write_bytes(b"")
    relative = [path.relative_to(tmp_path) for path in some]
    (tmp_path / "paths.txt").write_text("\n".join(map(str, relative)) + "\n\n")
    (tmp_path / "labelled.txt").write_text("".join(f"{path} {path.parent.name}\n" for path in relative))
    for source in ("in coming", "in coming/*", "in coming/**/*.png", "paths.txt", "labelled.txt"):
        rows = cfp("predict", varied, source, "--json").json
        assert sorted(row["path"] for row in rows) == sorted(map(str, relative)), source
    rows = cfp("predict", varied, relative[3], relative[1], relative[3], "--json").json
    assert [row["path"] for row in rows] == [str(relative[3]), str(relative[1])]
    for source, message in (
        ("missing", "no such file or folder"),
        ("*.tiff", "no images match"),
        ("empty", "no images under"),
        ("empty.txt", "lists no images"),
        ("varied.bin", "neither an image"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "empty.txt").write_text("\n")
        (tmp_path / "varied.bin").write_bytes(varied.read_bytes())
        done = cfp("predict", varied, source)
        assert done.code == 1
        assert message in done.err
        assert len(done.err.splitlines()) == 1


def test_csv_threshold_and_unreadable_images(cfp, varied, images, expected, classes, tmp_path) -> None:
    folder = tmp_path / "new"
    shutil.copytree(images / "test", folder)
    (folder / 'broken, "name".png').write_bytes(b"not an image")
    confidences = sorted(float(each.max()) for each in expected.values())
    threshold = sum(confidences[11:13]) / 2
    out = tmp_path / "out.csv"
    arguments = ("predict", varied, folder, "--csv", out, "--threshold", threshold, "--max-bad", "10%")
    done = cfp(*arguments)
    assert done.code == 0, done.err
    assert "skipped" in done.err
    assert "24 images, 1 cannot be read" in done.out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "class", "confidence", "unsure", *(f"p({name})" for name in classes)]
    assert len(rows) == 24
    for row in rows:
        assert row["unsure"] == ("unsure" if float(row["confidence"]) < threshold else "")
        assert float(row["confidence"]) == max(float(row[f"p({name})"]) for name in classes)
    assert sum(row["unsure"] == "unsure" for row in rows) == 12
    assert sum(each["unsure"] for each in cfp(*arguments, "--json").json) == 12
    refused = cfp("predict", varied, folder)
    assert refused.code == 1
    assert "more than the accepted 1%" in refused.err
    # Nothing of the user's is replaced.
    assert cfp("predict", varied, folder, "--csv", varied).code == 2
    names = tmp_path / "names.csv"
    names.write_text("\n".join(classes))
    assert cfp("predict", varied, folder, "--classes", names, "--csv", names).code == 2
    assert names.read_text() == "\n".join(classes)
    picture = next(folder.rglob("*.png"))
    assert cfp("predict", varied, folder, "--csv", picture, "--max-bad", 1).code == 2
    Image.open(next((folder / classes[0]).glob("*.png"))).verify()


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"<net/>", b"\x08\x07", bytes(4000)])
@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".xml", ".pt"])
def test_damaged_and_foreign_files_get_one_line(cfp, content: bytes, ending: str, images, tmp_path) -> None:
    if ending in (".onnx",) and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    path = tmp_path / f"model{ending}"
    path.write_bytes(content)
    done = cfp("predict", path, images / "test", "--unsafe-pickle")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "this is a bug" not in done.err
    assert str(path) in done.err


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_are_checked(cfp, format, varied, images, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cfp_cli.exporting.export as module

    path = tmp_path / f"small{ENDINGS[format]}"
    export(load(varied), path, format)
    good = module.describe_file(load(varied).spec, int8=False)
    for name, value, words in (
        ("format", "other", "does not say which classes"),
        ("classes", "[", "classes in its metadata is not JSON"),
        ("classes", '["only one"]', "names 1 classes"),
        ("input_size", "[1e9, 5]", "input_size"),
        ("std", "[0, 1, 1]", "std"),
    ):
        monkeypatch.setattr("cfp_cli.exporting.open_file._METADATA", {format: lambda _: {**good, name: value}})  # noqa: B023
        done = cfp("predict", path, images / "test", "--unsafe-pickle")
        assert done.code == 1, (name, value)
        assert words in done.err
        assert len([line for line in done.err.splitlines() if line.startswith("error")]) == 1
