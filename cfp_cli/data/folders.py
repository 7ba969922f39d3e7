"""Image folders: `CLASS/*` trees, read as torchvision's ImageFolder reads them. What is left out is collected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cfp_cli.data.arrays import array_advice
from cfp_cli.data.image_file import image_extensions
from cfp_cli.data.left_out import LeftOut
from cfp_cli.foundation.errors import DataError

# Folders that systems, network disks and editors make inside other folders, in lower case.
_FOLDERS_OF_PROGRAMS = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "lost+found",
    "system volume information",
}


def is_image(path: Path) -> bool:
    """Return whether a file has the name of an image. Hidden files, such as `._*` of macOS, are not images."""
    return _names_image(path.name)


def relative_name(path: Path, root: Path) -> str:
    """Return the path relative to `root`, with `/` between folders. A path outside `root` stays as it is."""
    name, prefix = path.as_posix(), f"{root.as_posix().removesuffix('/')}/"
    return name.removeprefix(prefix)


def is_ignored(name: str) -> bool:
    """Return whether a folder of this name is hidden, or made by a program, such as `@eaDir`."""
    return name.startswith(".") or name.lower() in _FOLDERS_OF_PROGRAMS


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, and links to folders, sorted by name, without those of `is_ignored`.

    Raises:
        DataError: the folder cannot be read.
    """
    return [Path(entry.path) for entry in _entries(folder) if _is_folder(entry) and not is_ignored(entry.name)]


def has_images(folder: Path) -> bool:
    """Return whether `folder` itself contains an image.

    Raises:
        DataError: the folder cannot be read.
    """
    return any(_names_image(entry.name) and not _is_folder(entry) for entry in _entries(folder))


def images_below(folder: Path, left_out: LeftOut | None = None) -> list[Path]:
    """Return all images in `folder` and its subfolders, sorted by path. Links to files and folders are followed.

    Args:
        folder: the folder to search.
        left_out: collects everything that is not returned.

    Raises:
        DataError: a folder cannot be read.
    """
    return [Path(path) for path in _walk(str(folder), left_out or LeftOut(), (os.path.realpath(folder),))]


def contains_images(folder: Path) -> bool:
    """Return whether there is an image in `folder` or below it.

    Raises:
        DataError: a folder cannot be read.
    """
    return next(_walk(str(folder), LeftOut(), (os.path.realpath(folder),)), None) is not None


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory of this tool: it has records or the lock of a command, and no images.

    The default run directory is `cfp-run` in the current folder, which may be the folder of the images.

    Raises:
        DataError: a folder cannot be read.
    """
    return any((folder / name).is_file() for name in ("run.json", ".lock")) and not contains_images(folder)


def class_images(folder: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """Return the images of a `CLASS/*` tree by class name, sorted by name. A class may have no images.

    Args:
        folder: the folder of the class folders.
        left_out: collects everything that is not returned, such as run directories.

    Raises:
        DataError: there are no class folders, none contains an image, or a folder cannot be read.
    """
    runs = [path for path in subfolders(folder) if is_run(path)]
    left_out.runs.extend(runs)
    folders = [path for path in subfolders(folder) if path not in runs]
    if not folders:
        hint = "it holds images, not class folders" if has_images(folder) else "it holds no class folders"
        note_left_out(folder, left_out)
        advice = array_advice(left_out.files, f"arrange the images as {folder}/CLASS/*")
        raise DataError(f"{folder} is not an image folder: {hint}; {advice}")
    note_left_out(folder, left_out)
    by_class = {path.name: images_below(path, left_out) for path in folders}
    if not any(by_class.values()) and not left_out.dangling:
        advice = array_advice(left_out.files, f"arrange them as {folder}/CLASS/*")
        raise DataError(f"no images under {folder}; {advice}")
    return by_class


def note_left_out(folder: Path, left_out: LeftOut) -> None:
    """Add everything in `folder` itself that is not a class folder, such as files and hidden folders, to `left_out`."""
    for entry in _entries(folder):
        if _is_folder(entry):
            if is_ignored(entry.name):
                left_out.folders.append(Path(entry.path))
        elif not entry.is_file():
            left_out.links.append(Path(entry.path))
        else:
            (left_out.outside if _names_image(entry.name) else left_out.files).append(Path(entry.path))


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read ({error.strerror}); make it readable or remove it") from error


def _walk(folder: str, left_out: LeftOut, real_folders: tuple[str, ...]) -> Iterator[str]:
    """Yield the images below `folder`, in the order of their parts; `real_folders` is the way here, without links."""
    for entry in _entries(folder):
        name = entry.name
        if _is_folder(entry):
            if is_ignored(name):
                left_out.folders.append(Path(entry.path))
                continue
            way = real_folders
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if target in real_folders:
                    left_out.loops.append(Path(entry.path))
                    continue
                way = (*real_folders, target)
            yield from _walk(entry.path, left_out, way)
        elif not entry.is_file():
            # A link to nothing, or a pipe, whose reader would wait forever.
            (left_out.dangling if _names_image(name) else left_out.links).append(Path(entry.path))
        elif _names_image(name):
            yield entry.path
        else:
            left_out.files.append(Path(entry.path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _names_image(name: str) -> bool:
    stem, dot, ending = name.rpartition(".")
    return bool(stem) and not name.startswith(".") and dot + ending.lower() in image_extensions()
