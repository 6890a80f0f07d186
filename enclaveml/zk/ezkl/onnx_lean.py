"""A cheaper graph for the same function: ReLU as (x + |x|) / 2, the half folded into the next weights.

In ezkl 23.0.5 a ReLU takes 16 cells at two legs of decomposition, an absolute value 11 and an addition
1, and activations dominate a circuit whose matrix products use Freivalds' argument: an MLP 64-32-10
needs 500 cells a row instead of 628. Halving weights is exact in floating point; in fixed point it
costs them one bit, which the circuit plan sees when it compares sample rows.

The graph is rewritten after the model was hashed: ``model_hash`` is that of the canonical document,
and the circuit made from the lean one is held against the float model like any other.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

#: Nodes through which a positive factor passes unchanged (f(2x) = 2 f(x)), by their first input alone.
_HOMOGENEOUS = {
    "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "AveragePool",
    "GlobalAveragePool", "GlobalMaxPool", "ReduceMean",
}

#: Nodes that are linear in their first input, with the weights as their second.
_LINEAR = {"Gemm", "MatMul", "Conv"}


def lean(document: bytes) -> bytes:
    """An ONNX document of the same function with cheaper ReLUs, where their factor can be folded away."""
    import onnx

    model = onnx.load_from_string(document)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for value in graph.output}
    halved: set[str] = set()
    nodes = []
    for node in graph.node:
        absorbing = _absorbing(node.output[0], readers, tensors, outputs) if node.op_type == "Relu" else None
        if not absorbing:
            nodes.append(node)
            continue
        (value,), result = node.input, node.output[0]
        nodes.append(onnx.helper.make_node("Abs", [value], [f"{result}_abs"], name=f"{node.name}_abs"))
        nodes.append(onnx.helper.make_node("Add", [value, f"{result}_abs"], [result], name=node.name))
        for reader in absorbing:
            name = f"{reader.input[1]}_half"
            if name not in halved:
                weights = onnx.numpy_helper.to_array(tensors[reader.input[1]])
                graph.initializer.append(onnx.numpy_helper.from_array(weights * np.float32(0.5), name))
                halved.add(name)
            reader.input[1] = name
    if not halved:
        return document
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model.SerializeToString(deterministic=True)


def _absorbing(
    name: str, readers: dict[str, list[onnx.NodeProto]], tensors: dict[str, onnx.TensorProto],
    outputs: set[str],
) -> list[onnx.NodeProto] | None:
    """The linear nodes that take up a factor of the value ``name``; None if a path from it has none."""
    if name in outputs or not readers[name]:
        return None
    found: list[onnx.NodeProto] = []
    for node in readers[name]:
        if name in list(node.input)[1:]:
            return None
        if node.op_type in _LINEAR:
            weights = tensors.get(node.input[1])
            if weights is None or weights.data_type != 1:  # FLOAT
                return None
            found.append(node)
        elif node.op_type in _HOMOGENEOUS and len(node.output) == 1:
            further = _absorbing(node.output[0], readers, tensors, outputs)
            if further is None:
                return None
            found += further
        else:
            return None
    return found
