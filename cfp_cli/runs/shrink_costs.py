"""What a network of `cfp shrink` costs: parameters, multiply-adds, latency in a runtime, and bytes of its ONNX file.

Latency and bytes need measurements of this machine and of the exported original. `RUN/costs.json` keeps them, so a
repeated command plans with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import nn

from cfp_cli.checkpoints.spec import describe, spec_of
from cfp_cli.execution.processor import processor
from cfp_cli.exporting import runtimes
from cfp_cli.exporting.file_size import FileSize
from cfp_cli.exporting.latency_estimate import Line
from cfp_cli.exporting.layer_table import LayerTable
from cfp_cli.exporting.layer_times import Setting, time_layer
from cfp_cli.exporting.network_times import onnx_content, time_files, time_modules
from cfp_cli.exporting.onnx_file import require_extra
from cfp_cli.foundation.content_hash import hash_content, read_hashed_json, write_hashed_json
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.progress import Progress, working
from cfp_cli.foundation.typed_json import FieldError, read, to_json
from cfp_cli.graph import ChannelGraph, Selection
from cfp_cli.graph.layer_shapes import layer_shapes
from cfp_cli.measuring.latency import Latency
from cfp_cli.measuring.runtimes import Runtime
from cfp_cli.pruning.frontier import Cost
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.rebuild import rebuild

FORMAT = "cfp-costs/1"
ADVICE = "delete the file to measure again"
# Costs that a selection has without a measurement.
COUNTED: frozenset[Cost] = frozenset({"params", "macs"})

# Milliseconds of more than a year; sums of larger times could overflow.
_LONGEST = 1e11


@dataclass(frozen=True)
class _Content:
    """The content of `RUN/costs.json`.

    Attributes:
        format: `cfp-costs/1`.
        machine: processor of the machine.
        runtime: name and version of the runtime.
        threads, batch: how latency was measured.
        layers: milliseconds of layers, by shape.
        networks: milliseconds of networks, by hash.
        files: size of the ONNX files of a network, by its hash.
    """

    format: str
    machine: str
    runtime: str
    threads: int
    batch: int
    layers: Mapping[str, float] = field(default_factory=dict)
    networks: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, FileSize] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the times.

        Raises:
            FieldError: a time is not positive.
        """
        for name, times in (("layers", self.layers), ("networks", self.networks)):
            wrong = next((each for each in times.values() if not 0 < each < _LONGEST), None)
            if wrong is not None:
                raise FieldError(f"{name} has a time of {wrong} ms, not a positive number below {_LONGEST:g}")


@dataclass(frozen=True)
class Finished:
    """The measured costs of the finished network.

    Attributes:
        before: latency of the original.
        after: latency of the network, measured in turns with the original.
        bytes: size of its ONNX file; None if it was not exported.
    """

    before: Latency
    after: Latency
    bytes: int | None


class Costs:
    """The costs of selections of one network.

    Args:
        folder: the run directory.
        model_hash: hash of the network's file.
        network: the network, with a spec.
        graph: its channel graph.
        setting: how latency is measured.
        measured: the costs among `latency` and `bytes` that are needed.
        progress: reports progress.

    Raises:
        RunError: `RUN/costs.json` cannot be read.
        CfpError: a package is missing, or the network has no ONNX form.
    """

    def __init__(
        self,
        folder: Path,
        model_hash: str,
        network: nn.Module,
        graph: ChannelGraph,
        setting: Setting,
        measured: Iterable[Cost],
        progress: Progress,
    ) -> None:
        self.setting, self.measured = setting, frozenset(measured) - COUNTED
        self._path = folder / "costs.json"
        self._hash, self._network, self._graph, self._progress = model_hash, network, graph, progress
        empty = _Content(FORMAT, processor(), _version(setting.runtime), setting.threads, setting.batch)
        stored = self._read()
        same = stored is not None and replace(stored, layers={}, networks={}, files={}) == empty
        if stored is not None and not same:
            progress.say(f"{self._path} is of another machine or runtime ({_facts(stored)}); measuring again")
        self._content = stored if same and stored is not None else empty
        self._table = LayerTable(lambda shape: time_layer(shape, setting), dict(self._content.layers))
        self._line = Line(0.0, 1.0)
        self._points: list[tuple[float, float]] = []
        self._original: bytes | None = None
        if "latency" in self.measured:
            runtimes.require(setting.runtime)
        if "bytes" in self.measured:
            require_extra("the size of the ONNX file")
            self._size = self._file_size()

    def of(self, selection: Selection) -> dict[Cost, float]:
        """Return the costs of the network of a selection; latency is an estimate in milliseconds."""
        costs: dict[Cost, float] = {"params": selection.parameters, "macs": selection.macs}
        if "latency" in self.measured:
            costs["latency"] = self._line.at(self.layers(selection))
        if "bytes" in self.measured:
            costs["bytes"] = self._size.bytes(selection)
        return costs

    def of_plan(self, plan: Plan) -> dict[Cost, float]:
        """Return the costs of the network of a plan; see `of`."""
        return self.of(Selection(self._graph, plan.kept))

    def total(self, target: Cost) -> Callable[[Selection], float] | None:
        """Return the function that a plan for a target needs; None for a target that needs no measurement."""
        return None if target in COUNTED else lambda selection: self.of(selection)[target]

    def layers(self, selection: Selection) -> float:
        """Return the sum of the times of the layers of a selection, in milliseconds."""
        before = len(self._table.known)
        total = self._table.milliseconds(layer_shapes(selection))
        if len(self._table.known) > before:
            self._store(replace(self._content, layers=dict(self._table.known)))
        return total

    def layers_of(self, plan: Plan) -> float:
        """Return the sum of the times of the layers of a plan's network, in milliseconds."""
        return self.layers(Selection(self._graph, plan.kept))

    def calibrate(self, plan: Plan) -> float:
        """Measure the network of a plan, so that estimates are exact there; return its latency in milliseconds."""
        if not self._points:
            original = Selection(self._graph)
            self._points.append((self.layers(original), self._measured(original)))
        selection = Selection(self._graph, plan.kept)
        measured = self._measured(selection)
        self._points.append((self.layers(selection), measured))
        self._line = Line.through(self._points)
        return measured

    @property
    def identity(self) -> object:
        """Plain data that identify the estimates."""
        found: list[object] = []
        if "latency" in self.measured:
            found += [self._content.machine, self._content.runtime, str(self.setting), to_json(self._line)]
        if "bytes" in self.measured:
            found.append(to_json(self._size))
        return found

    def finish(self, small: nn.Module) -> Finished:
        """Measure the original and the finished network in turns.

        Args:
            small: the finished network, with a spec.

        Raises:
            CfpError: a package is missing, or a network has no ONNX form.
        """
        shape, networks = spec_of(small).input_shape, {"original": self._network, "small": small}
        content = onnx_content(small) if self.setting.runtime != "torch" or "bytes" in self.measured else None
        with working(self._progress, f"timing the original and the result: {self.setting}"):
            if self.setting.runtime == "torch" or content is None:
                before, after = time_modules(networks, shape, self.setting)
            else:
                before, after = time_files({"original": self._exported(), "small": content}, shape, self.setting)
        return Finished(before, after, len(content) if content is not None else None)

    def _measured(self, selection: Selection) -> float:
        kept = {name: indices.tolist() for name, indices in selection.kept.items()}
        key = hash_content([self._hash, kept])
        if key not in self._content.networks:
            network = describe(rebuild(self._network, selection), spec_of(self._network))
            shape = spec_of(network).input_shape
            with working(self._progress, f"timing a network: {self.setting}"):
                if self.setting.runtime == "torch":
                    (found,) = time_modules({"network": network}, shape, self.setting)
                else:
                    (found,) = time_files({"network": onnx_content(network)}, shape, self.setting)
            self._store(replace(self._content, networks={**self._content.networks, key: found.median}))
        return self._content.networks[key]

    def _file_size(self) -> FileSize:
        if self._hash not in self._content.files:
            size = FileSize.of(self._exported(), self._graph)
            self._store(replace(self._content, files={**self._content.files, self._hash: size}))
        return self._content.files[self._hash]

    def _exported(self) -> bytes:
        """The original as the content of an ONNX file."""
        if self._original is None:
            with working(self._progress, "exporting the original"):
                self._original = onnx_content(self._network)
        return self._original

    def _read(self) -> _Content | None:
        if not self._path.exists():
            return None
        content = read_hashed_json(self._path, RunError, ADVICE, editable=False)
        found = read(_Content, content, self._path, "", RunError, ADVICE)
        if found.format != FORMAT:
            raise RunError(f"{self._path} has format '{found.format}', this version reads {FORMAT}; {ADVICE}")
        return found

    def _store(self, content: _Content) -> None:
        self._content = content
        write_hashed_json(self._path, to_json(content))


def _version(runtime: Runtime) -> str:
    """Name and version of a runtime; a package of another name, such as onnxruntime-gpu, is without version."""
    try:
        return f"{runtime} {version(runtime)}"
    except PackageNotFoundError:
        return runtime


def _facts(content: _Content) -> str:
    return f"{content.machine}, {content.runtime}, {content.threads} threads, batch {content.batch}"


def cost_texts(costs: Mapping[Cost, float]) -> str:
    """Return costs as text, such as `375,000 parameters, 34.1 M multiply-adds, about 0.41 ms`."""
    texts = [f"{costs['params']:,.0f} parameters", f"{costs['macs'] / 1e6:,.1f} M multiply-adds"]
    if "latency" in costs:
        texts.append(f"about {costs['latency']:.3g} ms")
    if "bytes" in costs:
        texts.append(f"about {costs['bytes']:,.0f} bytes")
    return ", ".join(texts)
