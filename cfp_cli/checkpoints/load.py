"""Build the network of a model file.

A pruned network is rebuilt from the name of its architecture and the shapes of its tensors. No class is ever pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cfp_cli.checkpoints.choose import Choice, choose, misfit
from cfp_cli.checkpoints.fill import fill, shapes_of
from cfp_cli.checkpoints.foreign_facts import foreign_facts
from cfp_cli.checkpoints.permission import permitted_arch
from cfp_cli.checkpoints.preprocessing import Assumed, complete, images_of, normalises_itself, per_channel
from cfp_cli.checkpoints.read import Contents, read_contents, require_plain_tensor
from cfp_cli.checkpoints.spec import DEFAULT_INPUT_SIZE, ModelSpec, describe
from cfp_cli.execution.forward import forward_errors
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.errors import CheckpointError, UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.models.attributes import set_attributes
from cfp_cli.models.forward_pass import run_network
from cfp_cli.models.head import Shapes, tensor_shapes
from cfp_cli.models.input_channels import input_channels, set_input_channels, take_input_channels
from cfp_cli.models.registry import create, is_factory_file, is_known
from cfp_cli.models.resize import resize_tensors
from cfp_cli.models.state_dict import module_versions, with_versions


def load(
    path: str | Path,
    arch: str | None = None,
    *,
    input_size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: tuple[str, ...] | None = None,
    weights: str | None = None,
    like: ModelSpec | None = None,
    unsafe_pickle: bool = False,
    without_head: bool = False,
    resize: bool = False,
    progress: Progress = SILENT,
) -> nn.Module:
    """Load a network in eval mode on the CPU, with its `ModelSpec` as attribute `spec`.

    Args:
        path: a cfp checkpoint, or a file of another tool that contains a state dict, at its top or nested; a `.pt`,
            `.pth`, `.pth.tar`, `.bin`, `.ckpt` or `.safetensors` file, or the index of a file in parts.
        arch: the architecture of a file that is not a cfp checkpoint. A cfp checkpoint stores its own, which is used;
            but where that is a `FILE.py:FACTORY`, its code runs only if `arch` names it too.
        input_size: height and width in pixels, for files that do not store them.
        mean: mean of each channel, for files that do not store it; one value counts for all channels.
        std: standard deviation of each channel, likewise.
        classes: class names, for files that do not store them.
        weights: the entry of the file or the prefix of the names that holds the weights, for files in which several
            fit. By default a moving average comes before the weights that it averages.
        like: a network of the same run, whose preprocessing a file takes that does not store its own, if the arguments
            do not state it.
        unsafe_pickle: also read files that can run code when they are loaded, such as a pickled module.
        without_head: also accept a file of another tool that lacks the head of the architecture or has another one,
            such as a self-supervised encoder. The head then keeps random weights, for `with_new_head`.
        resize: take `input_size` also for a file that stores another one, to train the network at that size.
        progress: reports which tensors of a file of another tool are taken, and the assumptions about preprocessing.

    Raises:
        CheckpointError: the file is missing, damaged, cannot be read, needs unpickling, names Python code that `arch`
            does not name, does not fit the architecture, or contains NaN or numbers of the wrong type.
        UsageError: the architecture cannot be built.
    """
    contents = read_contents(Path(path), unsafe_pickle=unsafe_pickle)
    assumed = Assumed(input_size, mean, std, like)
    line: str | None = None
    stored: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    if contents.own:
        spec, tensors = _own_spec(contents, arch), dict(contents.candidates[0].state)
        versions = module_versions(contents.candidates[0].state)
    else:
        spec, choice, stored, lacking = _foreign_spec(contents, arch, assumed, classes, weights, without_head)
        tensors, versions = dict(choice.fit.tensors), choice.fit.versions
        for name, value in tensors.items():
            require_plain_tensor(contents.path, name, value)
        line = choice.describe(contents.path)
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    model = create(spec.arch, len(spec.classes), **spec.arch_kwargs)
    source = ""
    if not contents.own:
        take_input_channels(model, shapes_of(tensors))
        spec, source = complete(spec, model, assumed, stored)
    set_input_channels(model, spec.channels, spec.input_size)
    if spec.plan is not None:
        resize_tensors(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        set_attributes(model, _plan_attributes(spec.plan, contents.path))
    fill(contents, model, spec.arch, with_versions(tensors, versions), lacking)
    if line is not None:
        progress.say(line)
    if resize and input_size is not None and spec.input_size != input_size:
        stored_size, new_size = (" x ".join(map(str, size)) for size in (spec.input_size, input_size))
        progress.say(f"{contents.path} was trained at {stored_size} pixels; it will be trained at {new_size}")
        spec = replace(spec, input_size=input_size)
    _report_assumptions(contents, spec, assumed, source, normalises_itself(model, spec.channels), progress)
    return describe(model.eval(), spec)


def _own_spec(contents: Contents, arch: str | None) -> ModelSpec:
    """Return the spec of a cfp checkpoint."""
    path = contents.path
    spec = ModelSpec.from_json(contents.facts, path)
    spec = replace(spec, arch=permitted_arch(spec.arch, arch, path))
    try:
        shapes = tensor_shapes(spec.arch, spec.arch_kwargs)
    except UsageError as error:
        raise UsageError(f"{path}: arch or arch_kwargs is wrong: {error}") from error
    count = shapes.class_count(shapes_of(contents.candidates[0].state))
    if count is None and shapes.head:
        raise CheckpointError(
            f"{path} does not fit {spec.arch}: it lacks '{shapes.head[-1]}' in a usable shape; pass the right --arch"
        )
    if count is not None and not spec.classes:
        raise CheckpointError(f"{path}: classes is empty but the head has {count} outputs; save the network again")
    if count is not None and len(spec.classes) != count:
        raise CheckpointError(
            f"{path} names {len(spec.classes)} classes but its head has {count} outputs; save the network again"
        )
    return spec


def _foreign_spec(
    contents: Contents,
    arch: str | None,
    assumed: Assumed,
    classes: tuple[str, ...] | None,
    weights: str | None,
    without_head: bool,
) -> tuple[ModelSpec, Choice, tuple[str, ...], tuple[str, ...]]:
    """Read a file of another tool.

    Returns:
        The spec that it states, its tensors, the fields of the spec that it states, and the head if it lacks it.
    """
    path = contents.path
    arch = arch or _stored_arch(contents)
    shapes = tensor_shapes(arch, {})
    choice = choose(contents, shapes, arch, weights)
    given = shapes_of(choice.fit.tensors)
    count = shapes.class_count(given)
    if count is None and without_head:
        # Two classes stand for the head that is replaced.
        facts = foreign_facts(_beside(contents, shapes), 0)
        facts.pop("classes", None)
        spec = ModelSpec.from_json({**facts, "arch": arch, "classes": ["0", "1"]}, path)
        return spec, choice, tuple(facts), shapes.head
    if count is None and not shapes.head:
        count = _output_count(arch, assumed.input_size or DEFAULT_INPUT_SIZE)
        if count == 0 and classes is not None:
            count = len(classes)
    if count is None:
        raise misfit(contents, arch, given, shapes.two, shapes.head)
    facts = foreign_facts(_beside(contents, shapes), count)
    names = facts.get("classes") or classes or tuple(str(index) for index in range(count))
    if len(names) != count:
        raise CheckpointError(
            f"{path} names {len(names)} classes but its head has {count} outputs; correct its classes"
        )
    return ModelSpec.from_json({**facts, "arch": arch, "classes": list(names)}, path), choice, tuple(facts), ()


def _beside(contents: Contents, shapes: Shapes) -> dict[str, Any]:
    """Return the entries of a file that are no tensors of the network.

    A network that normalises its images itself may have buffers named `mean` and `std`.
    """
    return {name: value for name, value in contents.facts.items() if name not in shapes.two}


def _plan_attributes(plan: Mapping[str, Any], path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the channel counts that a plan stores for attributes of modules."""
    attributes = plan.get("attributes", {})
    if not isinstance(attributes, dict) or not all(isinstance(each, dict) for each in attributes.values()):
        raise CheckpointError(f"{path}: plan.attributes is not an object of objects; prune the network again")
    return attributes


def _stored_arch(contents: Contents) -> str:
    """Return the architecture that a file of another tool names."""
    stored = contents.facts.get("arch")
    if not isinstance(stored, str) or not stored:
        raise CheckpointError(
            f"{contents.path} does not name its architecture; pass --arch, such as --arch torchvision:resnet18"
        )
    if is_factory_file(stored):
        return permitted_arch(stored, None, contents.path)
    if not is_known(stored):
        raise CheckpointError(
            f"{contents.path} names its architecture '{stored[:80]}', which is no name that cfp knows; pass --arch, "
            f"such as --arch torchvision:resnet18 or --arch net.py:factory"
        )
    return stored


def _output_count(arch: str, input_size: tuple[int, int]) -> int:
    """Return the number of logits of a network whose factory ignores the number of classes; 0 for other outputs."""
    model = create(arch, 2).eval()
    images = torch.zeros(1, input_channels(model, input_size), *input_size)
    with torch.inference_mode(), forward_errors(images.shape, CheckpointError):
        outputs = tensors_of(run_network(model, images))
    return int(outputs[0].shape[1]) if len(outputs) == 1 and outputs[0].dim() == 2 else 0


def _report_assumptions(
    contents: Contents, spec: ModelSpec, assumed: Assumed, source: str, inside: str | None, progress: Progress
) -> None:
    size = " x ".join(map(str, spec.input_size))
    if assumed.input_size is not None and spec.input_size != assumed.input_size:
        progress.say(f"{contents.path} stores its input size, {size}; the size that you pass is not used")
    for name, given, used in (("mean", assumed.mean, spec.mean), ("std", assumed.std, spec.std)):
        if given is not None and per_channel(given, spec.channels) != used:
            progress.say(f"{contents.path} stores its {name}; the {name} that you pass is not used")
    if contents.own and not contents.verified:
        progress.say(
            f"{contents.path} stores no hash of its content, because an earlier version of cfp wrote it; "
            "damage cannot be detected"
        )
    if source:
        progress.say(f"{contents.path}: {images_of(spec)}, {source}")
    elif not contents.own and inside is not None:
        progress.say(
            f"{contents.path} does not store its preprocessing; assuming {images_of(spec)}, because the network "
            f"normalises its images itself ('{inside}'); if it was trained with another size, pass --input-size"
        )
    elif not contents.own:
        size_option = ", and --input-size" if assumed.input_size is None else ""
        progress.say(
            f"{contents.path} does not store its preprocessing; assuming {images_of(spec)}; if it was trained with "
            f"others, its accuracy will be low: pass --normalise imagenet, or --mean and --std{size_option}; if it was "
            "trained without mean and std, pass --normalise none"
        )
