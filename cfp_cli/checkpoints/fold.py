"""Compute the weights of tensors that a file stores in parts, such as a weight and its pruning mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_PARAMETRIZATIONS = ".parametrizations."


def fold(state: Mapping[str, Tensor], known: Callable[[str], bool]) -> tuple[dict[str, Tensor], list[str]]:
    """Replace tensors in parts by their product.

    These are the masks of `torch.nn.utils.prune` (`weight_orig`, `weight_mask`), the old and new weight norm
    (`weight_g`, `weight_v`; `original0`, `original1`), the old and new spectral norm in evaluation (`weight_orig`,
    `weight_u`, `weight_v`; `original`, `_u`, `_v`), and sparsity masks as parametrization.

    Args:
        state: tensors by name.
        known: whether the network itself has a tensor with this last part of its name; such tensors are kept.

    Returns:
        The tensors by name, and the names of the computed ones.
    """
    result = dict(state)
    folded: list[str] = []
    for name in state:
        parts = _parts(name, state)
        if parts is None or known(name.rpartition(".")[2]):
            continue
        weight = parts.weight()
        if weight is None:
            continue
        for part in parts.names:
            result.pop(part, None)
        result[parts.name] = weight
        folded.append(parts.name)
    return result, folded


class _Parts:
    """A tensor that is stored in parts."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor], product: Callable[..., Tensor]) -> None:
        self.name, self.names, self.tensors, self.product = name, tuple(tensors), tensors, product

    def weight(self) -> Tensor | None:
        """Return the tensor, or None if the parts do not fit each other."""
        values = list(self.tensors.values())
        if not all(value.is_floating_point() or value.dtype == torch.bool for value in values):
            return None
        # Strides can declare more elements than the file stores, see `require_plain_tensor`.
        if any(value.layout != torch.strided or _is_expanded(value) for value in values):
            return None
        try:
            return self.product(*(value.float() for value in values))
        except RuntimeError:
            return None


def _is_expanded(value: Tensor) -> bool:
    return value.numel() * value.element_size() > value.untyped_storage().nbytes()


def _parts(name: str, state: Mapping[str, Tensor]) -> _Parts | None:
    """Return the parts of which `name` is the first, or None."""

    def select(base: str, product: Callable[..., Tensor], *names: str) -> _Parts | None:
        return _Parts(base, {each: state[each] for each in names}, product) if all(n in state for n in names) else None

    if name.endswith("_orig"):
        base = name.removesuffix("_orig")
        return select(base, torch.mul, name, f"{base}_mask") or select(
            base, _over_spectral_norm, name, f"{base}_u", f"{base}_v"
        )
    if name.endswith("_g"):
        base = name.removesuffix("_g")
        return select(base, _weight_norm, name, f"{base}_v")
    before, _, after = name.rpartition(_PARAMETRIZATIONS)
    base, _, part = after.rpartition(".")
    if not before and name.startswith(_PARAMETRIZATIONS[1:]):
        base, _, part = name.removeprefix(_PARAMETRIZATIONS[1:]).rpartition(".")
    elif not before:
        return None
    stem, full = name.removesuffix(f".{part}"), f"{before}.{base}" if before else base
    extra = sorted(other for other in state if other.startswith(f"{stem}.") and other != name)
    if part == "original0" and extra == [f"{stem}.original1"]:
        return select(full, _weight_norm, name, f"{stem}.original1")
    if part == "original" and extra == [f"{stem}.0._u", f"{stem}.0._v"]:
        return select(full, _over_spectral_norm, name, *extra)
    if part == "original" and extra == [f"{stem}.0.mask"]:
        return select(full, torch.mul, name, *extra)
    return None


def _weight_norm(magnitude: Tensor, direction: Tensor) -> Tensor:
    """Return g * v / |v|. The norm is over the dimensions that g does not have, so g shows the `dim` of weight norm."""
    if magnitude.dim() and magnitude.dim() != direction.dim():
        raise RuntimeError("other dimensions")
    summed = [
        dim for dim in range(direction.dim()) if not magnitude.dim() or magnitude.shape[dim] != direction.shape[dim]
    ]
    norm = direction.square().sum(summed, keepdim=True).sqrt() if summed else direction.abs()
    return magnitude * direction / norm


def _over_spectral_norm(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return W / (u^T W v), where u belongs to one dimension of W and v to all others."""
    for dim, size in enumerate(weight.shape):
        if (len(left), len(right)) == (size, weight.numel() // max(size, 1)):
            matrix = weight.movedim(dim, 0).reshape(size, -1)
            return weight / torch.dot(left, matrix.mv(right))
    raise RuntimeError("other dimensions")
