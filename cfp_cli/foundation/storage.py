"""Errors of disks and folders as one line: which path, what is wrong, what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cfp_cli.foundation.errors import StorageError

# On Linux a file beyond `ulimit -f` fails with EFBIG.
_ADVICE = {
    errno.ENOSPC: "its disk is full; free space there and run the command again",
    errno.EFBIG: "the file would be larger than its disk or `ulimit -f` allows; raise the limit or use another folder",
    errno.EROFS: "its disk is read-only; use another folder",
    errno.EACCES: "permission denied; change the permissions of its folder or use another one",
    errno.EPERM: "permission denied; change the permissions of its folder or use another one",
    errno.ENAMETOOLONG: "the name is too long; use a shorter one",
    errno.ENOTDIR: "a part of the path is a file; use another folder",
    errno.EEXIST: "a part of the path is a file; use another folder",
    errno.EISDIR: "it is a folder; use another name",
    errno.EIO: "its disk reports an error; check the disk",
    errno.ENOLCK: "its file system has no locks; use a folder on a local disk",
    errno.EOPNOTSUPP: "its file system has no locks; use a folder on a local disk",
    errno.EMFILE: "too many open files; raise `ulimit -n`",
    errno.ELOOP: "its links form a circle; use another path",
}
if hasattr(errno, "EDQUOT"):
    _ADVICE[errno.EDQUOT] = "the disk quota is used up; free space there and run the command again"

FULL = tuple(code for code in (errno.ENOSPC, getattr(errno, "EDQUOT", None)) if code is not None)


def storage_error(path: Path | str, error: OSError) -> StorageError:
    """Return the error to raise where `path` cannot be written because of `error`."""
    advice = _ADVICE.get(error.errno or 0)
    if advice is None:
        reason = error.strerror or str(error) or type(error).__name__
        advice = f"{reason}; check the folder and its disk"
    return StorageError(f"cannot write {os.fspath(path)}: {advice}")
