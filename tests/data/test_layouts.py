from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfp_cli.data.arrange import split_layout
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.layouts import GC10, NEU, X_SDD, X_SDD_LONG_TAIL, read_layout
from cfp_cli.foundation.errors import DataError, UsageError
from cfp_cli.foundation.progress import Silent


def images(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number % 256).save(folder / name)
    return folder


def counted(root: Path) -> dict[str, dict[str, int]]:
    return {
        split.name: {label.name: len(list(label.iterdir())) for label in sorted(split.iterdir())}
        for split in sorted(root.iterdir())
    }


NEU_FLAT = [f"{prefix}_{number}.bmp" for prefix in ("Cr", "In", "Pa", "PS", "RS", "Sc") for number in range(1, 21)]


def test_neu_flat_files(tmp_path: Path) -> None:
    images(tmp_path / "neu", NEU_FLAT)
    made = split_layout(tmp_path / "neu", tmp_path / "out")
    assert made.layout == "neu"
    assert made.classes == tuple(sorted(NEU.values()))
    assert counted(tmp_path / "out") == made.images
    assert made.images == {
        split: dict.fromkeys(made.classes, count) for split, count in {"train": 13, "val": 3, "test": 4}.items()
    }
    for path in (tmp_path / "out").rglob("*.bmp"):
        assert NEU[path.name[:2].lower()] == path.parent.name
        assert path.read_bytes() == (tmp_path / "neu" / path.name).read_bytes()


def test_neu_class_folders_with_splits(tmp_path: Path) -> None:
    names = ["Crazing", "Inclusion", "Patches", "Pitted", "Rolled", "Scratches"]
    images(
        tmp_path / "neu",
        [f"{split}/{name}/{i}.bmp" for split in ("train", "test", "valid") for name in names for i in range(4)],
    )
    made = split_layout(tmp_path / "neu", tmp_path / "out")
    assert made.layout == "neu"
    assert made.images == {split: dict.fromkeys(sorted(NEU.values()), 4) for split in ("train", "val", "test")}


def test_gc10_folders_by_number(tmp_path: Path) -> None:
    names = [f"{number}/img_{number}_{index}.jpg" for number in range(1, 11) for index in range(10)]
    images(tmp_path / "gc10", names)
    (tmp_path / "gc10/lable").mkdir()
    (tmp_path / "gc10/lable/img_1_0.xml").touch()
    made = split_layout(tmp_path / "gc10", tmp_path / "out", "gc10")
    assert made.layout == "gc10"
    for path in (tmp_path / "out").rglob("*.jpg"):
        assert path.parent.name == GC10[int(path.name.split("_")[1]) - 1]
    assert [sum(part.values()) for part in made.images.values()] == [60, 20, 20]
    assert split_layout(tmp_path / "gc10", tmp_path / "out2").layout == "gc10"


def test_gc10_photographs_in_two_classes_are_told(tmp_path: Path) -> None:
    names = [f"{number}/img_{number}_{index}.jpg" for number in range(1, 11) for index in range(3)]
    images(tmp_path / "gc10", [*names, "6/img_7_1.jpg"])
    told: list[str] = []

    class Told(Silent):
        def say(self, message: str) -> None:
            told.append(message)

    read_layout(tmp_path / "gc10", progress=Told())
    assert told == ["1 file names are in more than one class, such as img_7_1.jpg"]


def test_x_sdd_and_its_long_tail(tmp_path: Path) -> None:
    names = [
        f"{label.replace('_', ' ').title()}/{i}.png"
        for label in X_SDD
        for i in range(350 if label == "red_iron" else 40)
    ]
    images(tmp_path / "x", names)
    natural = split_layout(tmp_path / "x", tmp_path / "natural", seed=4)
    tailed = split_layout(tmp_path / "x", tmp_path / "tailed", "x-sdd", seed=4, counts=X_SDD_LONG_TAIL)
    assert natural.layout == tailed.layout == "x-sdd"
    assert tailed.images["train"] == X_SDD_LONG_TAIL
    assert sum(X_SDD_LONG_TAIL.values()) == 290
    assert (tailed.images["val"], tailed.images["test"]) == (natural.images["val"], natural.images["test"])
    kept, whole = ({p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*.png")} for n in ("tailed", "natural"))
    assert kept < whole
    with pytest.raises(UsageError, match="class 'red_iron' has 227 training images, not 400"):
        split_layout(tmp_path / "x", tmp_path / "other", counts={**X_SDD_LONG_TAIL, "red_iron": 400})
    with pytest.raises(UsageError, match="counts are for red_iron but the classes are finishing"):
        split_layout(tmp_path / "x", tmp_path / "other", counts={"red_iron": 4})
    assert not (tmp_path / "other").exists()


def elpv(folder: Path) -> Path:
    images(folder, [f"images/cell{number:04}.png" for number in range(40)])
    rows = [
        f"images/cell{i:04}.png  {(0.0, 0.3333333333333333, 0.6666666666666666, 1.0)[i % 4]:<20} mono"
        for i in range(40)
    ]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_elpv_probabilities_are_the_classes(tmp_path: Path) -> None:
    made = split_layout(elpv(tmp_path / "elpv"), tmp_path / "out")
    assert made.layout == "elpv"
    assert made.classes == ("defect_000", "defect_033", "defect_067", "defect_100")
    for path in (tmp_path / "out").rglob("*.png"):
        assert path.parent.name == made.classes[int(path.stem[4:]) % 4]
    assert made.images["test"] == dict.fromkeys(made.classes, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/cell0001.png 0.5 mono", "line 41 is"),
        ("images/x.png 1.0 mono", "names images/x.png"),
        ("what", "line 41"),
    ],
)
def test_elpv_damaged_table(tmp_path: Path, row: str, message: str) -> None:
    elpv(tmp_path)
    with (tmp_path / "labels.csv").open("a") as file:
        file.write(row)
    with pytest.raises(DataError, match=message):
        read_layout(tmp_path)


def test_elpv_from_its_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("elpv_dataset") is None:
        with pytest.raises(DataError, match="run pip install elpv-dataset"):
            read_layout("elpv-dataset")
        return
    found = read_layout("elpv-dataset")
    assert {label: len(members) for label, members in found.splits["train"].items()} == {
        "defect_000": 1508,
        "defect_033": 295,
        "defect_067": 106,
        "defect_100": 715,
    }


def test_other_trees_and_lists_are_split_too(tmp_path: Path) -> None:
    images(tmp_path / "own", [f"{label}/{part}/{i}.png" for label in ("ok", "nok") for part in "ab" for i in range(10)])
    made = split_layout(tmp_path / "own", tmp_path / "out", seed=1)
    assert made.layout == "folders"
    assert made.images == {"train": {"nok": 13, "ok": 13}, "val": {"nok": 3, "ok": 3}, "test": {"nok": 4, "ok": 4}}
    names = sorted(path.name for path in (tmp_path / "out").rglob("*.png"))
    assert names == sorted(f"{part}__{i}.png" for _ in range(2) for part in "ab" for i in range(10))
    data = open_dataset(tmp_path / "out")
    assert data.split_origin == {"train": "train/", "val": "val/", "test": "test/"}


def test_given_test_split_stays(tmp_path: Path) -> None:
    images(
        tmp_path / "own",
        [f"{split}/{label}/{i}.png" for split in ("train", "test") for label in "ab" for i in range(20)],
    )
    made = split_layout(tmp_path / "own", tmp_path / "out")
    assert made.images == {"train": {"a": 17, "b": 17}, "val": {"a": 3, "b": 3}, "test": {"a": 20, "b": 20}}


def test_seed_decides_the_split(tmp_path: Path) -> None:
    images(tmp_path / "neu", NEU_FLAT)
    trees = [
        split_layout(tmp_path / "neu", tmp_path / f"out{i}", seed=seed).destination for i, seed in enumerate((0, 0, 1))
    ]
    files = [sorted(path.relative_to(tree) for path in tree.rglob("*.bmp")) for tree in trees]
    assert files[0] == files[1] != files[2]


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    images(tmp_path / "neu", NEU_FLAT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    images(tmp_path / "part", [name for name in NEU_FLAT if not name.startswith("Sc")])
    for source, destination, layout, error, message in [
        ("neu", "full", "auto", DataError, "exists and is not an empty folder"),
        (
            "neu",
            "out",
            "gc10",
            DataError,
            "does not have the layout gc10; pass a folder with the class folders 1 to 10",
        ),
        ("neu", "out", "neo", UsageError, "unknown layout 'neo'; use auto, elpv, gc10, neu, x-sdd"),
        ("nowhere", "out", "auto", DataError, "no such folder"),
        ("part", "out", "auto", DataError, "class 'scratches' has no images"),
    ]:
        with pytest.raises(error, match=message) as caught:
            split_layout(tmp_path / source, tmp_path / destination, layout)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


@pytest.mark.shared_data
def test_real_sets_are_recognised(shared: Path) -> None:
    assert read_layout(shared / "data/neu-cls").layout == "neu"
    found = read_layout(shared / "data/x-sdd")
    assert found.layout == "x-sdd"
    sizes = np.array([len(members) for members in found.splits["train"].values()])
    assert (sizes.max(), sizes.min(), sizes.sum()) == (278, 44, 952)
