"""Choose the tensors of a file for an architecture, say what was chosen, and explain a file that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cfp_cli.checkpoints.fit import Fit, find_fits
from cfp_cli.checkpoints.read import Contents, quantised
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.models.head import Shape, Shapes

_SHOWN = 3
# What parts of unknown names say about a file, with the remedy.
_HINTS = {
    ".parametrizations.": "call torch.nn.utils.parametrize.remove_parametrizations on each such module and save again",
    "parametrizations.": "call torch.nn.utils.parametrize.remove_parametrizations on each such module and save again",
    "_fake_quant": "it was prepared for quantisation; pass the checkpoint from before that",
    "activation_post_process": "it was prepared for quantisation; pass the checkpoint from before that",
    "lora_": "it stores a low-rank adapter; merge it into the network and save again",
}


@dataclass(frozen=True)
class Choice:
    """The tensors that were chosen, and others of the file that fit as well.

    Attributes:
        fit: the chosen tensors.
        others: where the others are.
    """

    fit: Fit
    others: tuple[str, ...]

    def describe(self, path: Path) -> str | None:
        """Return one line that says what was chosen; None where the file holds a plain state dict."""
        fit = self.fit
        if fit.plain and not self.others:
            return None
        entry = ".".join(fit.candidate.key)
        parts = [f"takes the weights in '{entry}'" if entry else "takes its weights"]
        if fit.is_average:
            parts[0] += ", a moving average"
        if fit.removed:
            parts.append(f"without the prefix '{fit.removed}'")
        if fit.added:
            parts.append(f"with the prefix '{fit.added}'")
        if fit.inner:
            parts.append(f"without {_quoted(fit.inner)} in their names")
        if fit.folded:
            count = len(fit.folded)
            parts.append(f"with {count} tensor{'s' * (count > 1)} computed from masks or norms: {_quoted(fit.folded)}")
        line = f"{path}: {', '.join(parts)}"
        if fit.left_out:
            line += f"; leaves out {_quoted(fit.left_out)}"
        if self.others:
            line += f"; {_quoted(self.others)} would fit too, pass --weights {self.others[0]} to take it"
        return line


def choose(contents: Contents, shapes: Shapes, arch: str, weights: str | None) -> Choice:
    """Choose the tensors of a file that fit an architecture.

    Args:
        contents: the file.
        shapes: the tensors of the architecture.
        arch: its name, for messages.
        weights: the entry or the prefix that the user wants, or None for the one that fits best.

    Raises:
        CheckpointError: nothing fits.
    """
    fits = find_fits(contents.candidates, shapes)
    if not fits:
        largest = max(contents.candidates, key=lambda each: len(each.state))
        raise misfit(contents, arch, {name: tuple(value.shape) for name, value in largest.state.items()}, shapes.two)
    best = fits[0]
    alike = [each for each in fits if (each.matched, each.unknown) == (best.matched, best.unknown)]
    if weights is not None:
        chosen = next((each for each in fits if each.names(weights)), None)
        if chosen is None:
            known = _quoted(dict.fromkeys(each.source for each in alike if each.source))
            advice = f"pass {known}" if known else "leave out --weights"
            raise CheckpointError(f"{contents.path} holds no weights of {arch} in '{weights}'; {advice}")
        return Choice(chosen, ())
    own = {id(value) for value in best.tensors.values()}
    others = dict.fromkeys(
        each.source for each in alike if each.source and any(id(value) not in own for value in each.tensors.values())
    )
    return Choice(best, tuple(others))


def misfit(
    contents: Contents, arch: str, given: Mapping[str, Shape], expected: Mapping[str, Shape], head: Sequence[str] = ()
) -> CheckpointError:
    """Return the error for tensors that are not those of an architecture: it shows three names of each side.

    Args:
        contents: the file.
        arch: the name of the architecture.
        given: shapes by name in the file.
        expected: shapes by name of the network.
        head: names of the head's tensors. If the file lacks nothing else, the advice is to train a head.
    """
    if contents.quantised is not None:
        return quantised(contents.path, contents.quantised)
    missing = [name for name in expected if name not in given and not is_counter(name)]
    unknown = [name for name in given if name not in expected]
    reshaped = [name for name, shape in given.items() if name in expected and shape != expected[name]]
    problems = []
    if missing:
        problems.append(f"it lacks {_quoted(missing)}")
    if unknown:
        problems.append(f"it has the unknown {_quoted(unknown)}")
    if reshaped and not (missing or unknown):
        name = reshaped[0]
        problems.append(f"it has another shape of {_quoted(reshaped)}: {given[name]}, not {expected[name]}")
    elif reshaped:
        problems.append(f"it has another shape of {_quoted(reshaped)}")
    hint = next((hint for part, hint in _HINTS.items() if any(part in name for name in unknown)), None)
    pickled = next((each.module for each in contents.candidates if each.module is not None), None)
    advice = hint or "pass the right --arch"
    if reshaped and not (missing or unknown) and all("pos_embed" in name for name in reshaped):
        advice = (
            "it was built for images of another size; pass an --arch file.py:factory that builds it for that size, "
            "by img_size of timm or image_size of torchvision"
        )
    if missing and set(missing) <= set(head):
        advice = "if it is an encoder without a head, train one with `cfp train DATA --init CKPT --new-head`"
    if pickled is not None:
        advice += f", or save model.state_dict() of the {pickled} again"
    return CheckpointError(f"{contents.path} does not fit {arch}: {' and '.join(problems)}; {advice}")


def is_counter(name: str) -> bool:
    """Return whether a tensor is the counter of a batch norm, which old versions of PyTorch do not save."""
    return name.endswith("num_batches_tracked")


def _quoted(names: Iterable[str]) -> str:
    """Return the first three names, and how many more there are."""
    listed: Sequence[str] = list(names)
    text = ", ".join(f"'{name}'" for name in listed[:_SHOWN])
    return text if len(listed) <= _SHOWN else f"{text} and {len(listed) - _SHOWN} more"
