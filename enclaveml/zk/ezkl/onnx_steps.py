"""Comparisons and casts that ezkl 23.0.5 compiles to another function, written as ones that it compiles to the same.

Measured on float rows, at every scale:

- ``Equal`` gives 1 without the scale that its readers take it to have, so a ``Cast`` of it to float, or the model's own
  output, is 2^-scale where it should be 1. ``Not`` gives 1 at the scale: it is put behind twice.
- ``Cast`` from float to an integer rounds down, where JAX and ONNX cut off: -1.25 became -2. The value is cut off before,
  by Ceil below 0 and Floor above.
- ``Cast`` to bool leaves the value as it is. It becomes the value's being other than 0.

A model whose rows are integers has no scale and none of this; it is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from enclaveml.zk.ezkl.onnx_products import attributes

if TYPE_CHECKING:
    import onnx

#: Nodes that give whole numbers (of float type), which an integer cast leaves as they are.
_WHOLE = {"Floor", "Ceil", "Round", "Sign"}


def steps(document: bytes) -> bytes:
    """The document with its comparisons for equality and its casts to integers and bool rewritten."""
    import onnx

    model = onnx.load_from_string(document)
    graph = model.graph
    if not any(node.op_type in ("Equal", "Cast") for node in graph.node):
        return document
    if graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        return document
    types = _types(model)
    maker = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        made: list[onnx.NodeProto] = []
        if node.op_type == "Equal" and any(name in types for name in node.input):
            made = _told_twice(node)
        elif node.op_type == "Cast":
            made = _cast(node, types.get(node.input[0], 0), maker.get(node.input[0]), graph)
        nodes += made or [node]
    if len(nodes) == len(graph.node):
        return document
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString(deterministic=True)


def _told_twice(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Equal, and Not of Not of it."""
    import onnx

    (result,) = node.output
    make, bare, other = onnx.helper.make_node, f"{result}_bare", f"{result}_other"
    return [make("Equal", list(node.input), [bare], name=bare), make("Not", [bare], [other], name=other),
            make("Not", [other], [result], name=node.name or result)]


def _cast(node: onnx.NodeProto, kind: int, maker: onnx.NodeProto | None, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes for a Cast of a value of that type, made by that node; none where it is right as it is."""
    import onnx

    to, (value,), (result,) = attributes(node)["to"], node.input, node.output
    data, make = onnx.TensorProto, onnx.helper.make_node
    zero = f"{result}_zero"
    if to == data.BOOL and kind in (data.FLOAT, data.INT32, data.INT64):
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, onnx.helper.tensor_dtype_to_np_dtype(kind)), zero))
        same = f"{result}_same"
        return [make("Equal", [value, zero], [same], name=same), make("Not", [same], [result], name=node.name or result)]
    whole = maker is not None and maker.op_type in _WHOLE
    if to not in (data.INT8, data.INT16, data.INT32, data.INT64) or kind != data.FLOAT or whole:
        return []
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), zero))
    below, up, down, cut = (f"{result}_{part}" for part in ("below", "up", "down", "cut"))
    return [
        make("Less", [value, zero], [below], name=below),
        make("Ceil", [value], [up], name=up),
        make("Floor", [value], [down], name=down),
        make("Where", [below, up, down], [cut], name=cut),
        make("Cast", [cut], [result], name=node.name or result, to=to),
    ]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value that depends on the rows, where it is known."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    reached = {graph.input[0].name}
    for node in graph.node:
        if reached & set(node.input) and node.op_type != "Shape":
            reached |= set(node.output)
    return {name: kinds.get(name, 0) for name in reached}
