"""Whether a command may write to a path that the user named."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cfp_cli.checkpoints.export_formats import ENDINGS
from cfp_cli.data.listing import sibling_lists
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.files import require_writable
from cfp_cli.foundation.storage import storage_error

# What the commands of a run write under fixed names.
RUN_FILES = frozenset(
    (
        "run.json",
        "scores.safetensors",
        "splits.json",
        "plan.json",
        "pruned.pt",
        "finetuned.pt",
        "last.pt",
        "history.csv",
        "shrink.json",
        "shrunk.pt",
        "report.html",
        "model-card.md",
    )
)
# What this tool writes. In a folder of images, an existing file of another kind is taken for an image.
# An .xml file there may be an annotation, so it is not replaced either.
WRITTEN = frozenset((".pt", ".pth", ".safetensors", ".html", ".csv", ".md", ".json", *ENDINGS.values())) - {".xml"}
# Other endings of checkpoints that users choose, and the weights of an OpenVINO file.
_ALSO_REPLACED = frozenset((".ckpt", ".bin"))


def check_output(
    path: Path,
    *,
    inputs: Iterable[Path | str] = (),
    run: Path | None = None,
    own: Iterable[str] = (),
    option: str = "--out",
) -> None:
    """Check before the work that a file may be written, or replaced, at `path`. Links are followed.

    Args:
        path: file to write.
        inputs: files and folders that the command reads.
        run: the run directory of the command.
        own: names of the files that this command itself writes in a run directory.
        option: the option that chooses `path`, for the messages.

    Raises:
        UsageError: `path` is a folder, a device, an input, an image of an input, a file of a run that another command
            writes, or a file whose ending says that this tool did not write it, such as an image or a Python file.
        StorageError: nothing can be written there.
    """
    target, mode = _look(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder; name a file in it")
    if mode is not None and not stat.S_ISREG(mode):
        raise UsageError(f"{path} is a device or a pipe, not a file; name another file")
    for each in map(Path, inputs):
        source = _resolved(each)
        if mode is not None and any(target.samefile(file) for file in _files_of(source)):
            raise UsageError(f"{path} is an input of this command and would be replaced; choose another {option}")
        if mode is not None and source.is_dir() and target.is_relative_to(source) and target.suffix not in WRITTEN:
            raise UsageError(f"{path} is a file of the images in {each} and would be replaced; choose another {option}")
    folder = target.parent
    in_run = (folder / "run.json").exists() or (run is not None and folder == _resolved(run))
    in_cache = folder.name == "cache" and (folder.parent / "run.json").exists()
    if (in_run and target.name in RUN_FILES - set(own)) or in_cache:
        raise UsageError(f"{path} is a file that other commands of the run {folder} use; choose another {option}")
    if mode is not None and not _may_be_replaced(target):
        raise UsageError(
            f"{path} exists, and cfp writes no files that end in '{target.suffix or target.name}'; choose another "
            f"{option}, or delete the file if you do not need it"
        )
    _require_room(path, folder)


def _files_of(source: Path) -> list[Path]:
    """Return the files that belong to an input file: the file itself, and the lists of the other splits of a list."""
    return [source, *sibling_lists(source).values()] if source.is_file() else []


def _may_be_replaced(target: Path) -> bool:
    """Return whether a file has an ending that this tool writes. Any other file may be an input that nothing names.

    Such files are images of a list or of a glob, the Python file of `--arch`, the file of `--classes` and `cfp.toml`.
    An `.xml` file is one of this tool if its weights are beside it.
    """
    if target.suffix == ".xml":
        return target.with_suffix(".bin").is_file()
    return target.suffix in WRITTEN | _ALSO_REPLACED


def check_output_folder(path: Path, *, inputs: Iterable[Path | str] = (), apart: bool = False) -> None:
    """Check before the work that files may be written into a folder, which need not exist. Links are followed.

    Args:
        path: folder to write to.
        inputs: files and folders that the command reads.
        apart: whether the folder must neither be inside an input nor contain one.

    Raises:
        UsageError: `path` is a file or an input, or is not apart.
        StorageError: nothing can be written there.
    """
    target, mode = _look(path)
    if mode is not None and not stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a file; name a folder")
    for each in map(Path, inputs):
        source = _resolved(each)
        if target == source:
            raise UsageError(f"{path} is an input of this command; choose another folder")
        if apart and source.is_dir() and (target.is_relative_to(source) or source.is_relative_to(target)):
            raise UsageError(f"{path} and the input {each} are inside one another; choose a folder outside of it")
    _require_room(path, target)


def _look(path: Path) -> tuple[Path, int | None]:
    """Return the path with all links resolved and its mode; the mode is None if the path does not exist."""
    target = _resolved(path)
    try:
        return target, target.stat().st_mode
    except FileNotFoundError:
        return target, None
    except OSError as error:
        raise storage_error(path, error) from error


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError as error:
        raise storage_error(path, OSError(errno.ELOOP, "circle of links")) from error
    except OSError as error:
        raise storage_error(path, error) from error


def _require_room(path: Path, folder: Path) -> None:
    """Check that the nearest folder that exists can be written to; make nothing."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise storage_error(path, NotADirectoryError(errno.ENOTDIR, "not a folder"))
    require_writable(folder)
