"""What in an exported model cannot be proved, or is proved only with care, and what to change.

From measurements with ezkl 23.0.5 and jax2onnx 0.17: each line is of a node that compiled to nothing, or
to another function. What is proved as another
function is rewritten (``onnx_steps.py``), and what only shows in numbers is found by comparing outputs (``tolerance.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


#: Fractional bits where no scale is known yet: what the plan often comes to.
USUAL_SCALE = 10

#: Nodes between an epsilon and the division that it guards.
_TO_DIVISOR = {"Add", "Max", "Sqrt", "Expand", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze", "Clip"}


@dataclass(frozen=True)
class Advice:
    """``what`` is the node's type and name, ``refused`` whether no circuit can hold it."""

    what: str
    refused: bool
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.instead}"


#: ONNX operator to why it is refused, and what to do instead; loops, conditions and random numbers do not get here
#: (``onnx_canonical.UNPROVABLE``).
_REFUSED = {
    "Tile": ("jnp.tile", "use jnp.concatenate([x] * n, axis=1)"),
    "Mod": ("jnp.mod (%)", "use x - m * jnp.floor(x / m)"),
    "DFT": ("a Fourier transform", "multiply by the matrices of its cosines and sines (np.fft.rfft(np.eye(n)), .real and .imag)"),
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


def advise(document: bytes, scale: int = USUAL_SCALE) -> list[Advice]:
    """Advice on the nodes of an ONNX document, refusals first. scale: fractional bits of its constants, where known."""
    import onnx

    graph = onnx.load_from_string(document).graph
    found = []
    for number, node in enumerate(graph.node):
        what = f"{node.op_type} (node {number} of {len(graph.node)})"
        if node.op_type in _REFUSED:
            found.append(Advice(what, True, *_REFUSED[node.op_type]))
        elif node.op_type in _CARE:
            found.append(Advice(what, False, *_CARE[node.op_type]))
        elif _dilated(node):
            found.append(Advice(what, True, "a dilated convolution", "use a larger kernel with zeros, or strides"))
    found += _lost_guards(graph, scale)
    return sorted(found, key=lambda a: not a.refused)


def refusals(document: bytes) -> str:
    """What cannot be proved in a document, as the beginning of an error; "" for nothing."""
    return "".join(f"{advice}. " for advice in advise(document) if advice.refused)


def _lost_guards(graph: onnx.GraphProto, scale: int) -> list[Advice]:
    """Divisions whose divisor is kept from 0 by a constant that is 0 at this scale, as Flax's norms export them.

    The divisor is followed back from the division through sums, maxima and roots.
    """
    import onnx

    constants = {t.name: t for t in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    found: dict[float, list[str]] = {}

    def constant(name: str) -> float:
        """The largest absolute value of a constant; NaN for what is none."""
        if name in constants:
            return float(abs(onnx.numpy_helper.to_array(constants[name]).astype(float)).max(initial=0.0))
        node = maker.get(name)
        return constant(node.input[0]) if node is not None and node.op_type in ("Cast", "CastLike", "Expand", "Reshape") else math.nan

    for number, node in enumerate(graph.node):
        name, guards = {"Div": 1, "Reciprocal": 0, "Pow": 0}.get(node.op_type), []
        if name is None or (node.op_type == "Pow" and not _negative(constants.get(node.input[1]))):
            continue
        walk = maker.get(node.input[name])
        while walk is not None and walk.op_type in _TO_DIVISOR:
            further = walk.input[0]
            if walk.op_type in ("Add", "Max"):
                sizes = [(size, other) for one, other in (list(walk.input), list(walk.input)[::-1]) if (size := constant(one)) > 0]
                if sizes:
                    guards.append(sizes[0][0])
                    further = sizes[0][1]
            walk = maker.get(further)
        if guards and max(guards) < 2.0 ** -(scale + 1):
            found.setdefault(max(guards), []).append(f"{node.op_type} (node {number} of {len(graph.node)}")
    return [
        Advice(
            f"{nodes[0]}{f', and {len(nodes) - 1} more' * (len(nodes) > 1)})", False,
            f"its epsilon {guard:.2g} is 0 at {scale} bits of scale, so a row of equal values, or of values far below 1, is divided "
            "by 0 and has no witness",
            "give an epsilon of 1e-3 or more (nnx.LayerNorm(n, epsilon=1e-3)), keep such rows out and others about unit size",
        )
        for guard, nodes in found.items()
    ]


def _negative(exponent: onnx.TensorProto | None) -> bool:
    """Whether a constant exponent makes a division of a power."""
    import onnx

    return exponent is not None and bool((onnx.numpy_helper.to_array(exponent) < 0).all())


def _dilated(node: onnx.NodeProto) -> bool:
    return node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool") and any(
        a.name == "dilations" and any(n != 1 for n in a.ints) for a in node.attribute)
