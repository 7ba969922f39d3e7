"""Scores of a network's taps and channel sets, and the score file.

`scores.safetensors` contains per tap `tap/NAME/{richness [C], linkage [C-1, 4], norms [N, C]}`, per channel set
`set/NAME/{richness [C], distance [C(C-1)/2], norm [C]}`, and JSON metadata.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import write_bytes

FORMAT = "cfp-scores/1"
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


@dataclass(frozen=True)
class SetScores:
    """Scores of one channel set, over all its taps.

    Attributes:
        name: name of the set in the channel graph.
        richness: richness of every channel, float64 [C]. With one tap it is the richness at the tap, with several the
            mean over the taps after scaling to mean 1 per tap. `explained-variance` is instead computed from the sum of
            the taps' correlations, over a sample of positions.
        distance: condensed distances, float32 [C(C-1)/2]: the mean over the taps.
        norm: mean norm of every channel's maps divided by their height, float64 [C].
        effective: how many channels vary independently over the images, between 1 and C: the effective rank of their
            standardised norms, see `effective_channels`.
    """

    name: str
    richness: NDArray[np.float64]
    distance: NDArray[np.float32]
    norm: NDArray[np.float64]
    effective: float

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

    def by_set(self) -> dict[str, SetScores]:
        """Scores of the sets by name."""
        return {scores.name: scores for scores in self.sets}

    def save(self, path: Path) -> None:
        """Write the score file, atomically."""
        tensors: dict[str, NDArray[Any]] = {}
        for tap in self.taps:
            tensors[f"tap/{tap.name}/norms"] = tap.norms
            tensors[f"tap/{tap.name}/richness"] = tap.richness
            tensors[f"tap/{tap.name}/linkage"] = tap.linkage
        for scores in self.sets:
            tensors[f"set/{scores.name}/richness"] = scores.richness
            tensors[f"set/{scores.name}/distance"] = scores.distance
            tensors[f"set/{scores.name}/norm"] = scores.norm
        facts = {
            "format": FORMAT,
            "taps": [{key: getattr(tap, key) for key in _TAP_FACTS} for tap in self.taps],
            "sets": [{"name": scores.name, "effective": scores.effective} for scores in self.sets],
            **asdict(_Facts.of(self)),
        }
        metadata = {"cfp": json.dumps(facts)}
        write_bytes(path, safetensors.numpy.save({n: np.ascontiguousarray(v) for n, v in tensors.items()}, metadata))

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read a score file.

        Raises:
            RunError: the file is missing, or it is not a score file of this version.
        """
        if not path.is_file():
            raise RunError(f"no scores at {path}; run `cfp score MODEL DATA` first")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                facts = json.loads(file.metadata()["cfp"])
                if facts["format"] != FORMAT:
                    raise RunError(f"{path} has format {facts['format']}, this version reads {FORMAT}; score again")
                read = file.get_tensor
                taps = tuple(
                    TapScores(
                        name=tap["name"],
                        height=tap["height"],
                        width=tap["width"],
                        span=tap["span"],
                        norms=read(f"tap/{tap['name']}/norms"),
                        richness=read(f"tap/{tap['name']}/richness"),
                        linkage=read(f"tap/{tap['name']}/linkage"),
                        saturated=tuple(tap["saturated"]),
                    )
                    for tap in facts["taps"]
                )
                sets = tuple(
                    SetScores(
                        name=entry["name"],
                        richness=read(f"set/{entry['name']}/richness"),
                        distance=read(f"set/{entry['name']}/distance"),
                        norm=read(f"set/{entry['name']}/norm"),
                        effective=entry["effective"],
                    )
                    for entry in facts["sets"]
                )
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise RunError(f"{path} is not a readable score file ({error}); run `cfp score` again") from error
        rest = _Facts(**{name: facts[name] for name in _Facts.__dataclass_fields__})
        return cls(taps, sets, **{**asdict(rest), "input_size": (rest.input_size[0], rest.input_size[1])})


@dataclass(frozen=True)
class _Facts:
    """The part of `Scores` that is stored as JSON."""

    similarity: str
    richness: str
    images: int
    input_size: tuple[int, int]
    seconds: float
    forward_seconds: float
    options: dict[str, Any]

    @classmethod
    def of(cls, scores: Scores) -> _Facts:
        return cls(**{name: getattr(scores, name) for name in cls.__dataclass_fields__})
