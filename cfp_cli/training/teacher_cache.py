"""A frozen teacher's logits on every view of every training image, computed once and kept on disk.

After that an epoch costs only the student. The file is named after the teacher's weights and the views' key, so that it
serves later epochs, restarts and runs, and never another teacher or other images.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.execution import distributed
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.foundation.errors import TrainingError
from cfp_cli.foundation.files import remove_leftovers, sha256, write_atomic
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.training.interrupt import Interrupt
from cfp_cli.training.order import Views

Logits = np.ndarray[tuple[int, int, int], np.dtype[np.float32]]
# Blocks are what is kept of a computation that was cut off. They are the same whoever computes them, and so are the
# batches within, so that a continued cache holds the same bits as one computed at once.
_BATCH = 64
_BLOCKS = 64


def teacher_logits(
    teacher: nn.Module,
    views: Views,
    classes: int,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
    description: str = "teacher",
) -> Logits:
    """The logits of a teacher in eval mode, float32 [N, V, classes], mapped from a file.

    A computation that was cut off is continued. Several processes share the work.

    Args:
        teacher: gives logits float32 [n, classes]; its mode is the same afterwards.
        views: N images in V views, in the teacher's own preprocessing.
        classes: number of logits.
        folder: where logits are kept; shared by the processes of a machine.
        device: where to compute.
        progress: told of each block.
        description: of the progress.

    Raises:
        TrainingError: a logit is NaN or infinite, or there is another number of them.
        KeyboardInterrupt: SIGINT or SIGTERM came; what is computed is kept.
    """
    key = hashlib.sha256(f"{fingerprint(teacher)}\n{teacher}\n{_code(teacher)}\n{views.key}".encode()).hexdigest()
    whole, parts = folder / f"{key}.npy", folder / f"{key}.parts"
    shape = (len(views), views.views, classes)
    workers = distributed.current()
    blocks = _blocks(len(views), views.views)
    device = torch.device(device)
    if workers.any(_read(whole, shape) is None, device):
        # First every process its share, then whatever a process still misses where folders are not shared.
        for mine in (blocks[workers.rank :: workers.world_size], blocks):
            missing = [block for block in mine if _read(_part(parts, block), _shape(block, shape)) is None]
            if missing and _read(whole, shape) is None:
                _compute(teacher, views, classes, parts, missing, device, progress, description)
            workers.barrier()
        if _read(whole, shape) is None:
            tables = [_read(_part(parts, block), _shape(block, shape)) for block in blocks]
            _write(whole, np.concatenate([table for table in tables if table is not None]))
        workers.barrier()
    # Also where the table was there: a run killed just after writing it left its parts.
    shutil.rmtree(parts, ignore_errors=True)
    remove_leftovers(whole.parent)
    logits = _read(whole, shape)
    if logits is None:
        raise TrainingError(f"{whole} cannot be read back; check the disk's free space")
    return logits


def _code(teacher: nn.Module) -> list[str]:
    """Hashes of the files that say what a teacher computes with its weights; a user's own may have changed."""
    forwards = {getattr(type(module).forward, "__code__", None) for module in teacher.modules()}
    files = {Path(code.co_filename) for code in forwards if code is not None}
    return sorted(sha256(file) for file in files if file.is_file())


def _blocks(images: int, views: int) -> list[range]:
    """Runs of images, each a 64th of them but no less than one forward batch."""
    size = max(-(-images // _BLOCKS), -(-_BATCH // views))
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def _compute(
    teacher: nn.Module,
    views: Views,
    classes: int,
    parts: Path,
    blocks: list[range],
    device: torch.device,
    progress: Progress,
    description: str,
) -> None:
    was_on = next((value.device for value in teacher.parameters()), device)
    teacher.to(device)
    try:
        with evaluating(teacher), torch.inference_mode(), Interrupt() as interrupt:
            for block in progress.track(blocks, description, total=len(blocks), unit="block"):
                pairs = [grid.ravel() for grid in np.meshgrid(np.array(block), np.arange(views.views), indexing="ij")]
                batches = zip(*(np.array_split(column, -(-len(column) // _BATCH)) for column in pairs), strict=True)
                logits = torch.cat([_forward(teacher, views.get(*batch), device) for batch in batches])
                if logits.shape[1:] != (classes,):
                    raise TrainingError(
                        f"a teacher gives logits of shape {tuple(logits.shape[1:])}, not {classes} classes; "
                        "use teachers trained on the student's classes"
                    )
                if not bool(torch.isfinite(logits).all()):
                    raise TrainingError("a teacher gives NaN or infinite logits; train it again")
                _write(_part(parts, block), logits.view(len(block), views.views, classes).numpy())
                interrupt.check()
    finally:
        teacher.to(was_on)


def _forward(teacher: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Logits on the CPU; images equal pixel for pixel (a frequent view is named twice) are computed once."""
    first: dict[bytes, int] = {}
    pixels = [image.numpy().tobytes() for image in images]
    place = [first.setdefault(content, len(first)) for content in pixels]
    distinct = images[[pixels.index(content) for content in first]]
    logits: Tensor = teacher(distinct.to(device, memory_format=torch.channels_last)).float().cpu()
    return logits[place]


def _part(parts: Path, block: range) -> Path:
    return parts / f"{block.start:09d}.npy"


def _shape(block: range, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return (len(block), *shape[1:])


def _write(path: Path, table: Logits) -> None:
    def write(file: BinaryIO) -> None:
        np.save(file, table, allow_pickle=False)

    write_atomic(path, write)


def _read(path: Path, shape: tuple[int, int, int]) -> Logits | None:
    """A table mapped from its file, or None where it is missing, damaged or of another shape."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return table if table.shape == shape and table.dtype == np.float32 else None
