"""The canonical form of an exported ONNX document: same function, same bytes, nothing ezkl misreads.

What is changed, and why (measured with ezkl 23.0.5):

- Padding is explicit: ``auto_pad=SAME_*`` compiles and proves another function in some graphs.
- Dropout and Identity nodes go: inference does not need them and ezkl refuses Dropout's mask.
- ``value_info``, doc strings, names, producer and metadata go: they are no part of the function, and
  stale shapes in ``value_info`` stop ezkl's shape inference.
- Values and nodes are renamed in order, attributes sorted, tensors stored as raw bytes, unused
  tensors dropped, so equal functions have equal bytes and the document can be hashed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from enclaveml.errors import JobError

if TYPE_CHECKING:
    import onnx

_PADDED = {"Conv", "ConvTranspose", "MaxPool", "AveragePool"}

#: What to do instead of a loop, in the words of a model's author.
UNROLL = "unroll it in Python: for t in range(steps)"

_RANDOM = ("a random number", "leave it out in inference, or draw it before and give it as an input")

#: ONNX operators that no proof system here takes: what they come from, and what to write instead.
UNPROVABLE = {
    "If": ("a condition on data (lax.cond, lax.switch)", "compute both sides and select with jnp.where"),
    "Loop": ("a loop (lax.scan, fori_loop, while_loop, nnx.RNN)", UNROLL),
    "Scan": ("a loop (lax.scan, nnx.RNN)", UNROLL),
    "SequenceMap": ("a loop over a sequence", UNROLL),
    **dict.fromkeys(
        ("RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike", "Multinomial", "Bernoulli"), _RANDOM
    ),
}


def canonical(model: onnx.ModelProto) -> bytes:
    """Deterministic bytes of the model in canonical form (onnx opset as exported).

    Raises JobError for node types that no circuit can hold.
    """
    import onnx
    from onnx import inliner

    if model.functions:
        model = inliner.inline_local_functions(model)
    for node in model.graph.node:
        if node.op_type in UNPROVABLE:
            why, instead = UNPROVABLE[node.op_type]
            raise JobError(f"the model exports to an ONNX {node.op_type} node, {why}, which cannot be proved: {instead}")
    _explicit_pads(model)
    _drop_passthrough(model.graph)
    graph = _renamed(model.graph)
    clean = onnx.ModelProto()
    clean.ir_version = 10
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            clean.opset_import.add(domain="", version=opset.version)
    clean.graph.CopyFrom(graph)
    return clean.SerializeToString(deterministic=True)


def weights_of(document: bytes) -> int:
    """How many floating-point numbers a document's tensors hold."""
    import onnx

    graph = onnx.load_from_string(document).graph
    return sum(math.prod(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((a for a in node.attribute if a.name == name), None)


def _explicit_pads(model: onnx.ModelProto) -> None:
    """Write ``auto_pad`` out as ``pads`` (ONNX Operators, Conv and MaxPool: pad shape formula)."""
    import onnx

    if not any(_attribute(node, "auto_pad") for node in model.graph.node if node.op_type in _PADDED):
        return
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    shapes.update({tensor.name: list(tensor.dims) for tensor in inferred.initializer})
    for node in model.graph.node:
        auto = _attribute(node, "auto_pad") if node.op_type in _PADDED else None
        if auto is None:
            continue
        mode = auto.s.decode()
        node.attribute.remove(auto)
        if mode == "NOTSET":
            continue
        size = shapes[node.input[0]][2:]
        given = _attribute(node, "kernel_shape")
        kernel = list(given.ints) if given else shapes[node.input[1]][2:]
        given = _attribute(node, "strides")
        strides = list(given.ints) if given else [1] * len(size)
        given = _attribute(node, "dilations")
        dilations = list(given.ints) if given else [1] * len(size)
        begin, end = [0] * len(size), [0] * len(size)
        if mode != "VALID":
            for i, n in enumerate(size):
                reach = (kernel[i] - 1) * dilations[i] + 1
                if node.op_type == "ConvTranspose":
                    total = max(reach - strides[i], 0)  # output size is n * stride
                else:
                    total = max((math.ceil(n / strides[i]) - 1) * strides[i] + reach - n, 0)
                small, large = total // 2, total - total // 2
                begin[i], end[i] = (small, large) if mode == "SAME_UPPER" else (large, small)
        old = _attribute(node, "pads")
        if old is not None:
            node.attribute.remove(old)
        node.attribute.append(onnx.helper.make_attribute("pads", begin + end))


def _drop_passthrough(graph: onnx.GraphProto) -> None:
    """Remove Dropout and Identity nodes, joining their readers to what they read."""
    outputs = {value.name for value in graph.output}
    source: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = source.get(name, name)
        if node.op_type in ("Dropout", "Identity") and node.output[0] not in outputs:
            source[node.output[0]] = node.input[0]
        elif node.op_type == "Dropout":  # its output is the graph's: keep the name, lose the mask
            node.op_type = "Identity"
            del node.input[1:], node.output[1:], node.attribute[:]
            kept.append(node)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _renamed(graph: onnx.GraphProto) -> onnx.GraphProto:
    """A graph with the same nodes in the same order under sequential names, and nothing else."""
    import onnx
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    names: dict[str, str] = {"": ""}
    new = onnx.GraphProto(name="model")
    for kind, values, target in (("input", graph.input, new.input), ("output", graph.output, new.output)):
        for i, value in enumerate(v for v in values if v.name not in tensors):
            names[value.name] = f"{kind}_{i}"
            target.add(name=names[value.name]).type.CopyFrom(value.type)
    used = 0
    for i, node in enumerate(graph.node):
        for name in node.input:
            if name in names:
                continue
            tensor = numpy_helper.from_array(numpy_helper.to_array(tensors[name]), f"tensor_{used}")
            names[name], used = tensor.name, used + 1
            new.initializer.append(tensor)
        for j, name in enumerate(node.output):
            names.setdefault(name, f"value_{i}_{j}")
        copy = new.node.add(op_type=node.op_type, domain=node.domain, name=f"node_{i}")
        copy.input.extend(names[name] for name in node.input)
        copy.output.extend(names[name] for name in node.output)
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            kept = copy.attribute.add()
            kept.CopyFrom(attribute)
            kept.ClearField("doc_string")
            if kept.HasField("t"):
                kept.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t), ""))
    return new
