"""Advice for files of arrays, such as `.npy`: cfp reads image files only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_NUMPY = (".npy", ".npz")
_OTHERS = (".mat", ".h5", ".hdf5", ".dcm", ".fits", ".raw", ".pt", ".pkl")
_TIFF = "convert each to a TIFF file, which keeps up to 32 bits"


def array_advice(files: Iterable[Path], otherwise: str) -> str:
    """Return what to do with files that are no images: convert arrays, else `otherwise`."""
    endings = {path.suffix.lower() for path in files}
    for ending in (*_NUMPY, *_OTHERS):
        if ending in endings:
            how = ": `PIL.Image.fromarray(numpy.load('a.npy')).save('a.tiff')`" if ending in _NUMPY else ""
            return f"cfp does not read {ending} files, so {_TIFF}{how}"
    return otherwise
