"""Functions of one number, as ONNX nodes compute them of every entry of a layer's sums: a batch proof holds each by a table.

A graph says GELU as products, an error function and a sum; softplus as a dozen nodes. All nodes that make of each entry of one array a number of
the same place, by constants that are one number, are one function, whatever its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from enclaveml.zk.batch.float_model import Activation
from enclaveml.zk.batch.nodes import attribute

if TYPE_CHECKING:
    import onnx

#: Operators of entries: what is linear can be a layer's sums, too; the others are what an activation is made of.
LINEAR = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Identity", "Cast"})
POINTWISE = LINEAR | {
    "Abs", "And", "Ceil", "Celu", "Clip", "Cos", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu", "Where"}

#: Where functions are compared: 0 and what lies around it.
_NEAR = np.linspace(-8, 8, 4097)

#: Names for people; anything else is a function without one.
_KNOWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "GELU": lambda z: z / 2 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in z])),
    "GELU (by tanh)": lambda z: z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "SiLU": lambda z: z / (1 + np.exp(-z)),
    "softplus": lambda z: np.logaddexp(z, 0),
    "ELU": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "ReLU6": lambda z: np.clip(z, 0, 6),
}


@dataclass(frozen=True, eq=False)
class Curve:
    """What nodes make of every entry of the array ``root``: ``output`` of the last of them; no nodes: the array itself.

    constants: numbers by the names that the nodes have for them.
    """

    root: str
    output: str
    opsets: Any
    nodes: tuple[onnx.NodeProto, ...] = ()
    constants: tuple[tuple[str, np.ndarray], ...] = ()

    @cached_property
    def is_relu(self) -> bool:
        """Whether it is ReLU wherever it is tried: near 0 closely, and far off, as a function that is cut somewhere is none.

        ``quantise.check_reading`` tries it on the sums of the sample rows, too.
        """
        far = 2.0 ** np.arange(-30, 100, 0.5)
        grid = np.concatenate([-far, _NEAR, far])
        return np.array_equal(self(grid), np.maximum(grid, 0))

    def activation(self) -> Activation | None:
        """As a layer's activation; None for ReLU."""
        if self.is_relu:
            return None
        grid, here = _NEAR, self(_NEAR)
        name = next((name for name, known in _KNOWN.items() if np.allclose(here, known(grid), rtol=1e-5, atol=1e-6)), "a function of one number")
        return Activation(name, self)

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """float64 of float64, entry by entry; NaN or infinite where it is so."""
        with np.errstate(all="ignore"):
            (found,) = self._evaluator.run(None, {self.root: np.asarray(z, np.float64).reshape(-1)})
        return np.asarray(found, np.float64).reshape(np.shape(z))

    @cached_property
    def _evaluator(self) -> Any:
        import onnx
        from onnx.reference import ReferenceEvaluator

        given, made = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in (self.root, self.output))
        graph = onnx.helper.make_graph(list(self.nodes), "curve", [given], [made],
                                       [onnx.numpy_helper.from_array(value, name) for name, value in self.constants])
        return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=list(self.opsets)))


def behind(node: onnx.NodeProto, inputs: list[Curve | float | bool | None]) -> Curve | None:
    """What a node makes of its inputs: curves of one array, one at least, or numbers; None where an input is left out.

    None where it is no function of one number.
    """
    import onnx

    curves = [given for given in inputs if isinstance(given, Curve)]
    if node.op_type not in POINTWISE or len(node.output) != 1 or len({curve.root for curve in curves}) != 1:
        return None
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if node.op_type == "Cast":
        to = attribute(node, "to", 0)
        if to not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.BOOL):
            return None
        if to == onnx.TensorProto.FLOAT:  # tables are made in doubles
            copy = onnx.helper.make_node("Cast", node.input, node.output, to=onnx.TensorProto.DOUBLE)
    nodes, constants = {}, {}
    for curve in curves:
        nodes |= {each.output[0]: each for each in curve.nodes}
        constants |= dict(curve.constants)
    for place, given in enumerate(inputs):
        if given is not None and not isinstance(given, Curve):
            copy.input[place] = f"{node.output[0]} input {place}"
            constants[copy.input[place]] = np.array(given)
    nodes[node.output[0]] = copy
    return Curve(curves[0].root, node.output[0], curves[0].opsets, tuple(nodes.values()), tuple(constants.items()))


def one_number(constant: np.ndarray, shape: tuple[int, ...], exponent: bool = False) -> float | bool | None:
    """The number that a constant is for every entry of a row's value of this shape; None where it is several, makes rows larger, or is a whole number that is no ``exponent``."""
    whole = (2, *shape)
    fits = constant.ndim <= len(whole) and all(n in (1, m) for n, m in zip(constant.shape[::-1], whole[::-1], strict=False))
    if constant.size == 0 or not fits or (constant.dtype.kind not in "fb" and not exponent):
        return None  # whole numbers divide and wrap otherwise than the doubles that a table is made in
    first = constant.reshape(-1)[0]
    if not np.array_equal(constant, np.full_like(constant, first), equal_nan=constant.dtype.kind == "f"):
        return None
    return bool(first) if constant.dtype == bool else float(first)
