"""The plan of a prune: for every channel set what stays, and why. Plain data that can be replayed on the original."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import write_json
from cfp_cli.pruning.selection import Kept

FORMAT = "cfp-plan/1"


@dataclass(frozen=True)
class SetPlan:
    """What happens to one channel set.

    Attributes:
        name: the set's name in the channel graph.
        channels: number of channels before.
        kept: indices of the channels that stay, ascending.
        clusters: cluster label of every channel, 1-based; empty where the set was not clustered.
        frozen: why the set may not be pruned; empty where it may.
    """

    name: str
    channels: int
    kept: tuple[int, ...]
    clusters: tuple[int, ...] = ()
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a prune keeps, what it was asked for, and what came of it.

    Attributes:
        sets: every channel set, in network order.
        params_before, params_after: number of parameters.
        macs_before, macs_after: multiply-adds of convolutions and linear layers for one image.
        requested: fraction of the target to remove, or None where rates were given.
        achieved: fraction of the target that was removed.
        target: `params`, `flops` or `latency`.
        max_abs_logit_error: largest difference of a logit between the rebuilt network and its channel-zeroed original.
        options: further options and hashes, as plain data.
    """

    sets: tuple[SetPlan, ...]
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    requested: float | None
    achieved: float
    target: str = "params"
    max_abs_logit_error: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def compression(self) -> float:
        """Original parameters / pruned parameters."""
        return self.params_before / self.params_after

    @property
    def kept(self) -> Kept:
        """Kept channel indices by set name."""
        return {group.name: np.array(group.kept, np.int64) for group in self.sets}

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """The plan that `to_json` gave.

        Raises:
            RunError: the data are not a plan of this version.
        """
        try:
            fields = {name: value for name, value in data.items() if name != "format"}
            if data["format"] != FORMAT:
                raise RunError(f"the plan has format {data['format']}, this version reads {FORMAT}; prune again")
            sets = tuple(
                SetPlan(g["name"], g["channels"], tuple(g["kept"]), tuple(g["clusters"]), tuple(g["frozen"]))
                for g in fields.pop("sets")
            )
            return cls(sets=sets, **fields)
        except (KeyError, TypeError) as error:
            raise RunError(f"this is not a plan ({error}); prune again") from error

    def save(self, path: Path) -> None:
        """Write the plan as JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan.

        Raises:
            RunError: the file is missing or not a plan of this version.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is not a readable plan ({error}); run `cfp prune` first") from error
