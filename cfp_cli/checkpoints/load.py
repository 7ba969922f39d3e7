"""Build the network of a model file.

A pruned network is rebuilt from the name of its architecture and the shapes of its tensors. No class is ever pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.permission import permitted_arch
from cfp_cli.checkpoints.read import Contents, read_contents
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.foundation.errors import CheckpointError, UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.models.attributes import set_attributes
from cfp_cli.models.head import head_tensors
from cfp_cli.models.registry import auxiliary_prefixes, create
from cfp_cli.models.resize import resize_tensors
from cfp_cli.models.state_dict import load_state, module_versions, with_versions


def load(
    path: str | Path,
    arch: str | None = None,
    *,
    input_size: tuple[int, int] | None = None,
    classes: tuple[str, ...] | None = None,
    unsafe_pickle: bool = False,
    progress: Progress = SILENT,
) -> nn.Module:
    """Load a network in eval mode on the CPU, with its `ModelSpec` as attribute `spec`.

    Args:
        path: a cfp checkpoint, a dict with `state_dict`, or a bare state dict; a `.pt`, `.pth`, `.pth.tar` or
            `.safetensors` file.
        arch: the architecture of a file that is not a cfp checkpoint. A cfp checkpoint stores its own, which is used;
            but where that is a `FILE.py:FACTORY`, its code runs only if `arch` names it too.
        input_size: height and width in pixels, for files that do not store them.
        classes: class names, for files that do not store them.
        unsafe_pickle: also read files that can run code when they are loaded, such as a pickled module.
        progress: reports the assumptions about preprocessing, for files that do not store it.

    Raises:
        CheckpointError: the file is missing, damaged, cannot be read, needs unpickling, names Python code that `arch`
            does not name, does not fit the architecture, or contains NaN or numbers of the wrong type.
        UsageError: the architecture cannot be built.
    """
    contents = read_contents(Path(path), unsafe_pickle=unsafe_pickle)
    spec = _spec(contents, arch, input_size, classes)
    _require_finite(contents)
    _report_assumptions(contents, spec, input_size, progress)
    model = create(spec.arch, len(spec.classes), **spec.arch_kwargs)
    if spec.plan is not None:
        resize_tensors(model, {name: tuple(tensor.shape) for name, tensor in contents.state.items()})
        set_attributes(model, spec.plan.get("attributes") or {})
    _load_weights(contents, model, spec.arch)
    _require_variances(contents, model)
    return describe(model.eval(), spec)


def _spec(
    contents: Contents, arch: str | None, input_size: tuple[int, int] | None, classes: tuple[str, ...] | None
) -> ModelSpec:
    """Return the spec of a file, completed by what the caller passed."""
    path, facts = contents.path, contents.facts
    if contents.own:
        spec = ModelSpec.from_json(facts, path)
        spec = replace(spec, arch=permitted_arch(spec.arch, arch, path))
        count = _class_count(contents, spec.arch, spec.arch_kwargs)
        if len(spec.classes) != count:
            raise CheckpointError(
                f"{path} names {len(spec.classes)} classes but its head has {count} outputs; save the network again"
            )
        return spec
    stored = facts.get("arch")
    if not arch:
        if not stored:
            raise CheckpointError(
                f"{path} does not name its architecture; pass --arch, such as --arch torchvision:resnet18"
            )
        arch = permitted_arch(stored, None, path)
    count = _class_count(contents, arch, {})
    names = facts.get("classes") or classes or tuple(str(index) for index in range(count))
    if len(names) != count:
        raise CheckpointError(
            f"{path} names {len(names)} classes but its head has {count} outputs; correct its classes"
        )
    spec = ModelSpec.from_json({**facts, "arch": arch, "classes": list(names)}, path)
    try:
        return spec if input_size is None or "input_size" in facts else replace(spec, input_size=input_size)
    except FieldError as error:
        raise UsageError(f"{error}; pass another input size") from error


def _require_finite(contents: Contents) -> None:
    for name, value in contents.state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{contents.path} holds NaN or infinity in '{name}'; use a checkpoint without NaN")


def _require_variances(contents: Contents, model: nn.Module) -> None:
    """Refuse batch norms with a negative variance, whose output is NaN."""
    for name, module in model.named_modules():
        variance = getattr(module, "running_var", None)
        if isinstance(variance, Tensor) and bool((variance < 0).any()):
            full_name = f"{name}.running_var" if name else "running_var"
            raise CheckpointError(
                f"{contents.path} holds a negative variance in '{full_name}'; use a checkpoint without NaN"
            )


def _class_count(contents: Contents, arch: str, arch_kwargs: Mapping[str, Any]) -> int:
    """Read the number of classes from the shape of the head."""
    head = head_tensors(arch, arch_kwargs)
    for name in reversed(head):
        if name in contents.state and contents.state[name].dim() >= 1:
            return int(contents.state[name].shape[0])
    raise CheckpointError(
        f"{contents.path} does not fit {arch}: it has no '{head[-1] if head else 'head'}'; pass the right --arch"
    )


def _report_assumptions(
    contents: Contents, spec: ModelSpec, input_size: tuple[int, int] | None, progress: Progress
) -> None:
    size = " x ".join(map(str, spec.input_size))
    if input_size is not None and spec.input_size != input_size:
        progress.say(f"{contents.path} stores its input size, {size}; the size that you pass is not used")
    if contents.own and not contents.verified:
        progress.say(
            f"{contents.path} stores no hash of its content, because an earlier version of cfp wrote it; "
            "damage cannot be detected"
        )
    if not contents.own:
        progress.say(
            f"{contents.path} does not store how its images are normalised; assuming {size} pixels with values in "
            "[0, 1], without mean and std; to set them see cfp_cli.describe"
        )


def _load_weights(contents: Contents, model: nn.Module, arch: str) -> None:
    expected: Mapping[str, Tensor] = model.state_dict()
    auxiliary = auxiliary_prefixes(arch)
    used = {name: value for name, value in contents.state.items() if not name.startswith(auxiliary)}
    # Old versions of PyTorch do not save the counter.
    missing = [name for name in expected if name not in used and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in used if name not in expected]
    reshaped = [name for name, value in used.items() if name in expected and value.shape != expected[name].shape]
    problems = ((missing, "lacks"), (unexpected, "has an unknown"), (reshaped, "has another shape of"))
    for names, problem in problems:
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"{contents.path} does not fit {arch}: it {problem} '{names[0]}'{more}; pass the right --arch"
            )
    for name, value in used.items():
        if name in expected:
            _require_kind(contents.path, name, value, expected[name])
    load_state(model, with_versions(used, module_versions(contents.state)), strict=False)


def _require_kind(path: Path, name: str, value: Tensor, expected: Tensor) -> None:
    """Refuse tensors whose numbers PyTorch would convert silently, such as integers as weights."""
    if _kind(value) == _kind(expected):
        return
    # Counters that a conversion of the whole state dict to half precision made floating-point are harmless.
    if value.is_floating_point() and _kind(expected) == "integer" and bool((value == value.round()).all()):
        return
    raise CheckpointError(
        f"{path} holds {str(value.dtype).removeprefix('torch.')} numbers in '{name}' where the network has "
        f"{str(expected.dtype).removeprefix('torch.')}; save its original weights"
    )


def _kind(value: Tensor) -> str:
    return "floating" if value.is_floating_point() else "bool" if value.dtype == torch.bool else "integer"
