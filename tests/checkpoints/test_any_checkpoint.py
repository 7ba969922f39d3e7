"""Checkpoints as public trainers write them load with `--arch`, to the same weights, without running their code."""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import lzma
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from lines import Lines
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.models.registry import create

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.classifier = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Wrapped(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.backbone = Net(num_classes)

    def forward(self, x):
        return self.backbone(x)
"""
State = dict[str, Any]


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("net") / "net.py"
    file.write_text(NET)
    return file


@pytest.fixture
def arch(factory: Path) -> str:
    return f"{factory}:Net"


def network(seed: int = 0) -> nn.Module:
    names: dict[str, Any] = {}
    exec(NET, names)
    torch.manual_seed(seed)
    model: nn.Module = names["Net"](3).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


@pytest.fixture
def stranger() -> Iterator[Callable[..., type]]:
    """Make a class of a module that only exists while the file is written."""
    added: list[str] = []

    def make(module: str, name: str, *bases: type) -> type:
        if module not in sys.modules:
            sys.modules[module] = types.ModuleType(module)
            added.append(module)
        made = type(name, bases or (object,), {"__module__": module})
        setattr(sys.modules[module], name, made)
        return made

    yield make
    for module in added:
        sys.modules.pop(module, None)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def optimiser(model: nn.Module) -> State:
    adam = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adam.step()
    model.load_state_dict(before)
    return adam.state_dict()


# Each entry: how a trainer stores the state dict `s` of the network `m`, where `b` is that of another network.
PLAIN: dict[str, Callable[[State, nn.Module, State], Any]] = {
    "bare": lambda s, m, b: s,
    "DDP": lambda s, m, b: prefixed(s, "module."),
    "torch.compile": lambda s, m, b: prefixed(s, "_orig_mod."),
    "compiled DDP": lambda s, m, b: prefixed(s, "module._orig_mod."),
    "DDP of compiled in Lightning": lambda s, m, b: {"state_dict": prefixed(s, "_forward_module.model._orig_mod.")},
    "FSDP full": lambda s, m, b: {"model": prefixed(s, "_fsdp_wrapped_module.")},
    "FSDP of parts": lambda s, m, b: {
        name.replace("features.", "features._fsdp_wrapped_module._checkpoint_wrapped_module."): value
        for name, value in s.items()
    },
    "ImageNet example, DataParallel of the features": lambda s, m, b: {
        "epoch": 9,
        "arch": "alexnet",
        "state_dict": {name.replace("features.", "features.module."): value for name, value in s.items()},
        "best_acc1": torch.tensor(71.2),
        "optimizer": optimiser(m),
    },
    "PyTorch tutorial": lambda s, m, b: {
        "epoch": 5,
        "model_state_dict": s,
        "optimizer_state_dict": optimiser(m),
        "loss": 0.1,
    },
    "net and accuracy": lambda s, m, b: {"net": prefixed(s, "module."), "acc": 95.1, "epoch": 3},
    "weights": lambda s, m, b: {"weights": s, "classes": ["a", "b", "c"]},
    "torchvision references": lambda s, m, b: {
        "model": s,
        "optimizer": optimiser(m),
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 9,
        "args": argparse.Namespace(lr=0.1, output=Path("out")),
        "scaler": {"scale": 65536.0},
    },
    "timm train.py": lambda s, m, b: {
        "epoch": 9,
        "arch": "resnet18",
        "state_dict": OrderedDict(s),
        "optimizer": optimiser(m),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, mean=None),
        "amp_scaler": {},
        "metric": np.float64(77.1),
    },
    "mmpretrain": lambda s, m, b: {
        "meta": {"epoch": 100, "dataset_meta": {"classes": ("a", "b", "c")}, "seed": 0},
        "state_dict": {**prefixed(s, "backbone."), "data_preprocessor.mean": torch.zeros(3, 1, 1)},
        "optimizer": optimiser(m),
    },
    "Lightning": lambda s, m, b: {
        "epoch": 3,
        "global_step": 300,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(3), "train_acc.total": torch.ones(1)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9), "dirpath": "x"}},
        "optimizer_states": [optimiser(m)],
        "hyper_parameters": {"lr": 0.1},
    },
    "Lightning, layers in the module": lambda s, m, b: {
        "state_dict": {**s, "criterion.weight": torch.ones(3), "val_f1.tp": torch.ones(3)},
    },
    "HF Trainer": lambda s, m, b: prefixed(s, "model."),
    "HF wrapper": lambda s, m, b: prefixed(s, "timm_model."),
    "fastai Learner.save": lambda s, m, b: {"model": s, "opt": {"state": [{"mom": torch.ones(3)}], "hypers": []}},
    "detectron2": lambda s, m, b: {"model": s, "optimizer": {}, "scheduler": {}, "iteration": 90000},
    "DINO": lambda s, m, b: {
        "student": prefixed(b, "module.backbone."),
        "teacher": {**prefixed(s, "backbone."), "head.mlp.0.weight": torch.ones(2, 2)},
        "args": argparse.Namespace(arch="resnet50"),
        "dino_loss": {"center": torch.zeros(1, 4)},
    },
    "MoCo": lambda s, m, b: {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": {
            **prefixed(s, "module.encoder_q."),
            **prefixed(b, "module.encoder_k."),
            "module.queue": torch.zeros(4, 8),
            "module.queue_ptr": torch.zeros(1).long(),
        },
    },
    "SimCLR": lambda s, m, b: {
        "model": {**prefixed(s, "module.encoder."), "module.projector.0.weight": torch.ones(2, 2)},
        "opt": argparse.Namespace(temp=0.5),
    },
    "SWA AveragedModel": lambda s, m, b: AveragedModel(m).state_dict(),
    "accelerate": lambda s, m, b: {"model": prefixed(s, "module."), "step": 10, "ema_decay": 0.99},
    "DeepSpeed": lambda s, m, b: {
        "module": prefixed(s, "module."),
        "buffer_names": [],
        "optimizer": None,
        "dp_world_size": 8,
    },
    "Catalyst": lambda s, m, b: {"model_state_dict": prefixed(s, "module."), "epoch_metrics": defaultdict(dict, a={})},
    "ignite": lambda s, m, b: {"model": s, "trainer": {"epoch_length": 3, "iteration": 3}, "optimizer": optimiser(m)},
    "thop counters": lambda s, m, b: {**s, "total_ops": torch.zeros(1), "features.0.total_ops": torch.zeros(1)},
    "deeply nested": lambda s, m, b: {"run": {"best": {"weights": {"net": prefixed(s, "a.b.c.")}}}},
    "half precision in bfloat16": lambda s, m, b: {"model": s},
    "gradients beside": lambda s, m, b: {"grads": dict(b), "momentum_buffer": dict(b), "weights": s},
}
AVERAGES: dict[str, Callable[[State, State], Any]] = {
    "state_dict_ema": lambda s, b: {"state_dict": b, "state_dict_ema": s},
    "ema": lambda s, b: {"ema": {"module": s}, "model": b},
    "model_ema": lambda s, b: {"model": b, "model_ema": {"n_averaged": torch.tensor(5), **prefixed(s, "module.")}},
    "ema_state_dict": lambda s, b: {"state_dict": b, "callbacks": {"EMA": {"ema_state_dict": prefixed(s, "model.")}}},
    "ema_model.": lambda s, b: {"state_dict": {**prefixed(b, "model."), **prefixed(s, "ema_model.")}},
}


@pytest.mark.parametrize("trainer", PLAIN)
def test_the_network_of_a_trainer_is_found(tmp_path: Path, arch: str, trainer: str) -> None:
    model, other = network(), network(1)
    torch.save(PLAIN[trainer](model.state_dict(), model, other.state_dict()), tmp_path / "m.pth.tar")
    progress = Lines()
    loaded = load(tmp_path / "m.pth.tar", arch, progress=progress)
    assert fingerprint(loaded) == fingerprint(model)
    assert len(progress.lines) <= 2
    assert ("m.pth.tar: takes " in progress.text) == (trainer not in ("bare", "DDP", "timm train.py", "thop counters"))


@pytest.mark.parametrize("name", AVERAGES)
def test_a_moving_average_is_taken_and_reported(tmp_path: Path, arch: str, name: str) -> None:
    model, other = network(), network(1)
    torch.save(AVERAGES[name](model.state_dict(), other.state_dict()), tmp_path / "m.pt")
    progress = Lines()
    assert fingerprint(load(tmp_path / "m.pt", arch, progress=progress)) == fingerprint(model)
    assert "a moving average" in progress.text
    other_name = progress.text.partition("--weights ")[2].split()[0]
    assert fingerprint(load(tmp_path / "m.pt", arch, weights=other_name)) == fingerprint(other)
    with pytest.raises(CheckpointError, match=r"holds no weights of .* in 'nothing'; pass '"):
        load(tmp_path / "m.pt", arch, weights="nothing")


@pytest.mark.parametrize("container", ["m.pt", "m.bin", "m.ckpt", "old.pth", "m.safetensors"])
@pytest.mark.parametrize("prefix", ["", "model.", "module.encoder."])
def test_each_container_is_read(tmp_path: Path, arch: str, container: str, prefix: str) -> None:
    model, path = network(), tmp_path / container
    state = prefixed(model.state_dict(), prefix)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(
            {"model": state, "args": argparse.Namespace(x=1)},
            path,
            _use_new_zipfile_serialization="old" not in container,
        )
    assert fingerprint(load(path, arch)) == fingerprint(model)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_model_in_parts_is_read_by_its_index(tmp_path: Path, arch: str, kind: str) -> None:
    model = network()
    state = model.state_dict()
    halves = [dict(list(state.items())[:5]), dict(list(state.items())[5:])]
    where = {}
    for number, half in enumerate(halves):
        name = f"model-{number}.{kind}"
        (safetensors.torch.save_file if kind == "safetensors" else torch.save)(half, tmp_path / name)
        where |= dict.fromkeys(half, name)
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert fingerprint(load(index, arch)) == fingerprint(model)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, "../m.bin")}))
    with pytest.raises(CheckpointError, match=r"'\.\./m\.bin', which is not beside it"):
        load(index, arch)


def test_objects_of_unknown_classes_are_ignored(tmp_path: Path, arch: str, stranger: Callable[..., type]) -> None:
    config = stranger("omegaconf_like", "DictConfig")
    node = stranger("yacs_like", "CfgNode", dict)
    listed = stranger("lists_like", "ListConfig", list)
    value = config()
    value.__dict__ = {"_content": {"lr": 0.1}, "_metadata": defaultdict(dict)}
    nested = node(a=node(b=1), path=Path("x"))
    nested.extra = "attribute of a dict"
    model = network()
    content = {
        "config": value,
        "model": model.state_dict(),
        "cfg": nested,
        "list": listed([1, 2, listed([3])]),
        "metrics": np.arange(3.0),
        "best": np.float32(1.5),
        "set": {1, 2},
        "function": argparse.ArgumentParser,
        "complex": 1 + 2j,
        "big": 2**80,
        "bytes": b"x",
    }
    for protocol in (2, 4):
        path = tmp_path / f"m{protocol}.pt"
        torch.save(content, path, pickle_protocol=protocol)
        for name in ("omegaconf_like", "yacs_like", "lists_like"):
            sys.modules.pop(name, None)
        assert fingerprint(load(path, arch)) == fingerprint(model)
        for kind in (config, node, listed):
            sys.modules[kind.__module__] = types.ModuleType(kind.__module__)
            setattr(sys.modules[kind.__module__], kind.__name__, kind)


class Payload:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_that_a_file_names_runs(tmp_path: Path, arch: str, protocol: int) -> None:
    import os

    mark = tmp_path / "ran"
    (tmp_path / "evil_module.py").write_text(f"open({str(mark)!r}, 'w').close()")
    payloads = {
        "system": Payload(os.system, f"touch {mark}"),
        "exec": Payload(exec, f"open({str(mark)!r}, 'w')"),
        "import": Payload(__import__, "evil_module"),
        "open": Payload(open, str(mark), "w"),
        "getattr": Payload(getattr, os, "system") if protocol < 0 else Payload(eval, "__import__('os')"),
        "state": Payload(torch.load, str(mark)),
    }
    model = network()
    for name, payload in payloads.items():
        path = tmp_path / f"{name}.pt"
        torch.save({"args": payload, "model": model.state_dict()}, path, pickle_protocol=protocol)
        assert fingerprint(load(path, arch)) == fingerprint(model)
    assert not mark.exists()


FOLDS: dict[str, Callable[[nn.Module], Any]] = {
    "unstructured masks": lambda c: prune.l1_unstructured(c, "weight", 0.4),
    "structured masks": lambda c: prune.ln_structured(c, "weight", 0.5, n=2, dim=0),
    "old weight norm": lambda c: nn.utils.weight_norm(c),
    "old weight norm, dim 1": lambda c: nn.utils.weight_norm(c, dim=1),
    "old weight norm, one number": lambda c: nn.utils.weight_norm(c, dim=None),
    "weight norm": lambda c: parametrizations.weight_norm(c),
    "weight norm, dim 1": lambda c: parametrizations.weight_norm(c, dim=1),
    "old spectral norm": lambda c: nn.utils.spectral_norm(c),
    "spectral norm": lambda c: parametrizations.spectral_norm(c),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FOLDS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_in_parts_are_computed(tmp_path: Path, arch: str, kind: str, prefix: str) -> None:
    model = network()
    image = torch.rand(2, 3, 16, 16)
    for module in (model.features[0], model.features[3], model.classifier):
        FOLDS[kind](module)
    with torch.no_grad():
        # The vectors of a spectral norm converge in training.
        for _ in range(20):
            model.train()(image)
        expected = model.eval()(image)
    torch.save(prefixed(model.state_dict(), prefix), tmp_path / "m.pt")
    progress = Lines()
    loaded = load(tmp_path / "m.pt", arch, progress=progress)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), expected, rtol=1e-4, atol=1e-5)
    assert "with 3 tensors computed from masks or norms" in progress.text


def test_unknown_parametrizations_are_explained(tmp_path: Path, arch: str) -> None:
    model = network()
    parametrizations.orthogonal(model.classifier)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="remove_parametrizations"):
        load(tmp_path / "m.pt", arch)


def test_a_network_inside_another_gets_its_prefix(tmp_path: Path, factory: Path) -> None:
    model = network()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    progress = Lines()
    loaded = load(tmp_path / "m.pt", f"{factory}:Wrapped", progress=progress)
    assert fingerprint(loaded.backbone) == fingerprint(model)
    assert "with the prefix 'backbone.'" in progress.text


def test_names_of_both_sides_are_shown(tmp_path: Path, arch: str) -> None:
    torch.save({f"layer{i}.weight": torch.ones(2, 2) for i in range(5)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "m.pt", arch)
    message = str(caught.value)
    assert "it lacks 'features.0.weight', 'features.1.weight', 'features.1.bias' and 10 more" in message
    assert "it has the unknown 'layer0.weight', 'layer1.weight', 'layer2.weight' and 2 more" in message
    assert message.endswith("; pass the right --arch")


@pytest.mark.parametrize("name", ["pos_embed", "encoder.pos_embedding"])
def test_another_image_size_is_explained(tmp_path: Path, name: str) -> None:
    (tmp_path / "vit.py").write_text(f"""
import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self, tokens):
        super().__init__()
        self.{name.rpartition(".")[2]} = nn.Parameter(torch.zeros(1, tokens, 4))


class Net(Encoder):
    def __init__(self, num_classes):
        super().__init__(197)
        self.encoder = Encoder(197)
        self.head = nn.Linear(4, num_classes)
""")
    state = create(f"{tmp_path / 'vit.py'}:Net", 2).state_dict()
    torch.save({**state, name: torch.zeros(1, 37, 4)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"another size; pass an --arch file\.py:factory .* img_size of timm"):
        load(tmp_path / "m.pt", f"{tmp_path / 'vit.py'}:Net")
    torch.save({**state, name: torch.zeros(1, 37, 4), "head.weight": torch.zeros(2, 5)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="pass the right --arch"):
        load(tmp_path / "m.pt", f"{tmp_path / 'vit.py'}:Net")


def test_a_part_of_the_network_is_refused(tmp_path: Path, arch: str) -> None:
    state = prefixed(network().state_dict(), "model.")
    del state["model.features.3.weight"]
    torch.save({"state_dict": {**state, "model.neck.weight": torch.ones(2)}}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"lacks 'features\.3\.weight' and it has the unknown 'neck\.weight'"):
        load(tmp_path / "m.pt", arch)


def test_a_pickled_module_needs_trust_but_not_its_class(
    tmp_path: Path, arch: str, stranger: Callable[..., type]
) -> None:
    model = network()
    kind = stranger("yolo_like", "ClassificationModel", type(model))
    sys.modules["yolo_like"].Net = type(model)  # type: ignore[attr-defined]
    type(model).__module__ = "yolo_like"
    model.__class__ = kind
    for name, content in {
        "whole": model,
        "trainer": {"model": model, "ema": None, "train_args": {"imgsz": 32}},
    }.items():
        torch.save(content, tmp_path / f"{name}.pt")
    for name in ("whole", "trainer"):
        with pytest.raises(CheckpointError, match=r"pickled module \(yolo_like\.ClassificationModel\).*state_dict"):
            load(tmp_path / f"{name}.pt", arch)
    expected = fingerprint(model)
    del sys.modules["yolo_like"]
    for name in ("whole", "trainer"):
        assert fingerprint(load(tmp_path / f"{name}.pt", arch, unsafe_pickle=True)) == expected
    assert spec_of(load(tmp_path / "trainer.pt", arch, unsafe_pickle=True)).input_size == (32, 32)


@pytest.mark.filterwarnings("ignore")
def test_programs_and_int8_networks_are_named(tmp_path: Path, arch: str) -> None:
    model = network()
    torch.jit.save(torch.jit.script(model.features), tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match=r"TorchScript file.*save model\.state_dict\(\)"):
        load(tmp_path / "script.pt", arch)
    torch.export.save(torch.export.export(model, (torch.rand(1, 3, 16, 16),)), tmp_path / "export.pth")
    with pytest.raises(CheckpointError, match=r"torch\.export file.*save model\.state_dict\(\)"):
        load(tmp_path / "export.pth", arch)
    dynamic = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})
    torch.save({"model": dynamic.state_dict()}, tmp_path / "int8.pt")
    with pytest.raises(CheckpointError, match=r"int8 network, which cannot be pruned; .*cfp export --int8"):
        load(tmp_path / "int8.pt", arch)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"input_size": [3, 32, 48]}, {"input_size": (32, 48)}),
        ({"input_size": (32, 48, 3)}, {"input_size": (32, 48)}),
        ({"input_size": 40}, {"input_size": (40, 40)}),
        ({"input_size": [40.0, 40.0]}, {"input_size": (40, 40)}),
        ({"input_size": []}, {"input_size": (24, 24)}),
        ({"input_size": [3, 0, 0]}, {"input_size": (24, 24)}),
        ({"input_size": "x"}, {"input_size": (24, 24)}),
        ({"img_size": (64, 64)}, {"input_size": (64, 64)}),
        ({"train_args": {"imgsz": 64}}, {"input_size": (64, 64)}),
        ({"args": argparse.Namespace(img_size=64, mean=None)}, {"input_size": (64, 64)}),
        ({"args": argparse.Namespace(mean=[0.5] * 3, std=[0.25] * 3)}, {"mean": (0.5,) * 3}),
        ({"mean": [0.5] * 3, "std": (0.25,) * 3}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        ({"mean": [0.5] * 3}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"mean": [0.5] * 3, "std": [0.0] * 3}, {"mean": (0.0,) * 3}),
        ({"mean": [127.5] * 3, "std": [51.0] * 3}, {"mean": (0.5,) * 3, "std": (0.2,) * 3}),
        ({"pretrained_cfg": {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (3, 64, 64)}}, {"mean": (0.5,) * 3}),
        ({"classes": ["x", "y", "z"]}, {"classes": ("x", "y", "z")}),
        ({"classes": {"x": 1, "y": 0, "z": 2}}, {"classes": ("y", "x", "z")}),
        ({"class_to_idx": {"x": 1, "y": 0, "z": 2}}, {"classes": ("y", "x", "z")}),
        ({"names": {0: "x", 1: "y", 2: "z"}}, {"classes": ("x", "y", "z")}),
        ({"id2label": {"0": "x", "1": "y", "2": "z"}}, {"classes": ("x", "y", "z")}),
        ({"meta": {"CLASSES": ("x", "y", "z")}}, {"classes": ("x", "y", "z")}),
        ({"names": ["a", "b"], "labels": [0] * 50}, {"classes": ("0", "1", "2")}),
        ({"classes": {"x": 0, "y": 7, "z": 9}}, {"classes": ("0", "1", "2")}),
    ],
)
def test_facts_of_other_tools_are_used(tmp_path: Path, arch: str, facts: State, expected: State) -> None:
    torch.save({"state_dict": network().state_dict(), **facts}, tmp_path / "m.pt")
    spec = spec_of(load(tmp_path / "m.pt", arch, input_size=(24, 24)))
    assert {name: getattr(spec, name) for name in expected} == expected


@pytest.mark.parametrize("nested", [False, True])
def test_buffers_of_the_network_are_no_preprocessing(tmp_path: Path, nested: bool) -> None:
    """A network that normalises its images itself gets them as they are, not normalised twice."""
    (tmp_path / "norm.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.register_buffer('mean', torch.full((1, 3, 1, 1), 0.5))\n"
        "        self.register_buffer('std', torch.full((1, 3, 1, 1), 0.2))\n"
        "        self.head = nn.Linear(3, num_classes)\n"
        "    def forward(self, x): return self.head(((x - self.mean) / self.std).mean((2, 3)))\n"
    )
    arch = f"{tmp_path}/norm.py:Net"
    state = create(arch, 3).state_dict()
    torch.save({"state_dict": state} if nested else state, tmp_path / "m.pt")
    spec = spec_of(load(tmp_path / "m.pt", arch))
    assert (spec.mean, spec.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page.*download the file again"),
        (b"\n<html>", "web page"),
        (gzip.compress(b"x", mtime=0), "compressed by gzip"),
        (bz2.compress(b"x"), "compressed by bzip2"),
        (lzma.compress(b"x"), "compressed by xz"),
        (b"\x89HDF\r\n\x1a\n", "HDF5 file"),
    ],
)
@pytest.mark.parametrize("unsafe", [False, True])
def test_what_a_download_leaves_is_named(tmp_path: Path, arch: str, content: bytes, message: str, unsafe: bool) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as found:
        load(tmp_path / "m.pth", arch, unsafe_pickle=unsafe)
    assert "unsafe-pickle" not in str(found.value)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such devices")
def test_devices_are_no_model_files() -> None:
    with pytest.raises(CheckpointError, match="is a pipe or a device"):
        load("/dev/zero", "dddn")


@pytest.mark.parametrize("folder", ["dcp", "hf", "other"])
def test_folders_of_other_tools_are_explained(tmp_path: Path, arch: str, folder: str) -> None:
    files, message = {
        "dcp": ("__0_0.distcp", "dcp_to_torch"),
        "hf": ("model.safetensors", r"model\.safetensors"),
        "other": ("x.txt", "pass the model first"),
    }[folder]
    (tmp_path / files).touch()
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, arch)


def test_the_architecture_of_a_file_must_be_known(tmp_path: Path) -> None:
    torch.save({"state_dict": network().state_dict(), "arch": "MyNet_v2"}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="'MyNet_v2', which is no name that cfp knows; pass --arch"):
        load(tmp_path / "m.pt")
