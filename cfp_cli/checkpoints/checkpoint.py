"""The checkpoint format `cfp/1`: plain data that loads without unpickling, read, built and written in one place.

A file holds the tensors of a network and a `ModelSpec`: everything else that is needed to build and feed it. A pruned
network is rebuilt from its architecture's name and the shapes of its tensors; no class is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.foundation.files import or_nearest, write_atomic
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.models.head import head_names
from cfp_cli.models.registry import create, training_only
from cfp_cli.models.shapes import fit
from cfp_cli.models.state import load_state, versions_of, with_versions

FORMAT = "cfp/1"
# What `cfp export` writes.
EXPORTED = (".onnx", ".pt2")
DEFAULT_INPUT_SIZE = (224, 224)


@dataclass(frozen=True)
class ModelSpec:
    """What a checkpoint says beside its tensors.

    Attributes:
        arch: name of the architecture, as `--arch` takes it.
        arch_kwargs: further arguments of its factory.
        classes: class names, in the order of the logits.
        input_size: height and width of the input in pixels.
        mean: per-channel mean subtracted from images in [0, 1].
        std: per-channel standard deviation they are then divided by.
        plan: the pruning plan that shaped the network, or None where it is whole.
        lineage: the steps that made it, oldest first, as plain data.
    """

    arch: str
    classes: tuple[str, ...]
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] = DEFAULT_INPUT_SIZE
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    plan: dict[str, Any] | None = None
    lineage: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The spec as plain data."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The spec that `to_json` gave.

        Raises:
            KeyError: a field without a default is missing.
        """
        return cls(
            arch=str(data["arch"]),
            classes=tuple(str(name) for name in data["classes"]),
            arch_kwargs=dict(data.get("arch_kwargs") or {}),
            input_size=_pair(data.get("input_size", DEFAULT_INPUT_SIZE)),
            mean=tuple(float(value) for value in data.get("mean") or (0.0, 0.0, 0.0)),
            std=tuple(float(value) for value in data.get("std") or (1.0, 1.0, 1.0)),
            plan=data.get("plan"),
            lineage=tuple(data.get("lineage") or ()),
        )

    def followed_by(self, step: str, **facts: Any) -> ModelSpec:
        """The same spec with one more step in its lineage."""
        return replace(self, lineage=(*self.lineage, {"step": step, **facts}))


def spec_of(model: nn.Module) -> ModelSpec:
    """The spec that `load` or `describe` attached to a network.

    Raises:
        CheckpointError: the network carries none.
    """
    spec = getattr(model, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise CheckpointError(
            "this network carries no spec; attach one with cfp_cli.describe(model, arch=..., classes=...)"
        )
    return spec


def describe(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Attach `spec` to a network, so that it can be scored, pruned and saved; gives the same network back."""
    model.spec = spec  # type: ignore[assignment]
    return model


def with_new_head(model: nn.Module, classes: tuple[str, ...]) -> nn.Module:
    """A copy of a network whose head is made anew for other classes; every other weight is that of `model`.

    Args:
        model: carries the spec of a whole network; left alone.
        classes: names in the order of the new logits.

    Returns:
        The copy in eval mode, with its spec; the new head's weights are drawn from torch's generator.

    Raises:
        CheckpointError: the network carries no spec, is pruned, or its architecture shows no head.
    """
    spec = spec_of(model)
    if spec.plan is not None:
        raise CheckpointError("a pruned network keeps its head; start from the network that it was pruned from")
    head = head_names(spec.arch, spec.arch_kwargs)
    if not head:
        raise CheckpointError(f"{spec.arch} has no tensor that follows the number of classes; its head is unknown")
    renewed = create(spec.arch, len(classes), **spec.arch_kwargs)
    state = model.state_dict()
    kept = {name: value for name, value in state.items() if name not in head}
    load_state(renewed, with_versions(kept, versions_of(state)), strict=False)
    return describe(renewed.eval(), replace(spec, classes=classes))


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
        arch: the architecture; a cfp checkpoint knows its own, and keeps it.
        input_size: height and width in pixels; for files that do not say it.
        classes: class names; for files that do not hold any.
        unsafe_pickle: also read files that can run code when loaded, such as a pickled module.
        progress: told of what is assumed of the images where the file does not say it.

    Raises:
        CheckpointError: the file is missing, unreadable, needs unpickling, does not fit the architecture, or holds NaN.
    """
    path = Path(path)
    content = _read(path, unsafe_pickle)
    if isinstance(content, nn.Module):
        content = {"state_dict": content.state_dict()}
    state, facts = _state_and_facts(path, content)
    # What `--arch` says is for the files of a command that do not say it as a cfp checkpoint does.
    arch = facts.get("arch") if facts.get("format") == FORMAT else arch or facts.get("arch")
    if not arch:
        raise CheckpointError(f"{path} does not say its architecture; pass --arch, such as --arch torchvision:resnet18")
    _refuse_unusable(path, state)
    spec_facts: dict[str, Any] = {**facts, "arch": arch}
    count = _class_count(path, arch, spec_facts.get("arch_kwargs") or {}, state)
    names = spec_facts.get("classes") or classes or tuple(str(index) for index in range(count))
    if len(names) != count:
        raise CheckpointError(
            f"{path} names {len(names)} classes but its head has {count} outputs; the file is inconsistent"
        )
    spec = ModelSpec.from_json({**spec_facts, "classes": names})
    if input_size is not None and "input_size" not in facts:
        spec = replace(spec, input_size=input_size)
    _tell(path, facts, spec, input_size, progress)
    model = create(spec.arch, count, **spec.arch_kwargs)
    if spec.plan is not None:
        fit(model, {name: tuple(tensor.shape) for name, tensor in state.items()})
    _fill(path, model, state, spec.arch)
    return describe(model.eval(), spec)


def _tell(
    path: Path, facts: Mapping[str, Any], spec: ModelSpec, wanted: tuple[int, int] | None, progress: Progress
) -> None:
    """Say what is assumed of a network's images, and of a size that was asked for in vain."""
    size = " x ".join(map(str, spec.input_size))
    if wanted is not None and spec.input_size != wanted:
        progress.say(f"{path} is for images of {size}; a size given is for files that do not say theirs")
    if facts.get("format") != FORMAT:
        progress.say(
            f"{path} does not say how its images are normalised: {size} pixels of values in [0, 1] are taken as they "
            "are; for a mean and a deviation see cfp_cli.describe"
        )


def save(path: str | Path, model: nn.Module, spec: ModelSpec | None = None) -> None:
    """Write a network and its spec, atomically; as safetensors when the name ends so.

    Subnormal weights are written as zero: they change no output visibly and make CPUs several times slower.

    Raises:
        CheckpointError: the network carries no spec and none is given.
    """
    path = Path(path)
    spec = spec or spec_of(model)
    held = model.state_dict()
    state = with_versions({name: _flushed(tensor) for name, tensor in held.items()}, versions_of(held))
    facts = {"format": FORMAT, **spec.to_json()}
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(state, {"cfp": json.dumps(facts)})

        def write(file: BinaryIO) -> None:
            file.write(content)
    else:

        def write(file: BinaryIO) -> None:
            torch.save({**facts, "state_dict": state}, file)

    write_atomic(path, write)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of all parameters and buffers, in hex."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{values.dtype}:{tuple(values.shape)};".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, unsafe_pickle: bool) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a model file; the model comes first, then the data")
    if not path.is_file():
        raise CheckpointError(f"no file {path}; {or_nearest(path, 'check the path of the model')}")
    if path.suffix in EXPORTED:
        raise CheckpointError(f"{path} is an exported network; pass the checkpoint that it was made from")
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get("cfp", "{}"))
                return {**facts, "state_dict": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
        return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} needs unpickling, which can run code; save model.state_dict() instead and pass --arch, "
            "or pass --unsafe-pickle if you trust the file"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({_first_line(error)}); save it again") from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path} needs code that is not here ({_first_line(error)}); save model.state_dict() instead"
        ) from error


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return "no file that PyTorch writes"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0][:160]


def _state_and_facts(path: Path, content: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    facts: dict[str, Any] = {}
    state: Any = content
    if "state_dict" in content:
        state = content["state_dict"]
        facts = {name: value for name, value in content.items() if name != "state_dict"}
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path} holds no state dict; save model.state_dict() or a dict with the key 'state_dict'"
        )
    named = facts.get("format")
    if isinstance(named, str) and named.startswith("cfp/") and named != FORMAT:
        raise CheckpointError(f"{path} has format {named}, this version reads {FORMAT}; update cfp")
    if named != FORMAT:
        # Another tool's dict: only facts of the right kind are taken, and never a plan.
        facts = {
            name: facts[name]
            for name, kinds in (("arch", (str,)), ("classes", (list, tuple)), ("input_size", (list, tuple, int)))
            if isinstance(facts.get(name), kinds)
        }
    # A network wrapped for training on several devices lies at "module" itself; this format's never are.
    wrapper = "" if named == FORMAT else "module."
    stripped = {name.removeprefix(wrapper): _full(value) for name, value in state.items()}
    versions = {f"{name}.".removeprefix(wrapper)[:-1]: found for name, found in versions_of(state).items()}
    return with_versions(stripped, versions), facts


def _full(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def _refuse_unusable(path: Path, state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{path} holds NaN or infinity in '{name}'; train it again from an earlier checkpoint"
            )


def _class_count(path: Path, arch: str, kwargs: Mapping[str, Any], state: Mapping[str, Tensor]) -> int:
    """Read the class count from the shape of the head: the tensors whose shape follows the number of classes."""
    heads = head_names(arch, kwargs)
    for name in reversed(heads):
        if name in state and state[name].dim() >= 1:
            return int(state[name].shape[0])
    raise CheckpointError(
        f"{path} does not fit {arch}: it has no '{heads[-1] if heads else 'head'}'; pass the right --arch"
    )


def _fill(path: Path, model: nn.Module, state: Mapping[str, Tensor], arch: str) -> None:
    wanted = model.state_dict()
    used = {name: value for name, value in state.items() if not name.startswith(training_only(arch))}
    state = with_versions(used, versions_of(state))
    # A counter that some versions of PyTorch do not save.
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    wrong = [name for name, value in state.items() if name in wanted and value.shape != wanted[name].shape]
    for names, what in ((missing, "lacks"), (unexpected, "has an unknown"), (wrong, "has another shape of")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{path} does not fit {arch}: it {what} '{names[0]}'{more}; pass the right --arch")
    load_state(model, state, strict=False)


def _flushed(tensor: Tensor) -> Tensor:
    value = tensor.detach().cpu().contiguous()
    if not value.is_floating_point():
        # Safetensors refuses tensors that share memory, such as the counter of a batch norm used twice.
        return value.clone()
    return torch.where(value.abs() < torch.finfo(value.dtype).tiny, torch.zeros_like(value), value)
