"""A cheaper graph for the same function: ReLU as (x + |x|) / 2, the half folded into the next weights.

In ezkl 23.0.5 a ReLU takes 16 cells at two legs of decomposition, an absolute value 11 and an addition
1, and activations dominate a circuit whose matrix products use Freivalds' argument: an MLP 64-32-10
needs 500 cells a row instead of 628. Halving weights is exact in floating point; in fixed point it
costs them one bit, which the circuit plan sees when it compares sample rows.

Likewise a mean over windows, whose division takes 54 cells an output (2x2 windows): it becomes a sum, one
cell an input, and the factor goes into the next weights.

The graph is rewritten after the model was hashed: ``model_hash`` is that of the canonical document,
and the circuit made from the lean one is held against the float model like any other.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from enclaveml.zk.ezkl.onnx_products import drop_unused, shapes_of, whole_windows

if TYPE_CHECKING:
    import onnx

#: Nodes through which a positive factor passes unchanged (f(2x) = 2 f(x)), by their first input alone.
_HOMOGENEOUS = {
    "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "AveragePool",
    "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum",
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
    shapes = shapes_of(model)
    factors: dict[int, float] = defaultdict(lambda: 1.0)  # of the weights of the node with this id
    nodes = []
    for node in graph.node:
        made, factor = _sum(node, shapes)
        if node.op_type == "Relu":
            made, factor = _relu(node), 0.5
        absorbing = _absorbing(node.output[0], readers, tensors, outputs) if made else None
        if not absorbing:
            nodes.append(node)
            continue
        nodes += [one for one in made if one.op_type != "Constant"]
        graph.initializer.extend(one.attribute[0].t for one in made if one.op_type == "Constant")
        for reader in absorbing:
            factors[id(reader)] *= factor
    if not factors:
        return document
    held = {tensor.name for tensor in graph.initializer}
    for node in nodes:
        if factor := factors.get(id(node)):
            name = f"{node.input[1]}_by_{1 / factor:g}"
            if name not in held:
                weights = onnx.numpy_helper.to_array(tensors[node.input[1]])
                graph.initializer.append(onnx.numpy_helper.from_array(weights * np.float32(factor), name))
                held.add(name)
            node.input[1] = name
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    return model.SerializeToString(deterministic=True)


def _relu(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Twice a ReLU, as x + |x|."""
    import onnx

    (value,), (result,) = node.input, node.output
    return [
        onnx.helper.make_node("Abs", [value], [f"{result}_abs"], name=f"{node.name}_abs"),
        onnx.helper.make_node("Add", [value, f"{result}_abs"], [result], name=node.name),
    ]


def _sum(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> tuple[list[onnx.NodeProto], float]:
    """A mean over windows as their sum, and the factor between them; nothing for any other node."""
    import onnx

    if node.op_type not in ("AveragePool", "GlobalAveragePool") or node.input[0] not in shapes:
        return [], 1.0
    rows, channels, *spatial = shapes[node.input[0]]
    window = whole_windows(node, spatial) if node.op_type == "AveragePool" else spatial
    if window is None:
        return [], 1.0
    (value,), (result,) = node.input, node.output
    parts = [part for size, w in zip(spatial, window, strict=True) for part in (size // w, w)]
    constants = {
        f"{result}_windows_shape": [rows, channels, *parts],
        f"{result}_axes": list(range(3, 3 + 2 * len(window), 2)),
    }
    made = [
        onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.array(held), name))
        for name, held in constants.items()
    ]
    windows, axes = constants
    made += [
        onnx.helper.make_node("Reshape", [value, windows], [f"{result}_windows"], name=f"{result}_windows"),
        onnx.helper.make_node(
            "ReduceSum", [f"{result}_windows", axes], [result], name=node.name or result, keepdims=0
        ),
    ]
    return made, 1.0 / float(np.prod(window))


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
