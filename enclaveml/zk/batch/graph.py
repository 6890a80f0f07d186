"""From a canonical ONNX document to the layers that a batch proof can hold (``algebra`` says what becomes of what is linear).

What no batch proof holds is refused with advice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk.batch.algebra import NotHeld, Sums, Value
from enclaveml.zk.batch.float_model import FloatLayer

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

#: Operators that only lay entries out anew.
_MOVES = {"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather"}


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
                self._constants.update(_folded(node, self._constants, self._opsets))
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
            return _product(node, given, *constants)
        if node.op_type == "Conv":
            return _conv(node, given, *constants)
        if node.op_type == "BatchNormalization" and len(node.output) == 1 and not _attribute(node, "training_mode", 0):
            gain, bias, mean, variance = (v.astype(np.float64).reshape(-1, *[1] * (len(given.shape) - 1)) for v in constants)
            gain = gain / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
            return given.times(gain).shifted(_full(bias - mean * gain, given.shape))
        if node.op_type == "AveragePool":
            return _pooled(node, given)
        if node.op_type == "MaxPool" and len(node.output) == 1:
            return self._maxima(node, given)
        if node.op_type in ("ReduceMean", "ReduceSum"):
            return _reduced(node, given, constants)
        if node.op_type in _MOVES:
            return given.moved(_move(node, constants))
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
        window = _window(node, given, "maximum", "max_pool")
        if isinstance(given, Sums):
            if not self._only_read_by_relu(node.output[0]):
                raise NotHeld("a maximum of values that no ReLU is before or behind", "put a ReLU before it")
            given = self._relu(given)  # the same as a ReLU behind it
        found, back = _as_map(given)
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
        return bool(readers) and all(node.op_type == "Relu" or (node.op_type in _MOVES and self._only_read_by_relu(node.output[0])) for node in readers)

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
        value = _of_a_row(self._constants[second if at == first else first], given.shape)
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
        axis = _attribute(node, "axis", 0)
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


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _full(constant: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(constant, shape)


def _product(node: onnx.NodeProto, given: Value | Sums, weights: np.ndarray, bias: np.ndarray | None = None) -> Sums:
    """A Gemm or MatMul with a constant matrix."""
    wrong = NotHeld("a product that is not one of a row with a constant matrix", "flatten the row before a dense layer")
    if weights is None or weights.ndim != 2 or _attribute(node, "transA", 0):
        raise wrong
    weights = weights.astype(np.float64)
    if _attribute(node, "transB", 0):
        weights = weights.T
    weights = weights * _attribute(node, "alpha", 1.0)
    fixed = np.zeros(weights.shape[1])
    if bias is not None:
        fixed = _of_a_row(bias, fixed.shape) * _attribute(node, "beta", 1.0)
    if len(given.shape) == 1:
        return given.dense(weights, fixed)
    if isinstance(given, Sums) or node.op_type != "MatMul" or not given.shape:
        raise wrong
    *cells, channels = given.shape
    found = given.moved(lambda v: v.reshape(-1, 1, channels)).conv(weights[None, None], fixed, (1, 1), (0, 0, 0, 0))
    return found.moved(lambda v: v.reshape(*cells, -1))


def _conv(node: onnx.NodeProto, given: Value | Sums, weights: np.ndarray, bias: np.ndarray | None = None) -> Sums:
    """A convolution with constant weights (M', C / groups, kh, kw) or (M', C / groups, k): groups and dilations become zeros in its kernel."""
    if isinstance(given, Sums):
        raise NotHeld("a convolution after another layer without a ReLU between them", "put a ReLU between them")
    if weights is None or weights.ndim not in (3, 4) or len(given.shape) != weights.ndim - 1:
        raise NotHeld("a convolution that has neither one nor two dimensions")
    axes = weights.ndim - 2
    groups, stride = _attribute(node, "group", 1), _attribute(node, "strides", [1] * axes)
    dilations, pads = _attribute(node, "dilations", [1] * axes), _attribute(node, "pads", [0] * 2 * axes)
    outputs, fixed = len(weights), np.zeros(len(weights)) if bias is None else bias.astype(np.float64)
    kernel = [(k - 1) * d + 1 for k, d in zip(weights.shape[2:], dilations, strict=True)]
    whole = np.zeros((*kernel, given.shape[0], outputs))
    for group in range(groups):
        inside, of = weights.shape[1], slice(group * outputs // groups, (group + 1) * outputs // groups)
        places = tuple(slice(None, None, d) for d in dilations)
        whole[(*places, slice(group * inside, (group + 1) * inside), of)] = np.moveaxis(weights[of].astype(np.float64), (0, 1), (-1, -2))
    if axes == 1:  # a map one cell wide
        whole, stride, pads = whole[:, None], [*stride, 1], [pads[0], 0, pads[1], 0]
        found = given.moved(lambda v: v.T[:, None, :]).conv(whole, fixed, tuple(stride), tuple(pads))
        return found.moved(lambda v: v[:, 0, :].T)
    found = given.moved(lambda v: v.transpose(1, 2, 0)).conv(whole, fixed, tuple(stride), tuple(pads))
    return found.moved(lambda v: v.transpose(2, 0, 1))


def _as_map(given: Value | Sums) -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    """A value (C, H, W) or (C, L) as (H, W, C), with H = L and W = 1, and the way back."""
    if len(given.shape) == 2:
        return given.moved(lambda v: v.T[:, None, :]), lambda v: v[:, 0, :].T
    return given.moved(lambda v: v.transpose(1, 2, 0)), lambda v: v.transpose(2, 0, 1)


def _window(node: onnx.NodeProto, given: Value | Sums, what: str, function: str) -> tuple[int, int]:
    """The window of a pooling node, which must not overlap with others; (n, 1) in one dimension."""
    window = _attribute(node, "kernel_shape", [])
    if len(window) not in (1, 2) or len(given.shape) != len(window) + 1:
        raise NotHeld(f"a {what} that has neither one nor two dimensions")
    ceiled = _attribute(node, "ceil_mode", 0) and any(n % w for n, w in zip(given.shape[1:], window, strict=True))
    if (_attribute(node, "strides", [1] * len(window)) != window or any(_attribute(node, "pads", [0])) or ceiled
            or any(d != 1 for d in _attribute(node, "dilations", [1])) or any(n < w for n, w in zip(given.shape[1:], window, strict=True))):
        raise NotHeld(f"a {what} over windows that overlap, or with zeros around the map",
                      f"give {function} strides as large as its windows, and padding VALID")
    return window[0], (*window, 1)[1]


def _pooled(node: onnx.NodeProto, given: Value | Sums) -> Value | Sums:
    window = _window(node, given, "mean", "avg_pool")
    found, back = _as_map(given)
    return found.pooled(window).moved(back)


def _reduced(node: onnx.NodeProto, given: Value | Sums, constants: list[np.ndarray | None]) -> Value | Sums:
    """A mean or sum over whole axes of a row: a mean over one window."""
    rank = len(given.shape)
    axes = constants[0].tolist() if constants and constants[0] is not None else _attribute(node, "axes", list(range(rank + 1)))
    gone = sorted(axis - 1 if axis > 0 else axis + rank for axis in axes)
    if min(gone, default=-1) < 0 or 0 in axes or len(gone) not in (1, 2):
        raise NotHeld("a mean or sum over other axes than one or two of a row")
    kept = [axis for axis in range(rank) if axis not in gone]
    height, width = ([given.shape[axis] for axis in gone] + [1])[:2]
    after = tuple(1 if axis in gone else given.shape[axis] for axis in range(rank)) if _attribute(node, "keepdims", 1) else tuple(
        given.shape[axis] for axis in kept)
    found = given.moved(lambda v: v.transpose(*gone, *kept).reshape(height, width, -1)).pooled((height, width))
    found = found.moved(lambda v: v.reshape(after))
    return found if node.op_type == "ReduceMean" else found.times(np.full(after, float(height * width)))


def _move(node: onnx.NodeProto, constants: list[np.ndarray | None]) -> Callable[[np.ndarray], np.ndarray]:
    """What a node that only lays entries out anew does to an array of a row. Raises NotHeld where it mixes rows."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    if node.op_type == "Identity" or (node.op_type == "Cast" and _attribute(node, "to", 0) in floats):
        return lambda v: v
    first = [v for v in constants if v is not None]

    def of_batch(v: np.ndarray) -> np.ndarray:
        if node.op_type == "Flatten" and _attribute(node, "axis", 1) == 1:
            return v.reshape(2, -1)
        if node.op_type == "Reshape" and first:
            return v.reshape([v.shape[i] if n == 0 else int(n) for i, n in enumerate(first[0].tolist())])
        if node.op_type == "Squeeze" and first:
            return v.squeeze(tuple(first[0].tolist()))
        if node.op_type == "Unsqueeze" and first:
            return np.expand_dims(v, tuple(first[0].tolist()))
        if node.op_type == "Transpose":
            return v.transpose(_attribute(node, "perm", list(range(v.ndim))[::-1]))
        if node.op_type == "Gather" and first and _attribute(node, "axis", 0) % v.ndim:
            return np.take(v, first[0], axis=_attribute(node, "axis", 0))
        if node.op_type == "Slice" and len(first) >= 2:
            starts, ends = first[:2]
            axes, steps = ((constants + [None, None])[2:4])
            cut = [slice(None)] * v.ndim
            for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
                axis, step = (i if axes is None else int(axes[i])), (1 if steps is None else int(steps[i]))
                cut[axis] = slice(start, None if step < 0 and end < -v.shape[axis] else end, step)
            return v[tuple(cut)]
        raise NotHeld("is none of these")

    def move(v: np.ndarray) -> np.ndarray:
        rows = np.arange(2).reshape(2, *[1] * v.ndim)
        try:
            whose = of_batch(np.broadcast_to(rows, (2, *v.shape)))
            found = of_batch(np.stack([v, v]))
        except ValueError:
            raise NotHeld("is none of these") from None
        if whose.shape[:1] != (2,) or not (whose == np.arange(2).reshape(2, *[1] * (whose.ndim - 1))).all():
            raise NotHeld("is none of these")
        return found[0]

    return move


def _of_a_row(constant: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A constant as it stands for a row's value of this shape; NotHeld where it is another for another row, or makes rows larger."""
    value = constant.astype(np.float64)
    if value.ndim == len(shape) + 1:
        if value.shape[0] != 1 and not np.array_equal(value, np.broadcast_to(value[:1], value.shape), equal_nan=True):
            raise NotHeld("a constant that differs between the rows of a batch")
        value = value[0]
    if value.ndim > len(shape) or np.broadcast_shapes(value.shape, shape) != shape:
        raise NotHeld("a constant that makes rows larger")
    return np.broadcast_to(value, shape)


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
