"""The outputs of a frozen teacher on every view of every training image, computed once and cached on disk.

With the cache an epoch runs the student only. The name of a file is a hash of the teacher's weights, its code and the
key of the views, so later epochs, resumed runs and other runs reuse it, and another teacher or other images never do.
A file ends with the hash of its name and content. A file with another hash is reported, and computed again.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.execution import distributed
from cfp_cli.execution.channels_last import faster_format
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.content_hash import MISMATCH
from cfp_cli.foundation.errors import TrainingError
from cfp_cli.foundation.files import remove_leftovers, sha256, write_bytes
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.predictions import require_logits
from cfp_cli.models.forward_pass import run_network
from cfp_cli.training.batch_plan import ViewSource
from cfp_cli.training.interrupt import Interrupt

# [N, V, width]; the width of logits is the number of classes.
Table = np.ndarray[tuple[int, int, int], np.dtype[np.float32]]
# Outputs [n, width] of a teacher for images [n, C, H, W] on its device.
Forward = Callable[[nn.Module, Tensor], Tensor]
# An interrupted computation keeps its finished blocks. Blocks and their batches do not depend on the process that
# computes them, so a resumed computation gives the same bits as an uninterrupted one.
_BATCH = 64
_BLOCKS = 64
_HASH_BYTES = 32
_CHUNK = 1 << 20


def teacher_logits(
    teacher: nn.Module,
    views: ViewSource,
    classes: int,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
    description: str = "teacher",
) -> Table:
    """Return the logits of a teacher in eval mode, float32 [N, V, classes], memory-mapped from the cache.

    Missing logits are computed. Several processes share the work, and an interrupted computation resumes.

    Args:
        teacher: a network that returns logits float32 [n, classes]; its mode is restored afterwards.
        views: N images in V views, in the preprocessing of the teacher.
        classes: number of classes.
        folder: folder of the cache; all processes of a machine share it.
        device: the device of the computation.
        progress: reports progress.
        description: text of the progress bar.

    Raises:
        TrainingError: a logit is NaN or infinite, or their number is not the number of classes.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; finished blocks stay in the cache.
    """

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        logits = require_logits(network(images))
        if logits.shape[1] != classes:
            raise TrainingError(
                f"a teacher returns logits of shape {tuple(logits.shape[1:])}, not {classes} classes; "
                "use teachers trained on the student's classes"
            )
        return logits

    return _cached(teacher, views, classes, forward, folder, "", torch.device(device), progress, description)


def teacher_outputs(
    teacher: nn.Module,
    views: ViewSource,
    width: int,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
    description: str = "teacher",
) -> Table:
    """Return all floating-point outputs of a teacher in eval mode, float32 [N, V, width], as `teacher_logits` does.

    Args:
        teacher: a network whose outputs all have an entry for each image.
        views: N images in V views, in the preprocessing of the teacher.
        width: number of output values of an image.
        folder: folder of the cache; all processes of a machine share it.
        device: the device of the computation.
        progress: reports progress.
        description: text of the progress bar.

    Raises:
        TrainingError: a value is NaN or infinite.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; finished blocks stay in the cache.
    """

    def forward(network: nn.Module, images: Tensor) -> Tensor:
        return torch.cat([each.flatten(1).float() for each in tensors_of(run_network(network, images))], 1)

    return _cached(teacher, views, width, forward, folder, "outputs", torch.device(device), progress, description)


def _cached(
    teacher: nn.Module,
    views: ViewSource,
    width: int,
    forward: Forward,
    folder: Path,
    kind: str,
    device: torch.device,
    progress: Progress,
    description: str,
) -> Table:
    facts = f"{fingerprint(teacher)}\n{teacher}\n{_code(teacher)}\n{views.key}{kind}"
    key = hashlib.sha256(facts.encode()).hexdigest()
    file, parts = folder / f"{key}.npy", folder / f"{key}.parts"
    shape = (len(views), views.views, width)
    workers = distributed.current()
    blocks = _blocks(len(views), views.views)
    if workers.first:
        _report_damage(file, parts, progress)
    if workers.any(_read(file, shape) is None, device):
        # First each process computes its own blocks. Then it computes the blocks that it cannot read because the
        # processes do not share the folder.
        for candidates in (blocks[workers.rank :: workers.world_size], blocks):
            missing = [block for block in candidates if _read(_part(parts, block), _shape(block, shape)) is None]
            if missing and _read(file, shape) is None:
                _compute(teacher, views, forward, parts, missing, device, progress, description)
            workers.barrier()
        if _read(file, shape) is None:
            tables = [_read(_part(parts, block), _shape(block, shape)) for block in blocks]
            _write(file, np.concatenate([table for table in tables if table is not None]))
        workers.barrier()
    # Remove the parts even if the file existed: a process may have been killed between writing it and removing them.
    shutil.rmtree(parts, ignore_errors=True)
    remove_leftovers(file.parent)
    table = _read(file, shape)
    if table is None:
        raise TrainingError(f"{file} cannot be read back; check the disk's free space")
    return table


def _code(teacher: nn.Module) -> list[str]:
    """Hashes of the source files of a teacher's layers, because a user may have changed their own code."""
    forwards = {getattr(type(module).forward, "__code__", None) for module in teacher.modules()}
    files = {Path(code.co_filename) for code in forwards if code is not None}
    return sorted(sha256(file) for file in files if file.is_file())


def _blocks(images: int, views: int) -> list[range]:
    """Split the image indices into at most 64 consecutive blocks, each at least one forward batch."""
    size = max(-(-images // _BLOCKS), -(-_BATCH // views))
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def _batches(block: range, views: int) -> list[tuple[NDArray[np.int64], ...]]:
    """Split the views of a block of images into batches: indices of images and of views."""
    pairs = [grid.ravel() for grid in np.meshgrid(np.array(block), np.arange(views), indexing="ij")]
    return list(zip(*(np.array_split(column, -(-len(column) // _BATCH)) for column in pairs), strict=True))


def _compute(
    teacher: nn.Module,
    views: ViewSource,
    forward: Forward,
    parts: Path,
    blocks: list[range],
    device: torch.device,
    progress: Progress,
    description: str,
) -> None:
    original_device = next((value.device for value in teacher.parameters()), device)
    teacher.to(device)
    try:
        with evaluating(teacher), torch.inference_mode(), Interrupt() as interrupt:
            batches = [_batches(block, views.views) for block in blocks]
            # The first images, whichever blocks are missing: a resumed computation must use the same format.
            first = np.arange(min(2, len(views)))
            memory_format = faster_format(teacher, views.get(first, np.zeros_like(first)).to(device), forward)
            shown = progress.track(chain(*batches), description, total=sum(map(len, batches)))
            for block, parts_of_block in zip(blocks, batches, strict=True):
                block_batches = islice(shown, len(parts_of_block))
                outputs = [
                    _distinct(teacher, forward, views.get(*batch), device, memory_format) for batch in block_batches
                ]
                table = torch.cat(outputs).view(len(block), views.views, -1)
                if not bool(torch.isfinite(table).all()):
                    raise TrainingError("a network returns NaN or infinite outputs; train it again")
                _write(_part(parts, block), table.numpy())
                interrupt.check()
            # The end of the progress, after the last batch.
            next(shown, None)
    finally:
        teacher.to(original_device)


def _distinct(
    teacher: nn.Module, forward: Forward, images: Tensor, device: torch.device, memory_format: torch.memory_format
) -> Tensor:
    """Compute outputs and move them to the CPU. Equal images, such as a view listed twice, are computed once."""
    first: dict[bytes, int] = {}
    pixels = [image.numpy().tobytes() for image in images]
    position = [first.setdefault(content, len(first)) for content in pixels]
    distinct = images[[pixels.index(content) for content in first]]
    return forward(teacher, distinct.to(device, memory_format=memory_format)).float().cpu()[position]


def _part(parts: Path, block: range) -> Path:
    return parts / f"{block.start:09d}.npy"


def _shape(block: range, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return (len(block), *shape[1:])


def _write(path: Path, table: Table) -> None:
    content = io.BytesIO()
    np.save(content, table, allow_pickle=False)
    digest = _digest(path)
    digest.update(content.getvalue())
    # NumPy ignores what follows the table.
    write_bytes(path, content.getvalue() + digest.digest())


def _read(path: Path, shape: tuple[int, int, int]) -> Table | None:
    """Memory-map a table, or return None if the file is missing, damaged or of another shape."""
    try:
        if not _intact(path):
            return None
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = table.shape == shape and table.dtype == np.float32
    return table if fits and bool(np.isfinite(table).all()) else None


def _report_damage(file: Path, parts: Path, progress: Progress) -> None:
    for path in (file, *sorted(parts.glob("*.npy"))):
        if path.is_file() and not _intact(path):
            progress.say(f"{path} {MISMATCH}; its outputs are computed again")


def _intact(path: Path) -> bool:
    """Whether a file ends with the hash of its name and content."""
    try:
        size = path.stat().st_size - _HASH_BYTES
        digest = _digest(path)
        with path.open("rb") as file:
            for _ in range(0, size, _CHUNK):
                digest.update(file.read(min(_CHUNK, size - file.tell())))
            return size >= 0 and file.read() == digest.digest()
    except OSError:
        return False


def _digest(path: Path) -> Any:
    """Begin the hash of a table with what it is a table of, so that no file can take the place of another."""
    names = path.parts[-2:] if path.parent.suffix == ".parts" else path.parts[-1:]
    return hashlib.sha256("\n".join(names).encode())
