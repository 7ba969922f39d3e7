from __future__ import annotations

import importlib.util
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.exporting import onnx_file, openvino_file, pt2_file
from cfp_cli.exporting.agreement import Agreement, compare
from cfp_cli.exporting.export import ExportReport, export
from cfp_cli.exporting.fold import fold_batch_norms
from cfp_cli.exporting.samples import procedural_images
from cfp_cli.exporting.writers import WRITERS
from cfp_cli.foundation.errors import CfpError, UsageError
from cfp_cli.models.registry import create

CLASSES = ("scratch", "pit", "größe")
SPEC = ModelSpec(
    "small.py:net",
    CLASSES,
    input_size=(24, 32),
    mean=(0.5, 0.25, 0.125),
    std=(0.5, 2.0, 1.0),
    lineage=({"stage": "train", "epochs": 3}, {"stage": "prune", "ratio": 0.9}),
)

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in onnx_file.NEEDS),
    reason="the extra `export` is not installed",
)
needs_openvino = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in openvino_file.NEEDS),
    reason="the extra `openvino` is not installed",
)
FORMATS = [pytest.param("onnx", marks=needs_onnx), "pt2", pytest.param("openvino", marks=needs_openvino)]
MODULES = {"onnx": onnx_file, "pt2": pt2_file, "openvino": openvino_file}
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms running statistics and weights as training would, so that folding them matters."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


def network(seed: int = 0, spec: ModelSpec = SPEC) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.BatchNorm2d(16), nn.Hardswish()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)]
    return describe(randomise(nn.Sequential(*layers, *head), seed), spec)


def runner(path: Path):
    (module,) = (MODULES[format] for format, suffix in SUFFIXES.items() if suffix == path.suffix)
    return module.runner(path)


@pytest.fixture(scope="module", params=FORMATS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, Path, ExportReport]:
    model = network().train()
    path = tmp_path_factory.mktemp("exported") / "sub" / f"net{SUFFIXES[request.param]}"
    report = export(model, path, request.param)
    assert model.training  # the network is as it was
    return model.eval(), path, report


def whole_content(path: Path) -> bytes:
    """The bytes of a file, or of all members of an archive; of an OpenVINO file without its weights."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(name.encode() + archive.read(name) for name in archive.namelist())


def test_file_answers_as_the_network_for_every_batch_size(exported: tuple[nn.Module, Path, ExportReport]) -> None:
    model, path, _ = exported
    run = runner(path)
    for count in (1, 2, 7, 33):
        images = torch.randn(count, 3, 24, 32, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            torch.testing.assert_close(run(images), model(images), rtol=1e-4, atol=1e-5)


def test_report_says_what_was_compared(exported: tuple[nn.Module, Path, ExportReport]) -> None:
    model, path, report = exported
    assert (report.top1_agreement, report.images, report.samples) == (1.0, 48, "procedural")
    assert report.max_relative_error <= 1e-4
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert report.bytes == sum(file.stat().st_size for file in path.parent.iterdir())
    assert report.overhead == pytest.approx(report.bytes / (4 * report.parameters) - 1)
    assert json.loads(json.dumps(report.to_json()))["precision"] == "float32"


def test_pt2_of_a_small_network_is_no_larger_than_its_graph_needs(tmp_path: Path) -> None:
    model = network()
    report = export(model, tmp_path / "net.pt2", "pt2")
    # The graph as JSON takes 20 kB where it is not compressed.
    assert report.bytes < 4 * report.parameters + 12_000


def test_file_says_how_to_feed_it(exported: tuple[nn.Module, Path, ExportReport]) -> None:
    _, path, report = exported
    facts = MODULES[report.format].read_metadata(path)
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert json.loads(facts["input_size"]) == [24, 32]
    assert json.loads(facts["mean"]) == [0.5, 0.25, 0.125]
    assert json.loads(facts["std"]) == [0.5, 2.0, 1.0]
    assert json.loads(facts["lineage"]) == list(SPEC.lineage)
    assert (facts["arch"], facts["precision"]) == ("small.py:net", "float32")
    # Nothing of the machine that made it.
    assert str(Path(__file__).parents[2]).encode() not in whole_content(path)


def test_onnx_input_has_a_name_and_a_free_batch_size(exported: tuple[nn.Module, Path, ExportReport]) -> None:
    _, path, report = exported
    if report.format != "onnx":
        return
    import onnx

    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    (given,), (answer,) = proto.graph.input, proto.graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (given, answer)]
    assert (given.name, answer.name) == ("images", "logits")
    assert shapes == [["batch", 3, 24, 32], ["batch", 3]]
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


@needs_onnx
def test_an_idle_session_leaves_the_cores_alone() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval()
    content = onnx_file.to_bytes(network, torch.rand(2, 3, 8, 8), {})
    options = onnx_file.session(content, threads=2).get_session_options()
    # Threads that spin between runs slowed the next network of `cfp bench` by a half and more.
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert options.intra_op_num_threads == 2


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_answers_otherwise_is_not_kept(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"net{SUFFIXES[format]}"
    path.write_bytes(b"earlier")
    writer = WRITERS[format]  # type: ignore[index]
    wrong = replace(writer, runner=lambda file: lambda images: writer.runner(file)(images) * 1.001)
    monkeypatch.setitem(WRITERS, format, wrong)  # type: ignore[arg-type]
    with pytest.raises(
        CfpError, match=r"differs from the checkpoint \(same class on 100.00% of 48 images, logits off by"
    ):
        export(network(), path, format)  # type: ignore[arg-type]
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_comparison_sees_other_classes_values_and_shapes() -> None:
    model = network().eval()
    images = torch.randn(5, 3, 24, 32)
    largest = model(images).detach().abs().max().item()
    sizes: list[int] = []

    def honest(part: Tensor) -> Tensor:
        sizes.append(len(part))
        return model(part)

    with torch.no_grad():
        assert compare(model, honest, images).top1 == 1
        assert sizes == [1, 2, 2]
        shifted = compare(model, lambda part: model(part) + 0.5, images)
        assert (shifted.top1, shifted.error) == (1, pytest.approx(0.5 / largest, rel=1e-4))
        assert compare(model, lambda part: -model(part), images).top1 < 1
        assert math.isnan(compare(model, lambda part: model(part) * math.nan, images).error)
        assert compare(model, lambda part: model(part)[:, :2], images) == Agreement(0, math.inf)


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_that_cannot_be_traced(tmp_path: Path, format: str) -> None:
    class Moody(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) if images.sum() > 0 else -images.mean((2, 3))

    with pytest.raises(CfpError, match="cannot be traced for export") as caught:
        export(describe(Moody(), SPEC), tmp_path / f"net{SUFFIXES[format]}", format)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def found(name: str, *rest: str) -> object:
        if name == "onnxruntime":
            return None
        return find(name, *rest) or (name in onnx_file.NEEDS) or None

    monkeypatch.setattr("importlib.util.find_spec", found)
    with pytest.raises(CfpError, match=r"^ONNX export needs onnxruntime; run pip install onnxruntime$"):
        export(network(), tmp_path / "net.onnx")
    assert export(network(), tmp_path / "net.pt2", "pt2").top1_agreement == 1


def test_wrong_usage(tmp_path: Path) -> None:
    images = torch.zeros(4, 3, 24, 32)
    for options, message in [
        ({"format": "tflite"}, "unknown export format 'tflite'; use onnx, pt2 or openvino"),
        ({"format": "openvino"}, r"net' does not end in \.xml, as OpenVINO files do; use '.*net\.xml'"),
        ({"format": "pt2", "int8": True}, "int8 needs the onnx or openvino format"),
        ({"format": "onnx", "int8": True}, "int8 needs training images to calibrate on"),
        ({"format": "pt2", "samples": images[:, :1]}, r"pass float32 \[n, 3, 24, 32\]"),
        ({"format": "pt2", "samples": images.to(torch.uint8)}, "torch.uint8 do not fit"),
        ({"format": "pt2", "samples": images[:0]}, "do not fit"),
    ]:
        with pytest.raises(UsageError, match=message):
            export(network(), tmp_path / "net", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_int8_is_small_and_says_what_it_costs(tmp_path: Path) -> None:
    spec = ModelSpec("wide", CLASSES, input_size=(24, 24))
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    model = describe(
        randomise(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))).eval(), spec
    )
    images = procedural_images(spec)
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    labels[::4] = (labels[::4] + 1) % 3  # so that accuracy before is 75 %
    report = export(
        model, tmp_path / "net.onnx", samples=images, int8=True, calibration=images, evaluation=[(images, labels)]
    )
    assert (report.precision, report.samples, report.accuracy_before) == ("int8", "given", 0.75)
    assert report.accuracy_after is not None
    assert abs(report.accuracy_after - 0.75) < 0.15
    assert report.macro_f1_before is not None
    assert 1e-4 < report.max_relative_error < 0.2
    assert report.parameter_bytes == report.parameters
    assert report.bytes < 2 * report.parameters
    actual = onnx_file.runner(tmp_path / "net.onnx")(images)
    assert (actual - logits).abs().max() / logits.abs().max() == pytest.approx(report.max_relative_error, rel=1e-4)
    assert onnx_file.read_metadata(tmp_path / "net.onnx")["precision"] == "int8"


def test_folding_leaves_no_batch_norm_and_no_dead_weight() -> None:
    model = network().eval()
    program = torch.export.export(model, (torch.rand(2, 3, 24, 32),))
    module = program.module(check_guards=False)
    assert fold_batch_norms(module) == 3
    assert not module.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default)
    images = torch.randn(2, 3, 24, 32)
    with torch.no_grad():
        torch.testing.assert_close(module(images), model(images), rtol=1e-5, atol=1e-6)
    kept = sum(value.numel() for value in (*module.parameters(), *module.buffers()))
    assert kept == 16 * 27 + 16 + 16 * 36 + 16 + 16 * 16 + 16 + 16 * 3 + 3


def test_a_batch_norm_whose_input_has_other_readers_stays() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), randomise(nn.BatchNorm2d(4))

        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            return (self.norm(maps) + maps).mean((2, 3))

    model = Forked().eval()
    module = torch.export.export(model, (torch.rand(2, 3, 8, 8),)).module(check_guards=False)
    assert fold_batch_norms(module) == 0
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(module(images), model(images))


@pytest.mark.parametrize("width", [16, 5])
def test_a_batch_norm_of_places_stays_behind_a_linear_layer_over_channels(width: int) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(3, width, bias=False), randomise(nn.BatchNorm1d(16))

        def forward(self, images: Tensor) -> Tensor:
            return self.norm(self.linear(images.flatten(2).transpose(1, 2))).mean(1)

    model = Tokens().eval()
    module = torch.export.export(model, (torch.rand(2, 3, 4, 4),)).module(check_guards=False)
    assert fold_batch_norms(module) == 0
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(module(images), model(images))


def test_procedural_images_fit_any_network() -> None:
    for size in ((24, 32), (100, 90), (64, 64)):
        images = procedural_images(ModelSpec("a", CLASSES, input_size=size))
        assert (images.shape, images.dtype) == ((48, 3, *size), torch.float32)
        assert 0 <= images.min() < images.max() <= 1
    shifted = procedural_images(ModelSpec("a", CLASSES, input_size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3))
    torch.testing.assert_close(shifted, images * 2 - 1)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("arch", ["vgg16_bn_gap", "torchvision:resnet18", "torchvision:mobilenet_v2"])
def test_networks_export_without_dead_weights(tmp_path: Path, arch: str, format: str) -> None:
    spec = ModelSpec(arch, tuple("abcdef"), input_size=(32, 32))
    model = describe(randomise(create(arch, 6)), spec)
    report = export(model, tmp_path / f"net{SUFFIXES[format]}", format)  # type: ignore[arg-type]
    overhead = report.overhead
    if format == "openvino":
        # The graph is a text file of its own, up to a few hundred kB.
        overhead = (tmp_path / "net.bin").stat().st_size / report.parameter_bytes - 1
    # The members of a pt2 file are compressed, and weights shrink a little by it.
    assert -0.1 < overhead < 0.02
    assert report.top1_agreement == 1


@pytest.mark.slow
@pytest.mark.shared_data
@needs_onnx
def test_real_images_agree(tmp_path: Path, shared: Path) -> None:
    from cfp_cli.checkpoints.load import load
    from cfp_cli.data.dataset import open_dataset
    from cfp_cli.data.images import load_images
    from cfp_cli.data.transforms import Preprocessing

    model = load(shared / "teachers/vgg16_x-sdd_cl.pt", "vgg16_bn_gap")
    store = load_images(open_dataset(shared / "data/x-sdd"), "test", Preprocessing.of(model.spec))
    samples = store.preprocessing.normalise(store.images)
    report = export(model, tmp_path / "teacher.onnx", samples=samples)
    assert (report.images, report.samples, report.top1_agreement) == (273, "given", 1.0)
