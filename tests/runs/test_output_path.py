from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cfp_cli.foundation.errors import CfpError, StorageError, UsageError
from cfp_cli.runs.output_path import RUN_FILES, check_output, check_output_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    return path


def test_new_and_old_files_may_be_written_and_nothing_is_made(tmp_path: Path, model: Path) -> None:
    check_output(tmp_path / "new" / "out.pt", inputs=[model])
    check_output(model)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("link", ["none", "symbolic", "hard", "dots"])
def test_an_input_is_refused_under_any_name(tmp_path: Path, model: Path, link: str) -> None:
    out = tmp_path / "out.pt"
    if link == "none":
        out = model
    elif link == "symbolic":
        out.symlink_to(model)
    elif link == "hard":
        os.link(model, out)
    else:
        (tmp_path / "x").mkdir()
        out = tmp_path / "x" / ".." / "model.pt"
    with pytest.raises(UsageError, match="is an input of this command and would be replaced; choose another --out"):
        check_output(out, inputs=[tmp_path / "other.pt", model])


@pytest.mark.parametrize("kind", ["input", "run file", "other file"])
def test_the_advice_names_the_option_of_the_command(tmp_path: Path, run: Path, model: Path, kind: str) -> None:
    path = {"input": model, "run file": run / "plan.json", "other file": tmp_path / "net.py"}[kind]
    path.write_text("x")
    with pytest.raises(UsageError, match="choose another --csv"):
        check_output(path, inputs=[model], option="--csv")


@pytest.mark.parametrize("name", sorted(RUN_FILES))
def test_a_file_of_a_run_is_refused_except_to_its_own_command(run: Path, name: str) -> None:
    for folder in (None, run):
        with pytest.raises(UsageError, match="is a file that other commands of the run"):
            check_output(run / name, run=folder)
    check_output(run / name, own=[name])


def test_a_run_without_records_and_the_cache_are_protected_too(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UsageError, match="other commands of the run"):
        check_output(tmp_path / "new" / "last.pt", run=tmp_path / "new")
    with pytest.raises(UsageError, match="other commands of the run"):
        check_output(run / "cache" / "key.npy")


def test_folders_devices_and_circles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder; name a file in it"):
        check_output(tmp_path)
    if sys.platform != "win32":
        with pytest.raises(UsageError, match="is a device or a pipe"):
            check_output(Path(os.devnull))
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to(tmp_path / "pipe")
        with pytest.raises(UsageError, match="is a device or a pipe"):
            check_output(tmp_path / "link")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(StorageError, match="circle"):
        check_output(tmp_path / "circle")
    with pytest.raises(StorageError, match="too long; use a shorter one"):
        check_output(tmp_path / ("x" * 300))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a part of the path is a file"):
        check_output(tmp_path / "file" / "deeper" / "out.pt")


def test_an_image_of_the_data_is_refused_and_a_result_beside_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    image, result = tmp_path / "data" / "train" / "a" / "1.png", tmp_path / "data" / "rl.pt"
    image.touch()
    result.touch()
    with pytest.raises(UsageError, match="is a file of the images in"):
        check_output(image, inputs=[tmp_path / "data"])
    check_output(result, inputs=[tmp_path / "data"])


def test_folders_of_results(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    (tmp_path / "file").touch()
    check_output_folder(tmp_path / "new", inputs=[source], apart=True)
    check_output_folder(source / "results", inputs=[source])
    for path in (source, source / "inside", tmp_path):
        with pytest.raises(CfpError, match="input"):
            check_output_folder(path, inputs=[source], apart=True)
    with pytest.raises(UsageError, match="is a file; name a folder"):
        check_output_folder(tmp_path / "file")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "own.py", "names.txt", "cfp.toml", "test.txt", "Makefile", "a.xml"])
def test_files_that_cfp_does_not_write_are_not_replaced(tmp_path: Path, name: str) -> None:
    """Such as the images of a list or a glob, which are no input that the command line names."""
    check_output(tmp_path / name)
    (tmp_path / name).write_text("mine")
    for inputs in ([], [tmp_path / "*.png"]):
        with pytest.raises(UsageError, match=r"exists, and cfp writes no files that end in .*; choose another --out"):
            check_output(tmp_path / name, inputs=inputs)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.ckpt", "a.safetensors", "a.csv", "a.onnx", "a.xml", "a.bin"])
def test_earlier_results_are_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    # The weights of an OpenVINO file.
    (tmp_path / "a.bin").touch()
    check_output(tmp_path / name)


def test_lists_of_the_other_splits_are_inputs(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("a.png 0")
    with pytest.raises(UsageError, match=r"test\.csv is an input"):
        check_output(tmp_path / "test.csv", inputs=[tmp_path / "train.csv"])
