"""Find the dict of tensors in a file, and the prefix of its names, that fit an architecture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cfp_cli.checkpoints.candidates import Candidate
from cfp_cli.checkpoints.fold import fold
from cfp_cli.models.head import Shapes
from cfp_cli.models.state_dict import Versions, module_versions

# Modules that wrap another module without changing it: DataParallel and DDP, torch.compile, FSDP, Lightning.
_WRAPPERS = frozenset(
    ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_flat_param")
)
# Entries that profilers leave in a state dict.
_COUNTERS = frozenset(("total_ops", "total_params"))
# Modules that a trainer keeps beside the network.
_TRAINING_ONLY = re.compile(
    r"(^|_)(criterion|loss|losses|metric|metrics|acc|accuracy|auroc|f1)(_|fn$|func$|$|\d)", re.I
)
# Words in the names of moving averages, of weights that only help in training, and of states of an optimiser.
# The states have the names and shapes of the weights.
_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|teacher)([._]|$)", re.I)
_HELPER = re.compile(r"(^|[._])(k|key|momentum|target)([._]|$)", re.I)
_OPTIMISER = re.compile(r"optim|exp_avg|momentum_buffer|grad|sched|scaler", re.I)


@dataclass(frozen=True)
class Fit:
    """A dict of tensors of a file, renamed as the architecture names them.

    Attributes:
        candidate: the dict.
        removed: the prefix that was removed from its names; names without it are left out.
        added: the prefix that was added.
        inner: parts of names that were removed in the middle of names, such as "module".
        tensors: tensors by their new name.
        folded: new names of tensors that were stored in parts, see `fold`.
        left_out: names in the file that belong to other modules.
        matched: how many tensors have the name and shape of one of the architecture.
        unknown: how many have no such name.
    """

    candidate: Candidate
    removed: str
    added: str
    inner: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    folded: tuple[str, ...]
    left_out: tuple[str, ...]
    matched: int
    unknown: int

    @property
    def source(self) -> str:
        """Where the tensors are: the entries of the file and the prefix, joined by dots."""
        return ".".join((*self.candidate.key, self.removed.rstrip("."))).strip(".")

    @property
    def is_average(self) -> bool:
        """Whether the names say that the weights are a moving average."""
        return _AVERAGE.search(self.source) is not None

    @property
    def plain(self) -> bool:
        """Whether nothing was chosen or renamed beyond what each trainer does."""
        return (
            self.candidate.key in ((), ("state_dict",))
            and not self.removed.replace("module.", "")
            and not (self.added or self.inner or self.folded or self.left_out)
        )

    @property
    def versions(self) -> Versions:
        """The module versions of the file, by the new names of the modules."""
        result = {}
        for name, entry in module_versions(self.candidate.state).items():
            dotted = _without(f"{name}.", self.inner)
            if dotted.startswith(self.removed):
                result[(self.added + dotted[len(self.removed) :]).rstrip(".")] = entry
        return result

    def names(self, weights: str) -> bool:
        """Return whether the user means these tensors by `weights`."""
        return weights in (self.source, ".".join(self.candidate.key), self.removed.rstrip("."))


def find_fits(candidates: Sequence[Candidate], shapes: Shapes) -> list[Fit]:
    """Return each choice of tensors and prefix that matches some tensors of the architecture, the best first.

    More matching names and shapes are better, then fewer unknown ones. Of several that fit alike, a moving average is
    better than the weights that it averages, and states of an optimiser are worst; then the first of the file is best.
    """
    fits = [fit for candidate in candidates for fit in _fits(candidate, shapes)]
    return sorted(fits, key=_rank)


def _rank(fit: Fit) -> tuple[int, int, int, bool, int]:
    source = fit.source
    kind = 3 if _OPTIMISER.search(source) else 0 if _AVERAGE.search(source) else 2 if _HELPER.search(source) else 1
    return -fit.matched, fit.unknown, kind, bool(fit.inner or fit.added), len(fit.removed)


def _fits(candidate: Candidate, shapes: Shapes) -> Iterator[Fit]:
    state = {
        name: value
        for name, value in candidate.state.items()
        if name in shapes.two or name.rpartition(".")[2] not in _COUNTERS
    }
    last_parts = {name.rpartition(".")[2] for name in shapes.two}
    state, folded = fold(state, last_parts.__contains__)
    done: set[tuple[str, str, frozenset[str]]] = set()
    for inner in _inner_wrappers(state, shapes):
        renamed = {_without(name, inner): name for name in state}
        if len(renamed) < len(state):
            continue
        tensors = {new: state[old] for new, old in renamed.items()}
        for removed, added in _prefixes(tensors, shapes):
            fit = _fit(candidate, tensors, removed, added, inner, folded, shapes)
            if fit is not None and (removed, added, frozenset(fit.tensors)) not in done:
                done.add((removed, added, frozenset(fit.tensors)))
                yield fit


def _inner_wrappers(state: Mapping[str, Tensor], shapes: Shapes) -> list[tuple[str, ...]]:
    """Return the sets of name parts that may be removed: none, the known wrappers, all that are not in the network."""
    known = {part for name in shapes.two for part in name.split(".")}
    # A part at the start of a name is a prefix.
    parts = {part for name in state for part in name.split(".")[1:-1]} - known
    wrappers = tuple(sorted(parts & _WRAPPERS))
    others = tuple(sorted(part for part in parts if not part.isdigit()))
    return list(dict.fromkeys(((), wrappers, others)))


def _without(name: str, parts: Sequence[str]) -> str:
    """Remove parts of a dotted name, except at its start and its end."""
    if not parts:
        return name
    first, *rest = name.split(".")
    return ".".join((first, *(part for part in rest[:-1] if part not in parts), *rest[-1:]))


def _prefixes(state: Mapping[str, Tensor], shapes: Shapes) -> list[tuple[str, str]]:
    """Return the pairs of a prefix to remove and a prefix to add under which most names and shapes match."""
    votes: Counter[tuple[str, str]] = Counter()
    by_suffix: dict[str, list[str]] = {}
    for name in shapes.two:
        for start in _starts(name):
            by_suffix.setdefault(name[start:], []).append(name[:start])
    for name, value in state.items():
        shape = tuple(value.shape)
        for start in _starts(name):
            added = by_suffix.get(name[start:], ())
            # A short suffix such as "weight" has no meaning by itself.
            for prefix in added if len(added) <= 8 else added[:1]:
                if (not start or not prefix) and shapes.fits(prefix + name[start:], shape):
                    votes[name[:start], prefix] += 1
    return [pair for pair, _ in votes.most_common(8)]


def _starts(name: str) -> list[int]:
    """Return the positions at which a part of a dotted name starts."""
    return [0, *(index + 1 for index, letter in enumerate(name) if letter == ".")]


def _fit(
    candidate: Candidate,
    state: Mapping[str, Tensor],
    removed: str,
    added: str,
    inner: tuple[str, ...],
    folded: Sequence[str],
    shapes: Shapes,
) -> Fit | None:
    tensors: dict[str, Tensor] = {}
    left_out: list[str] = []
    tops = {name.partition(".")[0] for name in shapes.two}
    for name, value in state.items():
        top, dot, _ = name.partition(".")
        beside = not removed and not added and dot and top not in tops and _TRAINING_ONLY.search(top)
        if not name.startswith(removed) or beside:
            left_out.append(name)
        else:
            tensors[added + name[len(removed) :]] = value
    matched = [name for name, value in tensors.items() if shapes.fits(name, tuple(value.shape))]
    if not matched:
        return None
    unknown = sum(name not in shapes.two for name in tensors)
    inside = {added + _without(name, inner)[len(removed) :] for name in folded}
    return Fit(
        candidate,
        removed,
        added,
        inner,
        tensors,
        tuple(name for name in tensors if name in inside),
        tuple(left_out),
        len(matched),
        unknown,
    )
