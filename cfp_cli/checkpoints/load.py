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

from cfp_cli.checkpoints.read import Contents, read_contents
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.foundation.progress import SILENT, Progress
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
        arch: the architecture of a file that is not a cfp checkpoint. A cfp checkpoint stores its own, which is used.
        input_size: height and width in pixels, for files that do not store them.
        classes: class names, for files that do not store them.
        unsafe_pickle: also read files that can run code when they are loaded, such as a pickled module.
        progress: reports the assumptions about preprocessing, for files that do not store it.

    Raises:
        CheckpointError: the file is missing, cannot be read, needs unpickling, does not fit the architecture, or
            contains NaN.
    """
    contents = read_contents(Path(path), unsafe_pickle=unsafe_pickle)
    facts, state = contents.facts, contents.state
    arch = facts.get("arch") if contents.own else arch or facts.get("arch")
    if not arch:
        raise CheckpointError(
            f"{path} does not name its architecture; pass --arch, such as --arch torchvision:resnet18"
        )
    _require_finite(contents)
    class_count = _class_count(contents, arch)
    names = facts.get("classes") or classes or tuple(str(index) for index in range(class_count))
    if len(names) != class_count:
        raise CheckpointError(
            f"{path} names {len(names)} classes but its head has {class_count} outputs; save the network again"
        )
    spec = ModelSpec.from_json({**facts, "arch": arch, "classes": names})
    if input_size is not None and "input_size" not in facts:
        spec = replace(spec, input_size=input_size)
    _report_assumptions(contents, spec, input_size, progress)
    model = create(spec.arch, class_count, **spec.arch_kwargs)
    if spec.plan is not None:
        resize_tensors(model, {name: tuple(tensor.shape) for name, tensor in state.items()})
    _load_weights(contents, model, spec.arch)
    return describe(model.eval(), spec)


def _require_finite(contents: Contents) -> None:
    for name, value in contents.state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{contents.path} holds NaN or infinity in '{name}'; train it again from an earlier checkpoint"
            )


def _class_count(contents: Contents, arch: str) -> int:
    """Read the number of classes from the shape of the head."""
    kwargs: dict[str, Any] = contents.facts.get("arch_kwargs") or {}
    head = head_tensors(arch, kwargs)
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
    load_state(model, with_versions(used, module_versions(contents.state)), strict=False)
