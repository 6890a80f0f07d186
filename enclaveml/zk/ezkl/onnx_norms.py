"""A cheaper graph for the same function: a BatchNorm as part of the convolution or matrix product before it.

In inference a BatchNorm is one factor and one addition a channel. As nodes of their own they cost a product and
a division for every value (47 cells at two legs of decomposition in ezkl 23.0.5, where an absolute value costs
11), and they make each value's scale grow once more between divisions. In the weights before them they cost
nothing. Factors are multiplied in float64 and rounded to float32 once; the circuit is held against the float
model like any other.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from enclaveml.zk.ezkl.onnx_products import attributes, drop_unused

if TYPE_CHECKING:
    import onnx


def fold_norms(document: bytes) -> bytes:
    """The document with each BatchNorm that is the only reader of a convolution or matrix product made part of it."""
    import onnx

    model = onnx.load_from_string(document)
    graph = model.graph
    if not any(node.op_type == "BatchNormalization" for node in graph.node):
        return document
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    maker = {name: node for node in graph.node for name in node.output}
    for norm in list(graph.node):
        before = maker.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if before is None or readers[before.output[0]] > 1 or not _folds(before, norm, tensors):
            continue
        weights, *bias = (onnx.numpy_helper.to_array(tensors[name]).astype(np.float64) for name in before.input[1:])
        gain, offset, mean, variance = (
            onnx.numpy_helper.to_array(tensors[name]).astype(np.float64) for name in norm.input[1:5]
        )
        factor = gain / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
        axis = _output_axis(before)
        shape = [1] * weights.ndim
        shape[axis] = -1
        folded = {
            "weights": weights * factor.reshape(shape),
            "bias": ((bias[0] if bias else 0.0) - mean) * factor + offset,
        }
        for name, value in folded.items():
            graph.initializer.append(
                onnx.numpy_helper.from_array(value.astype(np.float32), f"{norm.output[0]}_folded_{name}")
            )
        made = onnx.helper.make_node(
            "Conv" if before.op_type == "Conv" else "Gemm",
            [before.input[0], *(f"{norm.output[0]}_folded_{name}" for name in folded)], list(norm.output), name=before.name,
            **(attributes(before) if before.op_type != "MatMul" else {}),
        )
        before.CopyFrom(made)
        maker[norm.output[0]] = before
        graph.node.remove(norm)
    drop_unused(graph)
    return model.SerializeToString(deterministic=True)


def _output_axis(node: onnx.NodeProto) -> int:
    """The axis of a node's weights that its outputs' channels are."""
    return 0 if node.op_type == "Conv" or attributes(node).get("transB") else 1


def _folds(node: onnx.NodeProto, norm: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node is linear, with constant float32 weights, one output channel for each of the norm's."""
    constants = [*list(node.input)[1:], *list(norm.input)[1:]]
    if node.op_type not in ("Conv", "Gemm", "MatMul") or any(name not in tensors for name in constants):
        return False
    found, weights = attributes(node), tensors[node.input[1]]
    plain = node.op_type != "Gemm" or (
        not found.get("transA") and found.get("alpha", 1.0) == 1.0 and found.get("beta", 1.0) == 1.0
    )
    flat = node.op_type == "Conv" or len(weights.dims) == 2
    channels = list(tensors[norm.input[1]].dims)
    bias = [list(tensors[name].dims) for name in list(node.input)[2:]]
    return (
        plain and flat and weights.data_type == 1  # FLOAT
        and [weights.dims[_output_axis(node)]] == channels and all(dims == channels for dims in bias)
    )
