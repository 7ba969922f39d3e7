"""The plan of a prune: the kept channels of every channel set, and why. Plain data that can be carried out again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.foundation.content_hash import read_hashed_json, write_hashed_json
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.typed_json import FieldError, quoted, read, require_int64, to_json
from cfp_cli.pruning.options import Target

FORMAT = "cfp-plan/2"
ADVICE = "run `cfp prune --ratio` again"


class PlanMisfitError(RunError):
    """A plan was made for another network."""


@dataclass(frozen=True)
class SetPlan:
    """What happens to one channel set.

    Attributes:
        name: the set's name in the channel graph.
        channels: number of channels before.
        kept: indices of the kept channels, ascending.
        clusters: cluster label of every channel, 1-based; empty where the set was not clustered.
        frozen: reasons why the set may not be pruned; empty where it may.
    """

    name: str
    channels: int
    kept: tuple[int, ...]
    clusters: tuple[int, ...] = ()
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the indices.

        Raises:
            FieldError: an index is out of range or not above the one before it, or a channel has no cluster.
        """
        if not self.kept:
            raise FieldError(f"set '{self.name}' keeps no channel")
        for before, index in zip((-1, *self.kept), self.kept, strict=False):
            if not 0 <= index < self.channels:
                raise FieldError(f"kept of set '{self.name}' has {index}, which is not from 0 to {self.channels - 1}")
            if index <= before:
                raise FieldError(f"kept of set '{self.name}' has {index} after {before}; indices must ascend")
        if self.clusters and len(self.clusters) != self.channels:
            raise FieldError(f"clusters of set '{self.name}' has {len(self.clusters)} labels, not {self.channels}")


@dataclass(frozen=True)
class Plan:
    """What a prune keeps, and the figures before and after.

    Attributes:
        sets: every channel set, in network order.
        params_before, params_after: number of parameters.
        macs_before, macs_after: multiply-adds of convolutions and linear layers for one image.
        requested: fraction of the target to remove, or None where rates were given.
        achieved: fraction of the target that is removed.
        target: `params`, `macs`, `latency` or `bytes`.
        max_abs_logit_error: largest difference of a logit between the rebuilt network and its channel-zeroed original.
        attributes: channel counts that modules keep in attributes of their own, by module and attribute, in the pruned
            network.
        options: further options and hashes, as plain data.
    """

    sets: tuple[SetPlan, ...]
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    requested: float | None
    achieved: float
    target: Target = "params"
    max_abs_logit_error: float = 0.0
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the figures, and that every set is there once.

        Raises:
            FieldError: a set is there twice, or a network has no parameters.
        """
        for name in ("params_before", "params_after"):
            if getattr(self, name) < 1:
                raise FieldError(f"{name} is {getattr(self, name)}, not a number of parameters")
        names = [each.name for each in self.sets]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise FieldError(f"set '{twice}' is listed twice")

    def __str__(self) -> str:
        """Return the figures on one line; `repr` lists each kept channel."""
        macs = " to ".join(f"{each / 1e6:,.1f} M" for each in (self.macs_before, self.macs_after))
        return (
            f"plan of {len(self.sets)} channel sets: {self.params_before:,} to {self.params_after:,} parameters "
            f"({self.compression:.1f}x fewer), {macs} multiply-adds, {self.achieved:.2%} of {self.target} removed"
        )

    @property
    def compression(self) -> float:
        """Original parameters / pruned parameters."""
        return self.params_before / self.params_after

    @property
    def kept(self) -> dict[str, NDArray[np.int64]]:
        """Kept channel indices by set name."""
        return {each.name: np.array(each.kept, np.int64) for each in self.sets}

    def followed_by(self, second: Plan) -> Plan:
        """This plan and the next round's as one, from the channels before this plan to those after the next."""
        then = second.kept
        sets = tuple(replace(each, kept=tuple(each.kept[index] for index in then[each.name])) for each in self.sets)
        return replace(
            self,
            sets=sets,
            params_after=second.params_after,
            macs_after=second.macs_after,
            max_abs_logit_error=max(self.max_abs_logit_error, second.max_abs_logit_error),
            attributes={
                path: {**self.attributes.get(path, {}), **second.attributes.get(path, {})}
                for path in {**self.attributes, **second.attributes}
            },
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {"format": FORMAT, **to_json(self)}

    @classmethod
    def from_json(cls, data: object, file: Path) -> Plan:
        """The plan that `to_json` returned.

        Args:
            data: decoded JSON.
            file: the file that it comes from, for messages.

        Raises:
            RunError: the data are not a plan of this version; the message names the field.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = quoted(data["format"]) if isinstance(data, dict) and "format" in data else "missing"
            raise RunError(f"{file} is not a plan of this version: format is {found}, not '{FORMAT}'; {ADVICE}")
        try:
            require_int64(data, "")
        except FieldError as error:
            raise RunError(f"{file}: {error}; {ADVICE}") from error
        return read(cls, {name: value for name, value in data.items() if name != "format"}, file, "", RunError, ADVICE)

    def save(self, path: Path) -> None:
        """Write the plan as JSON with the hash of its content, atomically."""
        write_hashed_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan. A plan that was edited has no hash; each of its fields is checked all the same.

        Raises:
            RunError: the file is missing, does not match its hash, or is not a plan of this version.
        """
        return cls.from_json(read_hashed_json(path, RunError, ADVICE), path)


def with_plan(spec: ModelSpec, plan: Plan) -> ModelSpec:
    """Return a copy of a spec with a plan.

    If the spec has the plan of an earlier prune, the attributes that only that prune changed keep their counts.

    Args:
        spec: the spec of the network that was pruned.
        plan: the plan of the prune.
    """
    earlier = (spec.plan or {}).get("attributes", {})
    attributes = {
        path: {**earlier.get(path, {}), **plan.attributes.get(path, {})} for path in {**earlier, **plan.attributes}
    }
    return replace(spec, plan=replace(plan, attributes=attributes).to_json())
