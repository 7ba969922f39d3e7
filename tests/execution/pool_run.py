"""One of several processes that share jobs, with the arguments FOLDER CASE and torchrun's environment."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import torch

from cfp_cli.execution import distributed
from cfp_cli.execution.pool import Pool, StoppedError
from cfp_cli.foundation.errors import TargetError
from cfp_cli.runs.time_limit import OutOfTimeError


class Unportable(Exception):
    """An error that no other process can read."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("text")


ERRORS = {"portable": TargetError("no plan"), "time": OutOfTimeError(7.0), "unportable": Unportable(1, 2)}


def do(job: tuple[str, int]) -> tuple[int, int, int]:
    """The job, and the group that a job sees."""
    case, number = job
    rank = int(os.environ["RANK"])
    if rank == 1 and case in ERRORS:
        raise ERRORS[case]
    if rank == 1 and case == "killed":
        os._exit(9)
    return number, rank, distributed.current().world_size + distributed.rank()


def main() -> None:
    torch.set_num_threads(1)
    folder, case = Path(sys.argv[1]), sys.argv[2]
    workers, _ = distributed.join(torch.device("cpu"))
    pool: Pool[tuple[str, int], tuple[int, int, int]] = Pool(workers.patient(), do)
    try:
        if workers.first:
            with pool.ending() as end, distributed.alone():
                done = pool.run([(case, number) for number in range(5)])
                (folder / "done.pickle").write_bytes(
                    pickle.dumps(
                        [each if isinstance(each, tuple) else (type(each).__name__, str(each)) for each in done]
                    )
                )
                if case == "first":
                    raise TargetError("the first process failed")
                end("result")
        else:
            sys.stdout.write(f"{pool.serve()}\n")
    except TargetError:
        raise SystemExit(3) from None
    except StoppedError:
        raise SystemExit(4) from None
    except RuntimeError:
        raise SystemExit(5) from None
