"""A network as a list of operator calls, and the interpreter that runs it node by node.

The front end is `torch.export` and not `torch.fx`, for five reasons. It follows Python's control flow as it runs.
Module, functional, method and operator forms of a call become the same ATen operator. Every operator has an exact
schema. Parameters have their full names. Shapes are known at every node. The exported program is not decomposed, so
that convolution, linear, batch norm, chunk or flatten stay one call each. In-place operators stay in it too: later
readers of the changed tensor are made to read the operator that changed it.
"""

from __future__ import annotations

import io
import logging
import operator
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.forward import ADVICE, forward_errors
from cfp_cli.execution.outputs import is_compared
from cfp_cli.foundation.errors import GraphError
from cfp_cli.foundation.failures import first_line, outside_cause
from cfp_cli.graph.attention_export import erase_unread_attention, separate_attention_weights
from cfp_cli.graph.quick_export import quick_export
from cfp_cli.models.forward_pass import Flattened, is_detector, run_network

# Batch size of the trace. A prime that is no usual channel count keeps the batch apart from channels in every reshape.
BATCH = 13

Execute = Callable[[Node, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Source:
    """Where the value of a placeholder comes from.

    Attributes:
        kind: `input`, `parameter`, `buffer` or `constant`.
        name: full name of the parameter or buffer, or key of the constant.
    """

    kind: str
    name: str


@dataclass
class TracedGraph:
    """The operator calls of a network in evaluation mode, for any batch size at the traced input size.

    Attributes:
        model: the network; its parameters and buffers are read at each run.
        nodes: operator calls in the order they run, placeholders first.
        sources: where each placeholder's value comes from, by node name.
        constants: tensors that the network's code makes itself.
        modules: holder of sub-programs that some operators call.
        outputs: the nodes whose values the network returns and trial and proof compare, in order; for a classifier
            the logits alone.
        uncompared: further nodes whose values the network returns, such as integers.
        input_size: height and width of the traced input.
    """

    model: nn.Module
    nodes: tuple[Node, ...]
    sources: Mapping[str, Source]
    constants: Mapping[str, Any]
    modules: nn.Module
    outputs: tuple[Node, ...]
    uncompared: tuple[Node, ...]
    input_size: tuple[int, int]

    def __post_init__(self) -> None:
        """Find the node after which each value is no longer needed."""
        last: dict[Node, Node] = {}
        for node in self.nodes:
            last[node] = node
            for used in node.all_input_nodes:
                last[used] = node
        for node in self.outputs:
            last.pop(node, None)
        self.freed: dict[Node, list[Node]] = {}
        for used, node in last.items():
            self.freed.setdefault(node, []).append(used)

    @torch.no_grad()
    def run(
        self,
        x: Tensor,
        nodes: Container[str] = (),
        on_value: Callable[[str, Tensor], None] | None = None,
        execute: Execute | None = None,
    ) -> list[Tensor]:
        """Run the network on images and return its outputs.

        Args:
            x: images float32 [N, C, H, W]; they are not changed.
            nodes: names of nodes whose values `on_value` is shown.
            on_value: called with name and value while it is hot; a later in-place operator may overwrite the value
                after the call.
            execute: runs an operator call on its arguments; the default calls the operator.
        """
        outputs: dict[Node, Tensor] = {}
        for node, value in self.values(x, execute):
            if on_value is not None and node.name in nodes:
                on_value(node.name, value)
            if node in self.outputs:
                outputs[node] = value
        return [outputs[node] for node in self.outputs if node in outputs]

    @property
    def logits_shape(self) -> tuple[int, ...] | None:
        """Shape [N, classes] of a classifier's only output; None for other networks."""
        shapes = [shape_of(node) for node in self.outputs]
        return shapes[0] if len(shapes) == 1 and len(shapes[0]) == 2 else None

    def values(self, x: Tensor, execute: Execute | None = None) -> Iterator[tuple[Node, Any]]:
        """Run node by node and yield each operator call with its value; values are freed after their last use.

        Args:
            x: images float32 [N, C, H, W].
            execute: runs an operator call on its arguments; the default calls the operator.
        """
        return Run(self, x, execute).until(None)

    def source(self, node: Node, x: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Any:
        """The value of a placeholder, for images float32 [N, C, H, W] and the memory format that they get."""
        source = self.sources[node.name]
        if source.kind == "input":
            # In-place operators on the input must not reach the caller's tensor.
            return x.clone(memory_format=memory_format)
        if source.kind == "parameter":
            return self.model.get_parameter(source.name)
        if source.kind == "buffer":
            return self.model.get_buffer(source.name)
        return self.constants[source.name]


class Run:
    """A run of a traced network on one batch. It can stop before any node and continue later.

    Args:
        traced: the network.
        x: images float32 [N, C, H, W]; they are not changed.
        execute: runs an operator call on its arguments; the default calls the operator.
        memory_format: memory format of the images that the network reads.

    Attributes:
        values: values of the nodes so far that a later node reads.
    """

    def __init__(
        self,
        traced: TracedGraph,
        x: Tensor,
        execute: Execute | None = None,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> None:
        self.traced = traced
        self.x = x
        self.memory_format = memory_format
        self.execute = execute or run_node
        self.values: dict[Node, Any] = {}
        self._done = 0

    def until(self, stop: Node | None) -> Iterator[tuple[Node, Any]]:
        """Run the nodes before `stop`, or all with None, and yield each operator call with its value."""
        for node in self.traced.nodes[self._done :]:
            if node is stop:
                return
            if node.op == "placeholder":
                self.values[node] = self.traced.source(node, self.x, self.memory_format)
            elif node.op == "get_attr":
                self.values[node] = getattr(self.traced.modules, str(node.target))
            else:
                args, kwargs = map_arg((node.args, node.kwargs), self.values.__getitem__)
                self.values[node] = self.execute(node, args, kwargs)
                yield node, self.values[node]
            for freed in self.traced.freed.get(node, ()):
                del self.values[freed]
            self._done += 1

    @property
    def held(self) -> int:
        """Bytes of the values that a later node reads, without parameters, buffers and constants."""
        own = [
            value
            for node, value in self.values.items()
            if node.op == "call_function"
            or (node.op == "placeholder" and self.traced.sources[node.name].kind == "input")
        ]
        tensors = [
            each
            for value in own
            for each in (value if isinstance(value, tuple | list) else [value])
            if isinstance(each, Tensor)
        ]
        storages = [tensor.untyped_storage() for tensor in tensors]
        # Views share the memory of the value that they show.
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def run_node(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a node's operator."""
    assert callable(node.target)
    return node.target(*args, **kwargs)


def trace(model: nn.Module, example: Tensor) -> TracedGraph:
    """Trace a network in evaluation mode.

    Args:
        model: a network that takes one batch of images and returns tensors in any structure; it is not changed.
        example: images float32 [N, C, H, W] on the network's device; only their shape counts.

    Raises:
        GraphError: the network cannot be run or traced, fixes its batch size, or returns no floating-point tensor.
    """
    batch = torch.zeros(BATCH, *example.shape[1:], dtype=example.dtype, device=example.device)
    plain = isinstance(_trial_output(model, batch), Tensor) and not is_detector(model)
    exported = model if plain else Flattened(model)
    try:
        with evaluating(exported), exporting_quietly(), quick_export(), separate_attention_weights():
            program = torch.export.export(
                exported, (batch,), strict=False, dynamic_shapes=({0: torch.export.Dim.AUTO},)
            )
    except Exception as error:
        if outside_cause(error) is not None:
            raise
        raise GraphError(
            f"the network cannot be traced ({first_line(error)}); its control flow must not depend on the "
            "values of tensors, and it must take one batch of images"
        ) from error
    prefix = "network." if exported is not model else ""
    return _traced(model, program, (int(example.shape[-2]), int(example.shape[-1])), prefix)


def _trial_output(model: nn.Module, batch: Tensor) -> Any:
    """The network's output for two images."""
    types = {each.dtype for each in model.parameters() if each.is_floating_point()} - {batch.dtype}
    if types:
        names = " and ".join(sorted(str(each).removeprefix("torch.") for each in types))
        advice = (
            f"its parameters are {names} and the images {str(batch.dtype).removeprefix('torch.')}: pass network.float()"
        )
    else:
        advice = ADVICE
    with evaluating(model), torch.no_grad(), forward_errors(batch.shape, GraphError, advice):
        return run_network(model, batch[:2])


@contextmanager
def exporting_quietly() -> Iterator[None]:
    """Silence the warnings, logs and prints of torch.export, so that its failure is a one-line error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _traced(
    model: nn.Module, program: torch.export.ExportedProgram, input_size: tuple[int, int], prefix: str
) -> TracedGraph:
    # The properties of the signature search all its tensors at each access.
    signature = program.graph_signature
    parameters, buffers = signature.inputs_to_parameters, signature.inputs_to_buffers
    constants, user_inputs = signature.inputs_to_lifted_tensor_constants, signature.user_inputs
    sources: dict[str, Source] = {}
    # The exporter may call a weight that several modules hold by any of its names.
    held = dict(model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in parameters:
            name = parameters[node.name].removeprefix(prefix)
            sources[node.name] = Source("parameter", first[id(held[name])])
        elif node.name in buffers:
            sources[node.name] = Source("buffer", buffers[node.name].removeprefix(prefix))
        elif node.name in constants:
            sources[node.name] = Source("constant", constants[node.name])
        elif node.name in user_inputs:
            sources[node.name] = Source("input", node.name)
            if isinstance(node.meta["val"].shape[0], int):
                raise GraphError("the network fixes its batch size; use x.shape[0], not a number, in its forward")
        else:
            raise GraphError(f"forward takes more inputs than images ('{node.name}'); wrap the network")
    _follow_in_place(program.graph)
    erase_unread_attention(program.graph)
    (returned,) = next(node for node in program.graph.nodes if node.op == "output").args
    tensors = [node for node in returned if isinstance(node, Node) and isinstance(node.meta.get("val"), Tensor)]
    outputs = tuple(node for node in tensors if is_compared(node.meta["val"]))
    if not outputs:
        raise GraphError("the network returns no floating-point tensor; its outputs cannot be compared after a prune")
    if not any(is_dynamic(node.meta["val"])[:1] == (True,) for node in outputs):
        raise GraphError("the network fixes its batch size; use x.shape[0], not len(x) or a number, in its forward")
    nodes = tuple(node for node in program.graph.nodes if node.op != "output" and not _is_check(node))
    for node in nodes if prefix else ():
        stack = node.meta.get("nn_module_stack") or {}
        node.meta["nn_module_stack"] = {
            key: (f"{path}.".removeprefix(prefix)[:-1], kind) for key, (path, kind) in stack.items()
        }
    uncompared = tuple(node for node in tensors if node not in outputs)
    return TracedGraph(model, nodes, sources, program.constants, program.graph_module, outputs, uncompared, input_size)


def _is_check(node: Node) -> bool:
    """Whether a node only asserts something about sizes or values."""
    name = str(node.target)
    return node.op == "call_module" or (not node.users and ("assert" in name or "sym_constrain" in name))


def arguments_of(node: Node) -> dict[str, Any]:
    """The arguments of an operator call by their schema names, defaults included; tensors are nodes."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(index): value for index, value in enumerate(node.args)}
    found = {each.name: each.default_value for each in schema.arguments if each.has_default_value()}
    found.update(zip((each.name for each in schema.arguments), node.args, strict=False))
    found.update(node.kwargs)
    return found


def is_in_place(node: Node) -> bool:
    """Whether a node's operator changes its first argument and returns it."""
    schema = getattr(node.target, "_schema", None)
    return bool(
        schema is not None
        and schema.is_mutable
        and schema.name.endswith("_")
        and node.args
        and isinstance(node.args[0], Node)
    )


def _follow_in_place(graph: torch.fx.Graph) -> None:
    """Make every later reader of a tensor that was changed in place read the operator that changed it."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.op == "call_function" and is_in_place(node):
            changed = node.args[0]
            changed.replace_all_uses_with(node, lambda user, at=order[node]: order[user] > at)


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of a node's value at the traced batch size.

    Raises:
        GraphError: the value is no tensor, or its shape depends on values of tensors.
    """
    return shape_of_value(node.meta.get("val"), node.name)


def shape_of_value(value: Any, name: str = "") -> tuple[int, ...]:
    """Shape of a traced value at the traced batch size; see `shape_of`."""
    if not isinstance(value, Tensor):
        raise GraphError(f"the value of '{name}' is not a tensor; wrap the network so that it gives logits")
    return tuple(_hint(size, name) for size in value.shape)


def _hint(size: Any, name: str) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    if hint is None:
        raise GraphError(f"the shape of '{name}' depends on the values of tensors; such networks cannot be pruned")
    return int(hint)


def is_dynamic(value: Any) -> tuple[bool, ...]:
    """For each dimension of a traced value, whether its size follows the batch size."""
    return tuple(not isinstance(size, int) for size in value.shape)


def module_of(node: Node) -> str:
    """Full name of the module whose code calls the node's operator; empty for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(path) for path, _ in stack.values() if not str(path).startswith("_empty_nn_module")]
    return names[-1].removeprefix("L['self'].") if names else ""


def is_pointwise(node: Node) -> bool:
    """Whether an operator works element by element, by PyTorch's own tag.

    Earlier releases tag few of the operators that work in place, so that those are known by their counterparts.
    """
    target = node.target
    schema = getattr(target, "_schema", None)
    if schema is None:
        return False
    namespace, _, name = str(schema.name).partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    counterpart = getattr(packet, schema.overload_name or "default", None)
    return any(torch.Tag.pointwise in getattr(each, "tags", ()) for each in (target, counterpart))


def operator_of(node: Node) -> str:
    """Name of a node's operator without overload and in-place mark, such as `relu`; `getitem` for picking a result."""
    if node.target is operator.getitem:
        return "getitem"
    packet = getattr(node.target, "_schema", None)
    if packet is None:
        return str(getattr(node.target, "__name__", node.target))
    name = str(packet.name)
    namespace, _, short = name.partition("::")
    if short.endswith("_") and not short.endswith("__"):
        short = short[:-1]
    return short if namespace == "aten" else f"{namespace}.{short}"
