from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.new_head import with_new_head
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.models.registry import create
from cfp_cli.pruning.prune import prune
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.scoring.score import score

SPEC = ModelSpec("torchvision:squeezenet1_1", ("a", "b", "c"), input_size=(32, 48), mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return describe(create(SPEC.arch, 3).eval(), SPEC)


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(torch.ones(2, 3, 64, 64))


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.pth.tar", "m.safetensors"])
def test_what_is_saved_is_loaded(tmp_path: Path, network: nn.Module, name: str) -> None:
    save(tmp_path / name, network)
    loaded = load(tmp_path / name)
    assert spec_of(loaded) == SPEC
    assert not loaded.training
    assert fingerprint(loaded) == fingerprint(network)
    assert torch.equal(logits(loaded), logits(network))


def test_a_printed_spec_leaves_out_the_plan() -> None:
    spec = replace(SPEC, plan={"sets": [{"kept": [1, 2]}]}, lineage=({"stage": "prune"},))
    assert repr(spec) == repr(SPEC)
    assert "input_size=(32, 48), mean=(0.5, 0.5, 0.5)" in repr(spec)


def test_a_checkpoint_is_plain_data(tmp_path: Path, network: nn.Module) -> None:
    save(tmp_path / "m.pt", network)
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    assert content["format"] == "cfp/1"
    wanted = {"format", "arch", "arch_kwargs", "classes", "input_size", "mean", "std", "state_dict", "plan", "lineage"}
    wanted |= {"channels", "bit_depth"}
    assert set(content) == wanted | {"content_sha256"}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"epoch": 3, "state_dict": s}])
def test_other_peoples_files_load_with_an_architecture(tmp_path: Path, network: nn.Module, wrap: object) -> None:
    state = {f"module.{name}": value.half() for name, value in network.state_dict().items()}
    torch.save(wrap(state), tmp_path / "m.pth")  # type: ignore[operator]
    loaded = load(tmp_path / "m.pth", SPEC.arch, input_size=(40, 40))
    assert spec_of(loaded).classes == ("0", "1", "2")
    assert spec_of(loaded).input_size == (40, 40)
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())


def test_a_checkpoint_keeps_its_own_architecture_beside_files_that_need_one(tmp_path: Path, network: nn.Module) -> None:
    save(tmp_path / "m.pt", network)
    assert spec_of(load(tmp_path / "m.pt", "vgg16_bn_gap")).arch == SPEC.arch


def test_subnormals_are_written_as_zero(tmp_path: Path, network: nn.Module) -> None:
    model = describe(create(SPEC.arch, 3), SPEC)
    with torch.no_grad():
        next(model.parameters()).flatten()[:4] = torch.tensor([1e-40, -1e-42, 1e-37, 0.0])
    save(tmp_path / "m.pt", model)
    first = next(load(tmp_path / "m.pt").parameters()).flatten()[:4]
    assert first.tolist() == [0.0, 0.0, pytest.approx(1e-37), 0.0]


def test_a_pruned_network_is_built_from_its_shapes(tmp_path: Path) -> None:
    model = create("vgg16_bn_gap", 3)
    from cfp_cli.models.resize import resize_tensors

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in (
        "features.0.weight",
        "features.0.bias",
        *(f"features.1.{n}" for n in ("weight", "bias", "running_mean")),
    ):
        shapes[name] = (7, *shapes[name][1:])
    shapes["features.1.running_var"] = (7,)
    shapes["features.3.weight"] = (64, 7, 3, 3)
    resize_tensors(model, shapes)
    for parameter in model.parameters():
        nn.init.normal_(parameter.data, std=0.05)
    for name, buffer in model.named_buffers():
        if "var" in name:
            buffer.fill_(1.0)
        elif "mean" in name:
            buffer.zero_()
    spec = replace(SPEC, arch="vgg16_bn_gap", plan={"sets": []})
    save(tmp_path / "m.pt", describe(model.eval(), spec))
    loaded = load(tmp_path / "m.pt")
    assert loaded.features[0].out_channels == 7
    assert torch.equal(logits(loaded), logits(model))


SPLIT = """
import torch
from torch import nn

class Split(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.width, self.sizes = 4, (5, 10)
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(12, 15, 3)
        self.d, self.head = nn.Conv2d(10, 6, 3), nn.Linear(6, classes)

    def forward(self, x):
        first, second, third = torch.split(self.a(x), self.width, 1)
        _, last = self.c(torch.cat([first, self.b(second), third], 1)).split(self.sizes, 1)
        return self.head(self.d(last).mean((2, 3)))
"""


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_counts_in_attributes_are_the_pruned_ones_after_loading(tmp_path: Path, name: str) -> None:
    (tmp_path / "net.py").write_text(SPLIT)
    torch.manual_seed(0)
    arch = f"{tmp_path}/net.py:Split"
    model = describe(create(arch, 3).eval(), replace(SPEC, arch=arch))
    images = [(torch.rand(4, 3, 16, 16), torch.zeros(4))]
    pruned, plan = prune(model, score(model, images), rates="*=0.5")
    assert plan.attributes[""]["width"] == pruned.a.out_channels // 3 < 4
    save(tmp_path / name, describe(pruned, replace(SPEC, arch=arch, plan=plan.to_json())))
    loaded = load(tmp_path / name, arch)
    assert (loaded.width, loaded.sizes) == (pruned.width, pruned.sizes)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images[0][0]), pruned(images[0][0]), rtol=0, atol=0)


@pytest.mark.parametrize(
    "attributes", [{"": {"width": 2.5}}, {"": {"nothing": 1}}, {"x": {"width": 1}}, {"": {"sizes": [1]}}]
)
def test_attributes_that_the_network_has_not_are_refused(tmp_path: Path, attributes: dict) -> None:
    (tmp_path / "net.py").write_text(SPLIT)
    arch = f"{tmp_path}/net.py:Split"
    model = create(arch, 3).eval()
    save(tmp_path / "m.pt", describe(model, replace(SPEC, arch=arch, plan={"sets": [], "attributes": attributes})))
    with pytest.raises(CheckpointError, match="attribute"):
        load(tmp_path / "m.pt", arch)


FILTERED = """
import torch
from torch import nn

class Filter(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        weight = torch.linspace(0, 1, channels).view(-1, 1, 1, 1).repeat(1, 1, 3, 3)
        self.register_buffer("filter", weight, persistent=False)

    def forward(self, x):
        return nn.functional.conv2d(x, self.filter, groups=self.channels)

def net(classes):
    layers = (nn.Conv2d(3, 8, 3), Filter(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4, classes))
"""


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_a_sliced_buffer_that_no_state_dict_held_is_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / "net.py").write_text(FILTERED)
    spec = replace(SPEC, arch=f"{tmp_path}/net.py:net", plan={"sets": []})
    torch.manual_seed(0)
    model = create(spec.arch, 3).eval()
    kept = {"0": np.array([1, 4, 7])}
    pruned = rebuild(model, Selection(channel_sets(model, torch.rand(1, 3, 16, 16)), kept))
    assert torch.equal(pruned[1].filter, model[1].filter[kept["0"]])
    assert "1.filter" not in model.state_dict()
    save(tmp_path / name, pruned, spec)
    loaded = load(tmp_path / name, spec.arch)
    assert torch.equal(loaded[1].filter, pruned[1].filter)
    assert torch.equal(logits(loaded), logits(pruned))
    # A pruned network may be pruned again.
    again = rebuild(loaded, Selection(channel_sets(loaded, torch.rand(1, 3, 16, 16)), {"0": np.array([2])}))
    save(tmp_path / name, again, spec)
    assert torch.equal(logits(load(tmp_path / name, spec.arch)), logits(again))


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("unpickled",))


def test_a_pickled_module_is_refused_without_running_it(
    tmp_path: Path, network: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"save model\.state_dict"):
        load(tmp_path / "m.pt", SPEC.arch)
    (tmp_path / "p.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError):
        load(tmp_path / "p.pt", SPEC.arch)
    assert "unpickled" not in capsys.readouterr().out


def test_a_pickled_module_loads_when_trusted(tmp_path: Path, network: nn.Module) -> None:
    bare = create(SPEC.arch, 3)
    bare.load_state_dict(network.state_dict())
    torch.save(bare, tmp_path / "m.pt")
    assert fingerprint(load(tmp_path / "m.pt", SPEC.arch, unsafe_pickle=True)) == fingerprint(network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("features.0.weight"), "lacks 'features.0.weight'"),
        (lambda s: s.update(extra=torch.zeros(1)), "unknown 'extra'"),
        (lambda s: s.update({"features.0.weight": torch.zeros(1, 3, 3, 3)}), "another shape of 'features.0.weight'"),
        (
            lambda s: s.update({"features.0.bias": torch.full((64,), float("nan"))}),
            "NaN or infinity in 'features.0.bias'",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, network: nn.Module, change: object, message: str) -> None:
    state = dict(network.state_dict())
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "m.pt", SPEC.arch)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 40)
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("text.pt", "empty.pt", "bad.safetensors", "list.pt", "missing.pt"):
        with pytest.raises(CheckpointError, match=name):
            load(tmp_path / name, SPEC.arch)


def test_a_file_that_does_not_say_its_architecture_asks_for_it(tmp_path: Path, network: nn.Module) -> None:
    torch.save(network.state_dict(), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="--arch"):
        load(tmp_path / "m.pt")


def test_a_network_without_a_spec_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="describe"):
        save(tmp_path / "m.pt", nn.Linear(2, 2))
    assert not list(tmp_path.iterdir())


def test_auxiliary_heads_of_others_checkpoints_are_left_out(tmp_path: Path) -> None:
    from torchvision.models import googlenet

    torch.manual_seed(0)
    whole = googlenet(num_classes=3, init_weights=False).eval()
    torch.save(whole.state_dict(), tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth", "torchvision:googlenet")
    assert not any(name.startswith("aux") for name in loaded.state_dict())
    assert torch.equal(logits(loaded), logits(whole))


VERSIONED = """
from torch import nn

class Versioned(nn.Linear):
    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *arguments):
        self.loaded_version = local_metadata["version"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments)

def net(classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Versioned(3, classes))
"""


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_modules_that_ask_for_their_version_are_loaded(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    spec = replace(SPEC, arch="torchvision:mnasnet0_5")
    model = describe(create(spec.arch, 3).eval(), spec)
    save(tmp_path / name, model)
    assert torch.equal(logits(load(tmp_path / name)), logits(model))


@pytest.mark.parametrize(
    ("change", "version"),
    [
        (lambda state: state, 1),
        (lambda state: {"state_dict": state}, 1),
        (lambda state: dict(state), 2),
    ],
)
def test_versions_are_those_of_the_file_where_it_says_any(tmp_path: Path, change: object, version: int) -> None:
    (tmp_path / "net.py").write_text(VERSIONED)
    arch = f"{tmp_path}/net.py:net"
    written = create(arch, 3)
    written[2]._version = 1
    torch.save(change(nn.DataParallel(written).state_dict()), tmp_path / "m.pt")  # type: ignore[operator]
    assert load(tmp_path / "m.pt", arch)[2].loaded_version == version


def test_a_checkpoint_keeps_the_versions(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(VERSIONED)
    spec = replace(SPEC, arch=f"{tmp_path}/net.py:net")
    model = create(spec.arch, 3)
    model[2]._version = 1
    save(tmp_path / "m.pt", model, spec)
    assert load(tmp_path / "m.pt", spec.arch)[2].loaded_version == 1


@pytest.mark.parametrize("classes", [("x", "y"), ("x", "y", "z")], ids=["other count", "other names alone"])
def test_a_new_head_keeps_every_other_weight(network: nn.Module, classes: tuple[str, ...]) -> None:
    before = fingerprint(network)
    renewed = with_new_head(network, classes)
    assert spec_of(renewed) == replace(SPEC, classes=classes)
    assert fingerprint(network) == before
    old, new = network.state_dict(), renewed.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert "classifier.1.weight" in changed
    assert changed <= {"classifier.1.weight", "classifier.1.bias"}
    assert logits(renewed).shape == (2, len(classes))


def test_a_pruned_network_gets_no_new_head(network: nn.Module) -> None:
    pruned = describe(create(SPEC.arch, 3).eval(), replace(SPEC, plan={"ratio": 0.5}))
    with pytest.raises(CheckpointError, match="pruned network keeps its head"):
        with_new_head(pruned, ("x", "y"))


FACTORIES = """
from torch import nn

class Wrapper(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

    def forward(self, x):
        return self.module(x)

class Twice(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.one = self.two = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, classes)

    def forward(self, x):
        return self.head(self.two(self.one(x)).mean((2, 3)))
"""


@pytest.mark.parametrize("factory", ["Wrapper", "Twice"])
@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_own_names_and_shared_counters_are_kept(tmp_path: Path, factory: str, name: str) -> None:
    (tmp_path / "nets.py").write_text(FACTORIES)
    arch = f"{tmp_path / 'nets.py'}:{factory}"
    made = describe(create(arch, 3).eval(), ModelSpec(arch, ("a", "b", "c"), input_size=(16, 16)))
    save(tmp_path / name, made)
    assert fingerprint(load(tmp_path / name, arch)) == fingerprint(made)
