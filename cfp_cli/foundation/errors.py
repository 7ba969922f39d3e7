"""The errors that the tool explains to its user, and their exit codes.

    CfpError                 1   any other failure that the message explains
    ├── CheckpointError      1   a model file cannot be read, built or trusted
    ├── DataError            1   images, labels or splits cannot be used
    ├── MissingExtraError    1   an optional package is not installed
    ├── GraphError           1   a network cannot be traced, or cannot be cut to the kept channels
    ├── ProofError           1   the rebuilt network differs from the original with zeroed channels
    ├── RunError             1   a stage has not run, or its files do not fit the network or each other
    ├── TrainingError        1   training cannot continue
    │   └── NotFiniteError   1   a network returns NaN or infinity
    ├── StorageError         1   a file cannot be written, such as on a full disk
    ├── UsageError           2   wrong usage
    └── TargetError          3   a target cannot be met

A message is one line: what is wrong; what to do. It has no full stop at its end.
"""

from __future__ import annotations


class CfpError(Exception):
    """A failure that its one-line message explains."""

    exit_code = 1


class CheckpointError(CfpError):
    """A model file cannot be read, built or trusted."""


class DataError(CfpError):
    """Images, labels or splits cannot be used."""


class MissingExtraError(CfpError):
    """An optional package is not installed."""


class GraphError(CfpError):
    """A network cannot be traced, or cannot be cut to the kept channels."""


class ProofError(CfpError):
    """The rebuilt network differs from the original with zeroed channels."""


class RunError(CfpError):
    """A stage of the run directory has not run, or its files do not fit the network or each other."""


class TrainingError(CfpError):
    """Training cannot continue."""


class NotFiniteError(TrainingError):
    """A network returns NaN or infinity."""


class StorageError(CfpError):
    """A file cannot be written, such as on a full disk."""


class UsageError(CfpError):
    """Wrong usage."""

    exit_code = 2


class TargetError(CfpError):
    """A target cannot be met."""

    exit_code = 3


class Interrupted(BaseException):
    """The user interrupted a command; like KeyboardInterrupt, but no library handles it."""
