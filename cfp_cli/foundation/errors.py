"""Every failure the tool explains to its user.

    CfpError                 1   a failure the message explains
    ├── CheckpointError      1   a model file that cannot be read, built or trusted
    ├── DataError            1   images, labels or splits that cannot be used
    ├── MissingExtraError    1   an optional package that is not installed
    ├── GraphError           1   a network that cannot be traced
    ├── ProofError           1   a rebuilt network that differs from its channel-zeroed original
    ├── RunError             1   a step that does not fit what the run directory remembers
    ├── TrainingError        1   training that cannot go on
    ├── StorageError         1   a file that cannot be written, such as on a full disk
    ├── UsageError           2   wrong usage
    └── TargetError          3   a target that cannot be met

A message is one line: what is wrong; what to do. No full stop at its end.
"""

from __future__ import annotations


class CfpError(Exception):
    """A failure that its one-line message explains."""

    exit_code = 1


class CheckpointError(CfpError):
    """A model file that cannot be read, built or trusted."""


class DataError(CfpError):
    """Images, labels or splits that cannot be used."""


class MissingExtraError(CfpError):
    """An optional package that is not installed."""


class GraphError(CfpError):
    """A network that cannot be traced."""


class ProofError(CfpError):
    """A rebuilt network that differs from its channel-zeroed original."""


class RunError(CfpError):
    """A step that does not fit what the run directory remembers."""


class TrainingError(CfpError):
    """Training that cannot go on."""


class StorageError(CfpError):
    """A file that cannot be written, such as on a full disk."""


class UsageError(CfpError):
    """Wrong usage."""

    exit_code = 2


class TargetError(CfpError):
    """A target that cannot be met."""

    exit_code = 3


class Interrupted(BaseException):
    """The user interrupted a command; like KeyboardInterrupt, but no library handles it."""
