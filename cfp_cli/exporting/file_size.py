"""The size of the ONNX file of a pruned network, without building or exporting it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from cfp_cli.graph import ChannelGraph, Selection

_FLOAT32 = 4


@dataclass(frozen=True)
class FileSize:
    """The size of ONNX files of one network at any selection.

    The file has a fixed part, the graph and the metadata, and the weights. Tensors of one dimension are biases and
    norms; an export folds most norms into the biases, so only a share of them is in the file.

    Attributes:
        fixed: bytes of the graph and the metadata.
        share: elements of one-dimensional tensors in the file, divided by those of the network's parameters.
    """

    fixed: float
    share: float

    @classmethod
    def of(cls, content: bytes, graph: ChannelGraph) -> FileSize:
        """Take the fixed part and the share from the file of the original.

        Args:
            content: the ONNX file of the original.
            graph: the channel graph of the original.
        """
        import onnx

        stored = [prod(each.dims) for each in onnx.load_model_from_string(content).graph.initializer]
        matrices, vectors = _elements(Selection(graph))
        return cls(len(content) - _FLOAT32 * sum(stored), max(sum(stored) - matrices, 0) / max(vectors, 1))

    def bytes(self, selection: Selection) -> float:
        """Return the size of the file of the network that `rebuild` makes of a selection, to about 1 %."""
        matrices, vectors = _elements(selection)
        return self.fixed + _FLOAT32 * (matrices + self.share * vectors)


def _elements(selection: Selection) -> tuple[int, int]:
    """Elements of all parameters of two or more dimensions, and of those of one dimension."""
    matrices = vectors = 0
    for name in selection.graph.sizes:
        shape = tuple(selection.graph.traced.model.get_parameter(name).shape)
        count = selection.elements(name, shape)
        if len(shape) > 1:
            matrices += count
        else:
            vectors += count
    return matrices, vectors
