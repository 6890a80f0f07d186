"""What in an exported model cannot be proved, or is proved only with care, and what to change.

From measurements with ezkl 23.0.5 and jax2onnx 0.17: each line is of a node that compiled to nothing, or
to another function. What only shows in numbers is found by comparing outputs (``build.measure``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Advice:
    """``what`` is the node's type and name, ``refused`` whether no circuit can hold it."""

    what: str
    refused: bool
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.instead}"


_UNROLL = "unroll it in Python: for t in range(steps)"

#: ONNX operator to why it is refused, and what to do instead.
_REFUSED = {
    "Loop": ("a loop (lax.scan, fori_loop, nnx.RNN)", _UNROLL),
    "Scan": ("a scan (lax.scan, nnx.RNN)", _UNROLL),
    "If": ("a condition on data (lax.cond)", "compute both sides and select with jnp.where"),
    "Resize": ("jax.image.resize", "repeat rows and columns with jnp.repeat, or use a transposed convolution"),
    "Upsample": ("upsampling", "repeat rows and columns with jnp.repeat, or use a transposed convolution"),
    "TopK": ("top_k or sort", "return all outputs, and choose outside the model"),
    "NonZero": ("an output whose size depends on data", "use a mask of fixed size"),
    "LpNormalization": ("division by a norm", "leave the normalisation out, or do it before the model (to the data)"),
    "QuantizeLinear": ("a quantised model", "give the float model: the circuit has fixed point of its own"),
    "DequantizeLinear": ("a quantised model", "give the float model: the circuit has fixed point of its own"),
    "QLinearConv": ("a quantised model", "give the float model: the circuit has fixed point of its own"),
    "MatMulInteger": ("a quantised model", "give the float model: the circuit has fixed point of its own"),
    "Gelu": ("Gelu as one node", "use nnx.gelu(x, approximate=True), which exports as arithmetic"),
}

#: Operators that are proved, and in which something easily goes wrong.
_CARE = {
    "LayerNormalization": ("its epsilon is 0 in fixed point, so a row of equal values fails",
                           "keep such rows out, or give an epsilon of 1e-3 or more"),
    "Sin": ("high frequencies need fine scales", "give proof.scale 14 or more"),
    "Cos": ("high frequencies need fine scales", "give proof.scale 14 or more"),
}


def advise(document: bytes) -> list[Advice]:
    """Advice on the nodes of an ONNX document, refusals first."""
    import onnx

    graph = onnx.load_from_string(document).graph
    integers = {t.name for t in graph.initializer if t.data_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)}
    floats = {v.name for v in graph.input if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    found = []
    for number, node in enumerate(graph.node):
        what = f"{node.op_type} (node {number} of {len(graph.node)})"
        if node.op_type in _REFUSED:
            found.append(Advice(what, True, *_REFUSED[node.op_type]))
        elif node.op_type in _CARE:
            found.append(Advice(what, False, *_CARE[node.op_type]))
        elif _dilated(node):
            found.append(Advice(what, True, "a dilated convolution", "use a larger kernel with zeros, or strides"))
        elif node.op_type == "Equal" and any(n in floats for n in node.input) and any(n in integers for n in node.input):
            found.append(Advice(what, True, "a float input compared with an integer, which proves another function",
                                "give the data as int32"))
    return sorted(found, key=lambda a: not a.refused)


def _dilated(node: onnx.NodeProto) -> bool:
    return node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool") and any(
        a.name == "dilations" and any(n != 1 for n in a.ints) for a in node.attribute)
