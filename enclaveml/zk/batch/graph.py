"""From a canonical ONNX document to the layers that a batch proof can hold (``algebra`` says what becomes of what is linear).

What no batch proof holds is refused with advice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk.batch.algebra import NotHeld, Sums, Value
from enclaveml.zk.batch.float_model import FloatLayer
from enclaveml.zk.batch.nodes import (
    MOVES,
    as_map,
    attribute,
    convolved,
    folded,
    mover,
    multiplied,
    of_a_row,
    pooled,
    reduced,
    window_of,
)

if TYPE_CHECKING:
    import onnx

#: What a batch proof holds, in words.
HOLDS = ("dense layers and convolutions (one- or two-dimensional), ReLU after them, means and maxima over windows without overlap, residual sums, concatenations, "
         "BatchNorm, products and sums with constants, flatten, reshape and transpose")

#: ONNX operator to what to do about it, where there is more to say than "use ezkl".
_INSTEAD = {
    "Softmax": "leave the softmax out and give the logits: the class is the same (combine.input: logits)",
    "Sigmoid": "leave a sigmoid at the end out: the class is the same, an output above 0 is one above 0.5",
    "Tanh": "use ReLU",
    "Gelu": "use ReLU",
    "Erf": "use ReLU in place of GELU",
    "LayerNormalization": "use BatchNorm, which is folded into the weights",
    "ConvTranspose": "convolutions that enlarge a map are not in batch proofs",
}


def float_layers(document: bytes) -> tuple[FloatLayer, ...]:
    """The layers of a canonical document (its batch is 2), first to last.

    Raises JobError naming the first node that no batch proof can hold, with what is allowed.
    """
    import onnx

    model = onnx.load_from_string(document)
    for number, node in enumerate(model.graph.node):  # what is most to be said of first, whatever stands before it
        if node.op_type in _INSTEAD:
            raise _refused(f"node {number} of {len(model.graph.node)}, {node.op_type}", "is none of these", _INSTEAD[node.op_type])
    found = _Reading(model).layers()
    for each in found:
        if not (np.isfinite(each.weights).all() and np.isfinite(each.bias).all()):
            raise JobError("a weight of the model is NaN or infinite")
    return found


class _Reading:
    """One pass over a graph's nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import numpy_helper

        self._graph, self._opsets = model.graph, model.opset_import
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]
        width = math.prod(shape)
        self._values: dict[str, Value | Sums] = {
            model.graph.input[0].name: Value.of(0, np.arange(width).reshape(shape), width)}
        self._found: list[FloatLayer] = []

    def layers(self) -> tuple[FloatLayer, ...]:
        """See ``float_layers``."""
        nodes = self._graph.node
        for number, node in enumerate(nodes):
            if all(name in self._constants or not name for name in node.input):
                self._constants.update(folded(node, self._constants, self._opsets))
                continue
            try:
                self._values[node.output[0]] = self._given(node)
            except NotHeld as problem:
                raise _refused(f"node {number} of {len(nodes)}, {node.op_type}", str(problem), problem.instead) from None
        last = self._values.get(self._graph.output[0].name) if len(self._graph.output) == 1 else None
        if last is None:
            raise _refused("the output", "is not one array of what the rows give", "")
        if isinstance(last, Value):
            raise _refused("the last node", "is a ReLU, not a dense layer", "leave it out of the model: outputs keep their sign")
        if last.index.reshape(-1).tolist() != list(range(last.features)):
            raise _refused("the output", "is not that of the last layer as it is", "")
        return (*self._found, last.layer(len(self._found) + 1))

    def _given(self, node: onnx.NodeProto) -> Value | Sums:
        """What a node gives. Raises NotHeld."""
        if node.op_type == "Relu":
            return self._relu(self._values[node.input[0]])
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            return self._elementwise(node)
        if node.op_type == "Concat":
            return self._beside(node)
        if node.input[0] not in self._values or any(name in self._values for name in node.input[1:]):
            raise NotHeld("is none of these")
        given, constants = self._values[node.input[0]], [self._constants.get(name) for name in node.input[1:]]
        if node.op_type in ("Gemm", "MatMul"):
            return multiplied(node, given, *constants)
        if node.op_type == "Conv":
            return convolved(node, given, *constants)
        if node.op_type == "BatchNormalization" and len(node.output) == 1 and not attribute(node, "training_mode", 0):
            gain, bias, mean, variance = (v.astype(np.float64).reshape(-1, *[1] * (len(given.shape) - 1)) for v in constants)
            gain = gain / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
            return given.times(gain).shifted(np.broadcast_to(bias - mean * gain, given.shape))
        if node.op_type == "AveragePool":
            return pooled(node, given)
        if node.op_type == "MaxPool" and len(node.output) == 1:
            return self._maxima(node, given)
        if node.op_type in ("ReduceMean", "ReduceSum"):
            return reduced(node, given, constants)
        if node.op_type in MOVES:
            return given.moved(mover(node, constants))
        raise NotHeld("is none of these")

    def _relu(self, given: Value | Sums) -> Value:
        if isinstance(given, Value):
            if not given.positive:
                raise NotHeld("a ReLU with no dense layer before it", "put a dense layer before it")
            return given
        self._found.append(given.layer(len(self._found) + 1))
        return Value.of(len(self._found), given.index, given.features)

    def _maxima(self, node: onnx.NodeProto, given: Value | Sums) -> Value:
        """Maxima over windows without overlap, of values behind a ReLU, by ReLUs: max(a, b) = b + relu(a - b), along one axis and then the other."""
        window = window_of(node, given, "maximum", "max_pool")
        if isinstance(given, Sums):
            if not self._only_read_by_relu(node.output[0]):
                raise NotHeld("a maximum of values that no ReLU is before or behind", "put a ReLU before it")
            given = self._relu(given)  # the same as a ReLU behind it
        found, back = as_map(given)
        for axis, size in enumerate(window):
            along = (size, 1) if axis == 0 else (1, size)
            cells = [found.picked(along, (i, 0) if axis == 0 else (0, i)) for i in range(size)] if size > 1 else [found]
            while len(cells) > 1:
                pairs = [self._larger(a, b) for a, b in zip(cells[::2], cells[1::2], strict=False)]
                cells = pairs + cells[2 * len(pairs) :]
            (found,) = cells
        return found.moved(back)

    def _larger(self, first: Value, second: Value) -> Value:
        """The larger of two values (H, W, C), entry by entry."""
        apart = first.plus(second.times(-np.ones(second.shape)))
        channels = first.shape[2]
        return second.plus(self._relu(apart.conv(np.eye(channels)[None, None], np.zeros(channels), (1, 1), (0, 0, 0, 0))))

    def _only_read_by_relu(self, name: str) -> bool:
        readers = [node for node in self._graph.node if name in node.input]
        return bool(readers) and all(node.op_type == "Relu" or (node.op_type in MOVES and self._only_read_by_relu(node.output[0])) for node in readers)

    def _elementwise(self, node: onnx.NodeProto) -> Value | Sums:
        first, second = node.input
        if first in self._values and second in self._values:
            left, right = self._values[first], self._values[second]
            if node.op_type not in ("Add", "Sub"):
                raise NotHeld("a product of two values of a row")
            if left.shape != right.shape:
                raise NotHeld("a sum of values of different shapes")
            right = right.times(-np.ones(right.shape)) if node.op_type == "Sub" else right
            return right.plus(left) if isinstance(left, Value) and isinstance(right, Sums) else left.plus(right)
        at = first if first in self._values else second
        given = self._values[at]
        value = of_a_row(self._constants[second if at == first else first], given.shape)
        if node.op_type == "Mul":
            return given.times(value)
        if node.op_type == "Div":
            if at != first:
                raise NotHeld("a division by a value of the row")
            return given.times(1.0 / value)
        if node.op_type == "Add":
            return given.shifted(value)
        return given.shifted(-value) if at == first else given.times(-np.ones(given.shape)).shifted(value)

    def _beside(self, node: onnx.NodeProto) -> Value | Sums:
        found: Value | None = None
        axis = attribute(node, "axis", 0)
        for name in node.input:
            given = self._values.get(name)
            if not isinstance(given, Value):
                raise NotHeld("a concatenation of something else than the inputs and values behind a ReLU", "put a ReLU before it")
            place = axis - 1 if axis > 0 else axis + len(given.shape)
            if axis == 0 or place < 0:
                raise NotHeld("a concatenation of rows of a batch")
            found = given if found is None else found.beside(given, place)
        assert found is not None
        return found


def _refused(where: str, what: str, instead: str) -> JobError:
    return JobError(f"{where}: {what}; a batch proof holds {HOLDS}" + (f". {instead[0].upper()}{instead[1:]}" if instead else "")
                    + ". proof.system: ezkl proves more kinds of layers")
