"""Where a model can be cut, and the ONNX document of a slice.

A model can be cut at a value through which everything flows: whatever comes later depends on the rows by this value
alone. Not between a linear layer and its bias or norm, which are one layer to the circuit (``onnx_norms.py``). Of the places
between the same weights the narrowest is taken, the first of those: before a ReLU, whose factor then goes into
the weights that follow (``onnx_lean.py``).

Values are named as the canonical document names them, which is the same at every batch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from enclaveml.errors import JobError

if TYPE_CHECKING:
    import onnx

#: Nodes that belong to the linear layer before them.
_OF_THE_LAYER = {"Add", "Sub", "Mul", "Div", "BatchNormalization"}


@dataclass(frozen=True)
class Place:
    """A value at which a model can be cut. ``width``: numbers of a row in it; ``before``: weights and numbers of a row up to it."""

    name: str
    width: int
    before: int


class Graph:
    """A canonical document, to be cut."""

    def __init__(self, document: bytes) -> None:
        import onnx

        self.model = onnx.shape_inference.infer_shapes(onnx.load_from_string(document), data_prop=True)
        graph = self.model.graph
        values = (*graph.input, *graph.value_info, *graph.output)
        self._values = {value.name: value for value in values}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        floats = (tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
        self.weights = {tensor.name: math.prod(tensor.dims) for tensor in floats}
        self.batch = self.shape(graph.input[0].name)[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value, () where it is not known."""
        if name not in self._values:
            return ()
        return tuple(d.dim_value for d in self._values[name].type.tensor_type.shape.dim)

    @cached_property
    def places(self) -> list[Place]:
        """Where the model can be cut, in order: there are weights on both sides."""
        graph = self.model.graph
        uses = Counter(name for node in graph.node for name in set(node.input))
        uses.update(value.name for value in graph.output)
        moving = {graph.input[0].name}  # values that depend on the rows
        live, weights, numbers, found = {graph.input[0].name}, 0, 0, {}
        for number, node in enumerate(graph.node):
            weights += sum(self.weights.get(name, 0) for name in set(node.input))
            for name in set(node.input):
                uses[name] -= 1
                if not uses[name]:
                    live.discard(name)
            if not moving.isdisjoint(node.input):
                moving.update(node.output)
                live.update(name for name in node.output if uses[name])
                numbers += sum(math.prod(self.shape(name)[1:]) for name in node.output)
            if len(live) == 1 and number + 1 < len(graph.node) and self._divides(next(iter(live)), graph.node[number + 1 :]):
                (name,) = live
                place = Place(name, math.prod(self.shape(name)[1:]), weights + numbers)
                if weights not in found or place.width < found[weights].width:
                    found[weights] = place
        return [place for held, place in found.items() if 0 < held < weights]

    @property
    def total(self) -> int:
        """Weights of the model and numbers of one row."""
        graph = self.model.graph
        values = sum(math.prod(self.shape(name)[1:]) for node in graph.node for name in node.output if self.shape(name)[:1] == (self.batch,))
        return sum(self.weights.values()) + values

    def _divides(self, name: str, later: list[onnx.NodeProto]) -> bool:
        """Whether a value holds rows of floats, and what reads it begins a layer."""
        import onnx

        shape = self.shape(name)
        if len(shape) < 2 or shape[0] != self.batch or name == self.model.graph.input[0].name:
            return False
        if self._values[name].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            return False
        readers = [node for node in later if name in node.input]
        return not any(node.op_type in _OF_THE_LAYER and len(readers) == 1 for node in readers)

    def names(self, slices: int) -> list[str]:
        """The values at which the model is cut into so many slices: the largest slice as small as can be.

        Raises JobError where there are not so many places.
        """
        places = self.places
        if slices > len(places) + 1:
            raise JobError(f"proof.slices: the model can be cut into {len(places) + 1} slices at most, {slices} are asked for")
        # best[i]: (largest slice, sum of the widths, places) of the model up to place i in so many slices
        ends = [*places, Place("", 0, self.total)]
        best = [(float(end.before), end.width, (i,)) for i, end in enumerate(ends)]
        for _ in range(slices - 1):
            best = [
                min(((max(most, float(end.before - ends[j].before)), width + end.width, (*path, i))
                     for j, (most, width, path) in enumerate(best[:i])), default=(math.inf, 0, ()))
                for i, end in enumerate(ends)
            ]
        return [ends[i].name for i in best[-1][2][:-1]]

    def slice(self, start: str, end: str) -> bytes:
        """The document from a value ("": the model's input) to another ("": its output).

        Raises JobError where the model, at this batch, has no such value, or one that does not hold rows.
        """
        import onnx

        graph = self.model.graph
        for name in filter(None, (start, end)):
            if self.shape(name)[:1] != (self.batch,):
                raise JobError(f"the model cannot be cut at {name} with {self.batch} rows a proof: it is of shape {self.shape(name)}")
        needed = {end or graph.output[0].name}
        kept = []
        for node in reversed(graph.node):
            if not needed.isdisjoint(node.output):
                kept.append(node)
                needed.update(name for name in node.input if name != start)
        document = onnx.ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)
        document.graph.name = graph.name
        document.graph.input.append(self._values[start or graph.input[0].name])
        document.graph.output.append(self._values[end] if end else graph.output[0])
        document.graph.node.extend(reversed(kept))
        document.graph.initializer.extend(tensor for name, tensor in self.tensors.items() if name in needed)
        return document.SerializeToString(deterministic=True)
