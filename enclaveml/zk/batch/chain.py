"""From a canonical ONNX document to the chain of dense layers that a batch proof can hold.

Elementwise factors and summands that are constants (normalised inputs, a BatchNorm that was exported as arithmetic) are folded
into the dense layers beside them, and so are dense layers without a ReLU between. Everything else is refused with advice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from enclaveml.errors import JobError

if TYPE_CHECKING:
    import onnx

#: What a batch proof holds so far, in words.
HOLDS = ("dense layers (Gemm, or MatMul and Add), ReLU between them, products and sums with constants, flatten and reshape")

#: ONNX operator to what to do about it, where there is more to say than "use ezkl".
_INSTEAD = {
    "Softmax": "leave the softmax out and give the logits: the class is the same (combine.input: logits)",
    "Sigmoid": "leave a sigmoid at the end out: the class is the same, an output above 0 is one above 0.5",
    "Conv": "convolutions are not in batch proofs yet",
    "MaxPool": "pooling is not in batch proofs yet",
    "AveragePool": "pooling is not in batch proofs yet",
    "Tanh": "use ReLU",
    "Gelu": "use ReLU",
    "Erf": "use ReLU in place of GELU",
}


@dataclass(frozen=True, eq=False)
class Dense:
    """x W + b: weights (K, M), bias (M,), float64. Between two layers is a ReLU."""

    weights: np.ndarray
    bias: np.ndarray


class _Affine:
    """What has happened since the input or the last ReLU: (x * scale + offset), then weights and bias, if any."""

    def __init__(self, width: int) -> None:
        self.scale, self.offset = np.ones(width), np.zeros(width)
        self.weights: np.ndarray | None = None
        self.bias = np.zeros(0)

    @property
    def width(self) -> int:
        return len(self.offset) if self.weights is None else len(self.bias)

    def multiply(self, factor: np.ndarray) -> None:
        if self.weights is None:
            self.scale, self.offset = self.scale * factor, self.offset * factor
        else:
            self.weights, self.bias = self.weights * factor, self.bias * factor

    def add(self, summand: np.ndarray) -> None:
        if self.weights is None:
            self.offset = self.offset + summand
        else:
            self.bias = self.bias + summand

    def dense(self, weights: np.ndarray, bias: np.ndarray) -> None:
        if self.weights is None:
            self.weights, self.bias = self.scale[:, None] * weights, self.offset @ weights + bias
        else:
            self.weights, self.bias = self.weights @ weights, self.bias @ weights + bias

    def layer(self) -> Dense | None:
        return None if self.weights is None else Dense(self.weights, self.bias)


def dense_layers(document: bytes) -> tuple[Dense, ...]:
    """The layers of a canonical document (its batch is 2), first to last.

    Raises JobError naming the first node that no batch proof can hold, with what is allowed.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(document)
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    at, shape = graph.input[0].name, tuple(d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)
    now, layers = _Affine(math.prod(shape[1:])), []
    for number, node in enumerate(graph.node):  # what is most to be said of first, whatever stands before it
        if node.op_type in _INSTEAD:
            raise _refused(f"node {number} of {len(graph.node)}, {node.op_type}", "is none of these", _INSTEAD[node.op_type])
    for number, node in enumerate(graph.node):
        where = f"node {number} of {len(graph.node)}, {node.op_type}"
        if all(name in constants or not name for name in node.input):
            constants.update(_folded(node, constants, model.opset_import))
            continue
        if [name for name in node.input if name and name not in constants] != [at]:
            raise _refused(where, "reads another value than the one before it", "a batch proof holds one chain of layers")
        if node.op_type == "Relu":
            if (layer := now.layer()) is None:
                raise _refused(where, "a ReLU with no dense layer before it", "put a dense layer before it")
            layers.append(layer)
            now = _Affine(now.width)
        elif node.op_type in ("Gemm", "MatMul"):
            if len(shape) != 2 or node.input[0] != at or constants[node.input[1]].ndim != 2 or _attribute(node, "transA", 0):
                raise _refused(where, "a product that is not one of a row with a constant matrix",
                               "flatten the row before a dense layer")
            now.dense(*_product(node, constants, now.width))
            shape = (shape[0], now.width)
        elif node.op_type in ("Mul", "Div", "Add", "Sub"):
            _elementwise(node, constants, at, shape, now, where)
        else:
            shape = _kept(node, constants, shape, where)
        at = node.output[0]
    last = now.layer()
    if last is None:
        raise _refused("the last node", "is a ReLU, not a dense layer", "leave it out of the model: outputs keep their sign")
    if at != graph.output[0].name or len(graph.output) != 1:
        raise _refused("the output", "is not that of the last layer", "")
    found = (*layers, last)
    for each in found:
        if not (np.isfinite(each.weights).all() and np.isfinite(each.bias).all()):
            raise JobError("a weight of the model is NaN or infinite")
    return found


def _refused(where: str, what: str, instead: str) -> JobError:
    return JobError(f"{where}: {what}; a batch proof holds {HOLDS}" + (f". {instead[0].upper()}{instead[1:]}" if instead else "")
                    + ". proof.system: ezkl proves more kinds of layers")


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _product(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    weights = constants[node.input[1]].astype(np.float64)
    if node.op_type == "MatMul":
        return weights, np.zeros(weights.shape[1])
    if _attribute(node, "transB", 0):
        weights = weights.T
    bias = np.zeros(weights.shape[1])
    if len(node.input) > 2 and node.input[2]:
        bias = np.broadcast_to(constants[node.input[2]].astype(np.float64), (2, weights.shape[1]))[0]
    assert weights.shape[0] == width, "shapes that ONNX's own inference let through"
    return weights * _attribute(node, "alpha", 1.0), bias * _attribute(node, "beta", 1.0)


def _kept(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    """The shape of a value whose rows a node leaves as they are, value after value. Raises JobError for any other node."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    if node.op_type == "Identity" or (node.op_type == "Cast" and _attribute(node, "to", 0) in floats):
        return shape
    rest = [constants[name] for name in node.input[1:] if name in constants]
    found: tuple[int, ...] = ()
    if node.op_type == "Flatten" and _attribute(node, "axis", 1) == 1:
        found = shape[0], math.prod(shape[1:])
    elif node.op_type == "Reshape" and rest:
        wanted = [shape[i] if n == 0 else int(n) for i, n in enumerate(rest[0].tolist())]
        found = np.empty(shape, np.bool_).reshape(wanted).shape
    elif node.op_type == "Squeeze" and rest:
        found = np.empty(shape, np.bool_).squeeze(tuple(rest[0].tolist())).shape
    elif node.op_type == "Unsqueeze" and rest:
        found = np.expand_dims(np.empty(shape, np.bool_), tuple(rest[0].tolist())).shape
    if not found or found[0] != shape[0]:
        raise _refused(where, "is none of these", "")
    return found


def _elementwise(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], at: str, shape: tuple[int, ...], now: _Affine,
                 where: str) -> None:
    """A product or sum with a constant, which must be the same for each row of the batch."""
    (other,) = (name for name in node.input if name != at)
    value = constants[other].astype(np.float64)
    if value.ndim > len(shape) or (value.ndim == len(shape) and value.shape[0] != 1 and (value != value[:1]).any()):
        raise _refused(where, "a constant that differs between the rows of a batch", "")
    if value.ndim == len(shape):
        value = value[:1]
    if np.broadcast_shapes(value.shape, (1, *shape[1:])) != (1, *shape[1:]):
        raise _refused(where, "a constant that makes rows larger", "")
    flat = np.broadcast_to(value, (1, *shape[1:])).reshape(-1)
    if node.op_type == "Mul":
        now.multiply(flat)
    elif node.op_type == "Div":
        if node.input[0] != at:
            raise _refused(where, "a division by a value of the row", "")
        now.multiply(1.0 / flat)
    elif node.op_type == "Add":
        now.add(flat)
    elif node.input[0] == at:
        now.add(-flat)
    else:
        now.multiply(-np.ones_like(flat))
        now.add(flat)


def _folded(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], opsets: Any) -> dict[str, np.ndarray]:
    """What a node makes of constants alone."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    inputs = [name for name in dict.fromkeys(node.input) if name]
    graph = onnx.helper.make_graph(
        [node], "constant",
        [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(constants[n].dtype), None) for n in inputs],
        [onnx.helper.make_empty_tensor_value_info(name) for name in node.output],
    )
    model = onnx.helper.make_model(graph, opset_imports=list(opsets))
    found = ReferenceEvaluator(model).run(None, {name: constants[name] for name in inputs})
    return dict(zip(node.output, map(np.asarray, found), strict=True))
