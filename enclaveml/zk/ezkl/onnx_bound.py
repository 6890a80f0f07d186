"""Inputs that the circuit bounds itself: a graph of the same function in which each input passes a range check.

ezkl 23.0.5 checks no range of committed or hashed inputs: field elements that stand for no number give
any output that a forger solves for (``tests/test_audit_forgery.py``). Here the input x becomes
(x + f(x)) - f(x), equal to x in fixed point to the last bit, with an f that the circuit cannot compute
without bounding x:

- ``table``: f is tanh, a lookup, so x is in the table's range. Three cells an input, and a table as long as
  twice the range of the sample rows. For inputs of few bits.
- ``legs``: f is the absolute value, whose decomposition holds \\|x\\| < base^legs. Thirteen cells an input.

What was measured on the digits MLP (2^13 rows, 3 blocks of 2 columns, CPU s a row): unbounded 0.135, ``table``
0.185, ``legs`` 0.339; ReLU(x) - ReLU(-x) takes twice the cells of ``legs``; f's values as further columns of the first
product with weights 0, which saves a cell an input, 0.190 and more, since Freivalds' argument grows.
Neither tract nor ezkl cancels the sum; registration tries a value beyond the bound all the same (``bench.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: How a circuit bounds its inputs; "" where it does not.
BOUNDS = ("table", "legs")

_FUNCTION = {"table": "Tanh", "legs": "Abs"}


def bounded(document: bytes, bound: str) -> bytes:
    """The document with its inputs bounded in that way; ``bound`` "" changes nothing.

    ``table`` needs float inputs. Raises ValueError for a bound that is none.
    """
    if not bound:
        return document
    if bound not in BOUNDS:
        raise ValueError(f"bound is {bound!r}; allowed: {', '.join(BOUNDS)}")
    import onnx

    model = onnx.load_from_string(document)
    graph = model.graph
    checks = []
    for value in graph.input:
        checked, aside, moved = (f"{value.name}_{part}" for part in ("bounded", "aside", "moved"))
        for node in graph.node:
            for i, name in enumerate(node.input):
                if name == value.name:
                    node.input[i] = checked
        checks += [
            onnx.helper.make_node(_FUNCTION[bound], [value.name], [aside], name=aside),
            onnx.helper.make_node("Add", [value.name, aside], [moved], name=moved),
            onnx.helper.make_node("Sub", [moved, aside], [checked], name=checked),
        ]
    nodes = [*checks, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString(deterministic=True)


def least_cells(bound: str, legs: int) -> int:
    """The cells that bounding one input takes at least: a lookup or a decomposition, and the sum and difference."""
    return 3 if bound == "table" else 2 + 3 * legs


def largest_input(bound: str, run_args: Mapping[str, Any]) -> int:
    """The largest magnitude, in fixed point, that a bounded input can have (``run_args`` as ezkl's settings have them)."""
    if bound == "table":
        low, high = run_args["lookup_range"]
        return max(-int(low), int(high))
    return int(run_args["decomp_base"]) ** int(run_args["decomp_legs"]) - 1
