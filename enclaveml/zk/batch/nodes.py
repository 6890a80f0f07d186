"""What single ONNX nodes do to the values of a row (``algebra``): products, convolutions, pooling, reductions, and laying entries out anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from enclaveml.zk.batch.algebra import NotHeld, Sums, Value

if TYPE_CHECKING:
    import onnx

#: Operators that only lay entries out anew.
MOVES = {"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather"}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """A node's attribute, the default where it has none of the name."""
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def multiplied(node: onnx.NodeProto, given: Value | Sums, weights: np.ndarray, bias: np.ndarray | None = None) -> Sums:
    """A Gemm or MatMul with a constant matrix."""
    wrong = NotHeld("a product that is not one of a row with a constant matrix", "flatten the row before a dense layer")
    if weights is None or weights.ndim != 2 or attribute(node, "transA", 0):
        raise wrong
    weights = weights.astype(np.float64)
    if attribute(node, "transB", 0):
        weights = weights.T
    weights = weights * attribute(node, "alpha", 1.0)
    fixed = np.zeros(weights.shape[1])
    if bias is not None:
        fixed = of_a_row(bias, fixed.shape) * attribute(node, "beta", 1.0)
    if len(given.shape) == 1:
        return given.dense(weights, fixed)
    if isinstance(given, Sums) or node.op_type != "MatMul" or not given.shape:
        raise wrong
    *cells, channels = given.shape
    found = given.moved(lambda v: v.reshape(-1, 1, channels)).conv(weights[None, None], fixed, (1, 1), (0, 0, 0, 0))
    return found.moved(lambda v: v.reshape(*cells, -1))


def written_out(node: onnx.NodeProto) -> None:
    """Refuse zeros around a map that a node's ``auto_pad`` leaves to whoever runs it; the canonical document has none."""
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise NotHeld("zeros around a map that are not written out")


def convolved(node: onnx.NodeProto, given: Value | Sums, weights: np.ndarray, bias: np.ndarray | None = None) -> Sums:
    """A convolution with constant weights (M', C / groups, kh, kw) or (M', C / groups, k): groups and dilations become zeros in its kernel."""
    if isinstance(given, Sums):
        raise NotHeld("a convolution after another layer without a ReLU between them", "put a ReLU between them")
    if weights is None or weights.ndim not in (3, 4) or len(given.shape) != weights.ndim - 1:
        raise NotHeld("a convolution that has neither one nor two dimensions")
    written_out(node)
    axes = weights.ndim - 2
    groups, stride = attribute(node, "group", 1), attribute(node, "strides", [1] * axes)
    dilations, pads = attribute(node, "dilations", [1] * axes), attribute(node, "pads", [0] * 2 * axes)
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


def as_map(given: Value | Sums) -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    """A value (C, H, W) or (C, L) as (H, W, C), with H = L and W = 1, and the way back."""
    if len(given.shape) == 2:
        return given.moved(lambda v: v.T[:, None, :]), lambda v: v[:, 0, :].T
    return given.moved(lambda v: v.transpose(1, 2, 0)), lambda v: v.transpose(2, 0, 1)


def window_of(node: onnx.NodeProto, given: Value | Sums, what: str, function: str) -> tuple[int, int]:
    """The window of a pooling node, which must not overlap with others; (n, 1) in one dimension."""
    written_out(node)
    window = attribute(node, "kernel_shape", [])
    if len(window) not in (1, 2) or len(given.shape) != len(window) + 1:
        raise NotHeld(f"a {what} that has neither one nor two dimensions")
    ceiled = attribute(node, "ceil_mode", 0) and any(n % w for n, w in zip(given.shape[1:], window, strict=True))
    if (attribute(node, "strides", [1] * len(window)) != window or any(attribute(node, "pads", [0])) or ceiled
            or any(d != 1 for d in attribute(node, "dilations", [1])) or any(n < w for n, w in zip(given.shape[1:], window, strict=True))):
        raise NotHeld(f"a {what} over windows that overlap, or with zeros around the map",
                      f"give {function} strides as large as its windows, and padding VALID")
    return window[0], (*window, 1)[1]


def pooled(node: onnx.NodeProto, given: Value | Sums) -> Value | Sums:
    """An AveragePool."""
    window = window_of(node, given, "mean", "avg_pool")
    found, back = as_map(given)
    return found.pooled(window).moved(back)


def reduced(node: onnx.NodeProto, given: Value | Sums, constants: list[np.ndarray | None]) -> Value | Sums:
    """A mean or sum over whole axes of a row: a mean over one window."""
    rank = len(given.shape)
    axes = constants[0].tolist() if constants and constants[0] is not None else attribute(node, "axes", list(range(rank + 1)))
    gone = sorted(axis - 1 if axis > 0 else axis + rank for axis in axes)
    if min(gone, default=-1) < 0 or 0 in axes or len(gone) not in (1, 2):
        raise NotHeld("a mean or sum over other axes than one or two of a row")
    kept = [axis for axis in range(rank) if axis not in gone]
    height, width = ([given.shape[axis] for axis in gone] + [1])[:2]
    after = tuple(1 if axis in gone else given.shape[axis] for axis in range(rank)) if attribute(node, "keepdims", 1) else tuple(
        given.shape[axis] for axis in kept)
    found = given.moved(lambda v: v.transpose(*gone, *kept).reshape(height, width, -1)).pooled((height, width))
    found = found.moved(lambda v: v.reshape(after))
    return found if node.op_type == "ReduceMean" else found.times(np.full(after, float(height * width)))


def mover(node: onnx.NodeProto, constants: list[np.ndarray | None]) -> Callable[[np.ndarray], np.ndarray]:
    """What a node that only lays entries out anew does to an array of a row. Raises NotHeld where it mixes rows."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    if node.op_type == "Identity" or (node.op_type == "Cast" and attribute(node, "to", 0) in floats):
        return lambda v: v
    first = [v for v in constants if v is not None]

    def of_batch(v: np.ndarray) -> np.ndarray:
        if node.op_type == "Flatten" and attribute(node, "axis", 1) == 1:
            return v.reshape(2, -1)
        if node.op_type == "Reshape" and first:
            return v.reshape([v.shape[i] if n == 0 else int(n) for i, n in enumerate(first[0].tolist())])
        if node.op_type == "Squeeze" and first:
            return v.squeeze(tuple(first[0].tolist()))
        if node.op_type == "Unsqueeze" and first:
            return np.expand_dims(v, tuple(first[0].tolist()))
        if node.op_type == "Transpose":
            return v.transpose(attribute(node, "perm", list(range(v.ndim))[::-1]))
        if node.op_type == "Gather" and first and attribute(node, "axis", 0) % v.ndim:
            return np.take(v, first[0], axis=attribute(node, "axis", 0))
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


def of_a_row(constant: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A constant as it stands for a row's value of this shape; NotHeld where it is another for another row, or makes rows larger."""
    value = constant.astype(np.float64)
    if value.ndim == len(shape) + 1:
        if value.shape[0] != 1 and not np.array_equal(value, np.broadcast_to(value[:1], value.shape), equal_nan=True):
            raise NotHeld("a constant that differs between the rows of a batch")
        value = value[0]
    if value.ndim > len(shape) or np.broadcast_shapes(value.shape, shape) != shape:
        raise NotHeld("a constant that makes rows larger")
    return np.broadcast_to(value, shape)


def folded(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], opsets: Any) -> dict[str, np.ndarray]:
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
