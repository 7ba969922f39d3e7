"""Scores of a network's taps and channel sets, and the score file.

`scores.safetensors` contains per tap `tap/NAME/{richness [C], linkage [C-1, 4], norms [N, C]}`, per channel set
`set/NAME/{richness [C], distance [C(C-1)/2], norm [C]}`, and JSON metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from cfp_cli.checkpoints.spec import MAX_CHANNELS, MAX_SIDE
from cfp_cli.foundation.content_hash import KEY, MISMATCH, Array, hash_content
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import write_bytes
from cfp_cli.foundation.typed_json import FieldError, convert, quoted, read, to_json
from cfp_cli.scoring.criteria import Richness, Similarity

FORMAT = "cfp-scores/1"
ADVICE = "run `cfp score` again"
_KNOWN_OPTIONS = ("decimals", "seed")
_TAP_FACTS = ("name", "height", "width", "span", "saturated")


@dataclass(frozen=True)
class TapScores:
    """Scores of the feature maps at one tap.

    Attributes:
        name: module that produces the maps.
        height, width: size of a map in pixels.
        norms: Frobenius norm of every map, float32 [N, C].
        richness: richness of every channel, float64 [C]. `explained-variance` is a score of sets: a channel has the
            richness of its unit in its set, or 0 if its set is not scored.
        linkage: average-linkage table of the channels' distances, float64 [C-1, 4].
        span: range of the distances, max - min.
        saturated: names of the scores that are equal for all channels of the tap.
    """

    name: str
    height: int
    width: int
    norms: NDArray[np.float32]
    richness: NDArray[np.float64]
    linkage: NDArray[np.float64]
    span: float = 0.0
    saturated: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.richness)

    @property
    def hardly_ranked(self) -> bool:
        """Whether 9 of 10 channels or more have the richness of the richest one, up to 1 %, so that it ranks few."""
        best = float(self.richness.max())
        equal = float((self.richness >= 0.99 * best).mean())
        return self.channels > 1 and best > 0 and equal >= 0.9


@dataclass(frozen=True)
class SetScores:
    """Scores of one channel set, over all its taps.

    Attributes:
        name: name of the set in the channel graph.
        richness: richness of every channel, float64 [C]. With one tap it is the richness at the tap, with several the
            mean over the taps after scaling to mean 1 per tap. `explained-variance` is instead computed from the sum of
            the taps' covariances, over a sample of positions.
        distance: condensed distances, float32 [C(C-1)/2]: the mean over the taps.
        norm: mean norm of every channel's maps divided by their height, float64 [C].
        effective: how many channels vary independently over the images, between 1 and C: the effective rank of their
            standardised norms, see `effective_channels`.
        dead: indices of the channels whose maps are the same for all images, at every tap. Their richness is 0.
    """

    name: str
    richness: NDArray[np.float64]
    distance: NDArray[np.float32]
    norm: NDArray[np.float64]
    effective: float
    dead: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.richness)


@dataclass(frozen=True)
class Scores:
    """Scores of a network over a sample of images.

    Attributes:
        taps: scores by tap, in network order.
        sets: scores by channel set, in network order.
        similarity, richness: names of the criteria.
        images: number of images N.
        input_size: height and width of the network's input in pixels.
        seconds: wall time of scoring.
        forward_seconds: wall time of the forward passes alone.
        options: further options and hashes, as plain data.
        network: fingerprint of the scored network's weights; empty if the scores were not made by `cfp_cli.score`.
        channels: number of channels of the images.
    """

    taps: tuple[TapScores, ...]
    sets: tuple[SetScores, ...]
    similarity: str
    richness: str
    images: int
    input_size: tuple[int, int]
    seconds: float
    forward_seconds: float
    options: dict[str, Any]
    network: str = ""
    channels: int = 3

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (self.channels, *self.input_size)

    def by_set(self) -> dict[str, SetScores]:
        """Scores of the sets by name."""
        return {scores.name: scores for scores in self.sets}

    def save(self, path: Path) -> None:
        """Write the score file with the hash of its content, atomically."""
        tensors: dict[str, NDArray[Any]] = {}
        for tap in self.taps:
            tensors |= {f"tap/{tap.name}/{kind}": getattr(tap, kind) for kind in ("norms", "richness", "linkage")}
        for scores in self.sets:
            tensors |= {f"set/{scores.name}/{kind}": getattr(scores, kind) for kind in ("richness", "distance", "norm")}
        tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        facts = {"format": FORMAT, **to_json(_Facts.of(self))}
        metadata = {"cfp": json.dumps({**facts, KEY: _hash(facts, tensors)})}
        write_bytes(path, safetensors.numpy.save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read a score file.

        Raises:
            RunError: the file is missing, does not match its hash, is of another version, or holds a wrong field or
                tensor, which the message names.
        """
        if not path.is_file():
            raise RunError(f"no scores at {path}; run `cfp score MODEL DATA` first")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                facts = json.loads(file.metadata()["cfp"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                stored = facts.pop(KEY)
                found = facts["format"]
                intact = _hash(facts, tensors) == stored
        # A damaged file makes the decoder raise any kind of error.
        except Exception as error:
            raise RunError(f"{path} is not a readable score file ({error!r}); {ADVICE}") from error
        if not intact:
            raise RunError(f"{path} {MISMATCH}; {ADVICE}")
        if found != FORMAT:
            raise RunError(f"{path} has format {quoted(found)}, this version reads {FORMAT}; {ADVICE}")
        del facts["format"]
        return read(_Facts, facts, path, "", RunError, ADVICE).scores(tensors, path)


def _hash(facts: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    arrays = (Array(name, value.dtype.str, value.shape, value.tobytes()) for name, value in sorted(tensors.items()))
    return hash_content(facts, arrays)


@dataclass(frozen=True)
class _TapFacts:
    """The part of `TapScores` that is stored as JSON."""

    name: str
    height: int
    width: int
    span: float
    saturated: tuple[str, ...]

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.span < 0:
            raise FieldError(f"the size or the span of tap {quoted(self.name)} is not positive")


@dataclass(frozen=True)
class _SetFacts:
    """The part of `SetScores` that is stored as JSON."""

    name: str
    effective: float
    dead: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Facts:
    """The part of `Scores` that is stored as JSON."""

    taps: tuple[_TapFacts, ...]
    sets: tuple[_SetFacts, ...]
    similarity: Similarity
    richness: Richness
    images: int
    input_size: tuple[int, int]
    seconds: float
    forward_seconds: float
    options: dict[str, Any]
    network: str
    channels: int

    def __post_init__(self) -> None:
        for kind, names in (("tap", [tap.name for tap in self.taps]), ("set", [each.name for each in self.sets])):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise FieldError(f"{kind} {quoted(twice)} is listed twice")
        if self.images < 0:
            raise FieldError(f"images is {self.images}, not a number of images")
        if not all(1 <= side <= MAX_SIDE for side in self.input_size):
            raise FieldError(f"input_size is {list(self.input_size)}, not a height and width from 1 to {MAX_SIDE}")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise FieldError(f"channels is {self.channels}, not a number from 1 to {MAX_CHANNELS}")
        convert(_KnownOptions, {name: self.options.get(name) for name in _KNOWN_OPTIONS}, "options")

    @classmethod
    def of(cls, scores: Scores) -> _Facts:
        names = [name for name in cls.__dataclass_fields__ if name not in ("taps", "sets")]
        return cls(
            taps=tuple(_TapFacts(**{name: getattr(tap, name) for name in _TAP_FACTS}) for tap in scores.taps),
            sets=tuple(_SetFacts(each.name, each.effective, each.dead) for each in scores.sets),
            **{name: getattr(scores, name) for name in names},
        )

    def scores(self, tensors: dict[str, NDArray[Any]], path: Path) -> Scores:
        """Check the tensors and return the scores.

        Raises:
            RunError: a tensor is missing, unknown, of another type or shape, or holds a wrong number.
        """
        tensors = dict(tensors)

        def take(name: str, dtype: type, *shape: int) -> NDArray[Any]:
            if name not in tensors:
                raise FieldError(f"tensor {quoted(name)} is missing, although {name.partition('/')[0]}s names it")
            value = tensors.pop(name)
            if value.dtype != dtype or value.shape != shape:
                raise FieldError(
                    f"tensor {quoted(name)} is {value.dtype} {list(value.shape)}, "
                    f"not {np.dtype(dtype).name} {list(shape)}"
                )
            if not np.isfinite(value).all():
                raise FieldError(f"tensor {quoted(name)} holds NaN or infinity")
            return value

        def length(name: str) -> int:
            return len(tensors[name]) if name in tensors and tensors[name].ndim else 0

        try:
            taps = []
            for tap in self.taps:
                prefix = f"tap/{tap.name}/"
                channels = length(f"{prefix}richness")
                norms = take(f"{prefix}norms", np.float32, self.images, channels)
                richness = take(f"{prefix}richness", np.float64, channels)
                table = take(f"{prefix}linkage", np.float64, max(channels - 1, 0), 4)
                _require_linkage(table, f"{prefix}linkage")
                taps.append(TapScores(norms=norms, richness=richness, linkage=table, **vars(tap)))
            sets = []
            for each in self.sets:
                prefix = f"set/{each.name}/"
                channels = length(f"{prefix}richness")
                richness = take(f"{prefix}richness", np.float64, channels)
                distance = take(f"{prefix}distance", np.float32, channels * (channels - 1) // 2)
                norm = take(f"{prefix}norm", np.float64, channels)
                if (distance < 0).any():
                    raise FieldError(f"tensor {quoted(f'{prefix}distance')} holds a negative distance")
                if not 0 <= each.effective <= channels + 1e-3:
                    raise FieldError(f"effective of set {quoted(each.name)} is {each.effective}, not 0 to {channels}")
                if list(each.dead) != sorted({index for index in each.dead if 0 <= index < channels}):
                    raise FieldError(
                        f"dead of set {quoted(each.name)} is not an ascending list of its {channels} channels"
                    )
                sets.append(SetScores(each.name, richness, distance, norm, each.effective, each.dead))
            if tensors:
                unknown = min(tensors)
                raise FieldError(f"tensor {quoted(unknown)} is unknown: it is in neither taps nor sets")
        except FieldError as error:
            raise RunError(f"{path}: {error}; {ADVICE}") from error
        return Scores(**{**vars(self), "taps": tuple(taps), "sets": tuple(sets)})


@dataclass(frozen=True)
class _KnownOptions:
    """The options that later stages read; others are stored for the record alone."""

    decimals: int | None
    seed: int | None


def _require_linkage(table: NDArray[np.float64], name: str) -> None:
    """Check that row i joins two of the C channels and the i clusters before it, at a distance of 0 or more."""
    joined = table[:, :2]
    clusters = len(table) + 1 + np.arange(len(table))[:, None]
    if ((joined < 0) | (joined >= clusters) | (joined != joined.round())).any() or (table[:, 2] < 0).any():
        raise FieldError(f"tensor {quoted(name)} is not a linkage table")
