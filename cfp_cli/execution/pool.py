"""Share jobs out over the processes that torchrun started: the first process decides, and each process does its part.

In a single process, the jobs are done one after another.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cfp_cli.execution.distributed import Workers, alone
from cfp_cli.foundation.errors import CfpError, RunError
from cfp_cli.foundation.failures import first_line

Job = TypeVar("Job")
Done = TypeVar("Done")


class StoppedError(CfpError):
    """Another process of this run failed, and has printed why."""


@dataclass(frozen=True)
class _Message:
    """What the first process sends: jobs, or the end.

    Attributes:
        jobs: one for each process at most; None ends the exchange.
        result: what all processes return at the end.
        failed: whether the first process failed.
    """

    jobs: Sequence[Any] | None
    result: Any = None
    failed: bool = False


@dataclass
class Pool(Generic[Job, Done]):
    """Processes that do jobs.

    Attributes:
        workers: the group.
        do: does a job. It may raise; every error but an interrupt is returned to the first process.
    """

    workers: Workers
    do: Callable[[Job], Done]

    @property
    def size(self) -> int:
        """Number of jobs that are done at the same time."""
        return self.workers.world_size

    def run(self, jobs: Sequence[Job]) -> list[Done | Exception]:
        """Do jobs, and return their results or errors in the same order; only the first process calls this."""
        outcomes: list[Done | Exception] = []
        for start in range(0, len(jobs), self.workers.world_size):
            part = jobs[start : start + self.workers.world_size]
            self.workers.broadcast(_Message(part))
            outcomes += self.workers.gather(self._outcome(part))[: len(part)]
            if any(isinstance(each, Exception) for each in outcomes):
                break
        return outcomes

    def serve(self) -> Any:
        """Do the jobs of the first process until it ends, and return the result that it ended with.

        Raises:
            StoppedError: it failed.
        """
        while (message := self.workers.broadcast(_Message(None))).jobs is not None:
            self.workers.gather(self._outcome(message.jobs))
        if message.failed:
            raise StoppedError("the first process of this run failed; read its message")
        return message.result

    @contextmanager
    def ending(self) -> Iterator[Callable[[Any], None]]:
        """End the other processes when the context ends, also by an error; call what it yields with their result."""
        result: list[Any] = []
        try:
            yield result.append
        except BaseException:
            # The other processes may have ended too; their error must not hide this one.
            with suppress(Exception):
                self.workers.broadcast(_Message(None, failed=True))
            raise
        self.workers.broadcast(_Message(None, result[0] if result else None))

    def _outcome(self, jobs: Sequence[Job]) -> Any:
        """The result of this process's job, or its error; None without a job."""
        if self.workers.rank >= len(jobs):
            return None
        try:
            with alone():
                return self.do(jobs[self.workers.rank])
        except Exception as error:
            return error if self.workers.first or _is_portable(error) else RunError(self._named(error))

    def _named(self, error: Exception) -> str:
        return f"process {self.workers.rank + 1} of {self.workers.world_size} failed ({first_line(error)})"


def _is_portable(error: Exception) -> bool:
    """Whether another process can read an error."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False
