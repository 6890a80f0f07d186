"""Ids among float inputs: a table's rows chosen by a product with one-hot vectors.

Where a model has several inputs of different types, a row is float32 (``datasets.py``), and its ids are cast to integers where the
model begins. ezkl 23.0.5 keeps such a cast at the input's scale, so that the Gather behind it takes 2^scale times the id. For
a whole number x the vector relu(1 - |x - k|) over k = 0 .. V - 1 is one-hot to the last bit at any scale, and its product with the
table (V, ...) is the table's row x. Of a number that is no id it makes something else than Gather. Rows have none that is not whole:
ids come as integers, also from ``--input`` (``datasets.py``). An id outside of the table gets zeros, where Gather takes another row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def one_hot_ids(document: bytes) -> bytes:
    """The document with every Gather from a constant table (V, E), by whole numbers that come as floats, as a product."""
    import onnx

    model = onnx.load_from_string(document)
    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    types = _types(model)
    nodes, changed = [], False
    for node in graph.node:
        source = _float_source(node, tables, makers, types) if node.op_type == "Gather" else None
        if source is None:
            nodes.append(node)
            continue
        made, constants = _product(node, source, len(onnx.numpy_helper.to_array(tables[node.input[0]])))
        nodes += made
        graph.initializer.extend(constants)
        changed = True
    if not changed:
        return document
    del graph.node[:]
    graph.node.extend(_used(nodes, {value.name for value in graph.output}))
    return model.SerializeToString(deterministic=True)


def _float_source(node: onnx.NodeProto, tables: dict[str, onnx.TensorProto], makers: dict[str, onnx.NodeProto],
                  types: dict[str, int]) -> str | None:
    """The float value whose casts are the ids of a Gather from a constant 2-D table along its rows; None for any other."""
    import onnx

    table = tables.get(node.input[0])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if table is None or axis != 0 or len(table.dims) != 2 or table.data_type != onnx.TensorProto.FLOAT:
        return None
    name = node.input[1]
    while (maker := makers.get(name)) is not None and maker.op_type in ("Cast", "Identity", "Round", "Floor"):
        name = maker.input[0]
    return name if name != node.input[1] and types.get(name) == onnx.TensorProto.FLOAT else None


def _product(node: onnx.NodeProto, ids: str, count: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes for the rows of a table (count, E) chosen by ``ids`` (...), and their constants."""
    import onnx

    make, out = onnx.helper.make_node, node.output[0]
    arrays = {f"{out}_last": np.array([-1], np.int64), f"{out}_every": np.arange(count, dtype=np.float32),
              f"{out}_one": np.array([1], np.float32)}
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    last, every, one = arrays
    wide, apart, far, near, hot = (f"{out}_{part}" for part in ("wide", "apart", "far", "near", "hot"))
    return [
        make("Unsqueeze", [ids, last], [wide], name=wide),
        make("Sub", [wide, every], [apart], name=apart),
        make("Abs", [apart], [far], name=far),
        make("Sub", [one, far], [near], name=near),
        make("Relu", [near], [hot], name=hot),
        make("MatMul", [hot, node.input[0]], [out], name=node.name or out),
    ], constants


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value that has a known one."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}


def _used(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that an output needs, in their order: without the casts that nothing reads any more."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]
