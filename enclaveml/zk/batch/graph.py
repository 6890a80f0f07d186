"""From a canonical ONNX document to the layers that a batch proof can hold (``algebra`` says what becomes of what is linear).

What no batch proof holds is refused with advice.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk.batch.algebra import NotHeld, Sums, Value
from enclaveml.zk.batch.curves import LINEAR, POINTWISE, Curve, behind, one_number
from enclaveml.zk.batch.float_model import Activation, FloatLayer
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
HOLDS = ("dense layers and convolutions (one- or two-dimensional), ReLU or another function of one number (sigmoid, tanh, GELU, SiLU, softplus and the like: "
         "by table) after them, means and maxima over windows without overlap, residual sums, concatenations, "
         "BatchNorm, products and sums with constants, flatten, reshape and transpose")

#: A function at the end of a model, by its last operator, and what to do about it.
_AT_THE_END = {
    "Relu": "leave it out of the model: outputs keep their sign",
    "Sigmoid": "leave a sigmoid at the end out: the class is the same, an output above 0 is one above 0.5",
}

#: ONNX operator to what to do about it, where there is more to say than "use ezkl".
_INSTEAD = {
    "Softmax": ("leave a softmax at the end out and give the logits: the class is the same (combine.input: logits); one within a model is no function of "
                "one number"),
    "ReduceMax": ("leave a softmax at the end out and give the logits: the class is the same (combine.input: logits); for a maximum over a map use "
                  "max_pool"),
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
        #: Of a tensor what it is: a curve where it is not also something linear. Apart: curves of all that is one of a layer's sums.
        self._values: dict[str, Value | Sums | Curve] = {
            model.graph.input[0].name: Value.of(0, np.arange(width).reshape(shape), width)}
        self._curves: dict[str, Curve] = {}
        self._found: list[FloatLayer] = []
        self._signed = {0}  # arrays whose values can be negative
        self._makers = {node.output[0]: node for node in self._graph.node}

    def layers(self) -> tuple[FloatLayer, ...]:
        """See ``float_layers``."""
        nodes = self._graph.node
        for number, node in enumerate(nodes):
            if all(name in self._constants or not name for name in node.input):
                self._constants.update(folded(node, self._constants, self._opsets))
                continue
            try:
                self._values[node.output[0]] = self._read(node)
            except NotHeld as problem:
                raise _refused(f"node {number} of {len(nodes)}, {node.op_type}", str(problem), problem.instead) from None
        output = self._graph.output[0].name
        if output not in self._values or len(self._graph.output) > 1:
            raise _refused("the output", "is not one array of what the rows give", "")
        if self._of_relu(output):
            try:
                self._activate(output)
            except NotHeld as problem:
                raise _refused("the output", str(problem), problem.instead) from None
        last = self._values[output]
        if isinstance(last, Curve):
            op = last.nodes[-1].op_type
            raise _refused("the last node", f"is an activation, {op}, not a dense layer",
                           _AT_THE_END.get(op, "leave it out of the model, and apply it to the outputs"))
        if isinstance(last, Value):
            raise _refused("the last node", "is a ReLU, not a dense layer", _AT_THE_END["Relu"])
        if last.index.reshape(-1).tolist() != list(range(last.features)):
            raise _refused("the output", "is not that of the last layer as it is", "")
        return (*self._found, last.layer(len(self._found) + 1))

    def _read(self, node: onnx.NodeProto) -> Value | Sums | Curve:
        """What a node gives: something linear in arrays, else a function of a layer's sums. Raises NotHeld."""
        curve = self._curve(node)
        if curve is not None and (any(isinstance(self._values.get(name), Curve) for name in node.input) or not self._linear(node)):
            self._curves[node.output[0]] = curve
            return curve  # what becomes of it is known by who reads it
        for name in node.input:
            self._activate(name)
        found = self._given(node)
        if curve is not None and isinstance(found, Sums):
            self._curves[node.output[0]] = curve
        return found

    def _linear(self, node: onnx.NodeProto) -> bool:
        """Whether a node is linear in what it takes of a row."""
        of_rows = sum(name in self._values for name in node.input)
        return node.op_type in LINEAR and not (node.op_type in ("Mul", "Div") and (
            of_rows > 1 or (node.op_type == "Div" and node.input[1] in self._values)))

    def _curve(self, node: onnx.NodeProto) -> Curve | None:
        """What a node is as a function of every entry of one layer's sums; None where it is none."""
        if node.op_type not in POINTWISE:
            return None
        inputs: list[Curve | float | bool | None] = []
        shapes = {self._shape(name) for name in node.input if name in self._values}
        for place, name in enumerate(node.input):
            if name in self._values:
                value = self._values[name]
                given = self._curves.get(name) or (Curve(name, name, self._opsets) if isinstance(value, Sums) else None)
            else:
                exponent = node.op_type == "Pow" and place == 1
                given = one_number(self._constants[name], *shapes, exponent=exponent) if name in self._constants and len(shapes) == 1 else None
            if given is None and name:
                return None
            inputs.append(given)
        return behind(node, inputs)

    def _shape(self, name: str) -> tuple[int, ...]:
        value = self._values[name]
        return self._shape(value.root) if isinstance(value, Curve) else value.shape

    def _activate(self, name: str) -> None:
        """Have the tensor be a layer's array, if it is a function of the layer's sums; what is linear in ReLUs of them stays exact."""
        curve = self._values.get(name)
        if not isinstance(curve, Curve):
            return
        root, maker = self._values[curve.root], self._makers[name]
        assert isinstance(root, Sums)
        if self._is_relu(name):
            plain = maker.op_type == "Relu"  # of sums that may be linear in the curve's root
            self._values[name] = self._layer(self._values[maker.input[0]], None) if plain else self._layer(root, None, curve)
        elif self._of_relu(name):
            for given in maker.input:
                self._activate(given)
            self._values[name] = self._given(maker)
        else:
            self._values[name] = self._layer(root, curve.activation())

    def _is_relu(self, name: str) -> bool:
        """Whether a tensor is a ReLU of sums, by that name or another."""
        curve, maker = self._values.get(name), self._makers.get(name)
        return isinstance(curve, Curve) and maker is not None and (
            (maker.op_type == "Relu" and isinstance(self._values[maker.input[0]], Sums)) or curve.is_relu)

    def _of_relu(self, name: str) -> bool:
        """Whether a tensor is a curve that is linear in ReLUs and sums, one ReLU at least."""
        maker = self._makers.get(name)
        if not isinstance(self._values.get(name), Curve) or maker is None:
            return False
        return self._is_relu(name) or (maker.op_type != "Cast" and self._linear(maker) and all(
            not isinstance(self._values[given], Curve) or self._of_relu(given) for given in maker.input if given in self._values))

    def _layer(self, sums: Sums, activation: Activation | None, curve: Curve | None = None) -> Value:
        """The array of a new layer; ``curve``: what the graph has where that was found to be ReLU."""
        self._found.append(replace(sums.layer(len(self._found) + 1, activation), taken=None if activation else curve))
        if activation is not None:
            self._signed.add(len(self._found))
        return Value.of(len(self._found), sums.index, sums.features)

    def _given(self, node: onnx.NodeProto) -> Value | Sums:
        """What a node gives. Raises NotHeld."""
        if node.op_type == "Relu":
            return self._relu(self._values[node.input[0]])
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            return self._elementwise(node)
        if node.op_type == "Concat":
            return self._beside(node)
        if node.op_type == "Neg":
            return self._values[node.input[0]].times(-np.ones(self._values[node.input[0]].shape))
        if node.op_type in POINTWISE - LINEAR and all(isinstance(self._values.get(name), Value) for name in node.input if name not in self._constants):
            raise NotHeld(f"a {node.op_type} with no dense layer before it", "put a dense layer before it")
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
            if not given.positive(self._signed):
                raise NotHeld("a ReLU with no dense layer before it", "put a dense layer before it")
            return given
        return self._layer(given, None)

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
                raise NotHeld("a concatenation of something else than the inputs and values behind an activation", "put a ReLU before it")
            place = axis - 1 if axis > 0 else axis + len(given.shape)
            if axis == 0 or place < 0:
                raise NotHeld("a concatenation of rows of a batch")
            found = given if found is None else found.beside(given, place)
        assert found is not None
        return found


def _refused(where: str, what: str, instead: str) -> JobError:
    return JobError(f"{where}: {what}; a batch proof holds {HOLDS}" + (f". {instead[0].upper()}{instead[1:]}" if instead else "")
                    + ". proof.system: ezkl proves more kinds of layers")
