"""Where a circuit's cost sits: rows, lookups and Freivalds' cells of each node, by settings of cut graphs.

ezkl tells what a whole circuit needs. A graph cut off after a node needs what comes before it, so the
difference of two cuts is what lies between them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enclaveml.errors import ProofError
from enclaveml.zk import process
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.plan import Choice

if TYPE_CHECKING:
    import onnx

#: Graphs of more nodes than this are cut at every n-th node, so that checking stays a matter of seconds.
MOST_CUTS = 64


@dataclass(frozen=True)
class Layer:
    """Nodes between two cuts. ``rows`` of the circuit at B rows of data, ``tables`` new lookup or range
    tables, ``einsum`` cells of Freivalds' argument, ``shape`` of the value at the cut (without the batch)."""

    name: str
    shape: tuple[int, ...]
    rows: int
    tables: int
    einsum: int


def layers(bench: Bench, choice: Choice, document: bytes) -> list[Layer]:
    """The layers of a document at the choice's batch, in its order; those that cost nothing are joined to the next.

    Cuts that ezkl does not take alone (an index, say) are passed over.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(document))
    shapes = {v.name: v for v in (*model.graph.value_info, *model.graph.output)}
    constants = {t.name for t in model.graph.initializer}
    step = -(-len(model.graph.node) // MOST_CUTS)
    found: list[Layer] = []
    before: dict[str, Any] = {"rows": 0, "tables": 0, "einsum": 0}
    names: list[str] = []
    for number, node in enumerate(model.graph.node):
        names.append(node.op_type)
        last = number == len(model.graph.node) - 1
        value = shapes.get(node.output[0])
        if not last and (number % step or value is None or all(name in constants for name in node.input)):
            continue
        needs = _needs(bench, choice, _cut(model, number, value) if not last else document)
        if needs is None or (needs["rows"] <= before["rows"] and needs["einsum"] <= before["einsum"] and not last):
            continue
        dims = () if value is None else tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
        found.append(Layer(" ".join(names), dims, *(max(0, needs[k] - before[k]) for k in ("rows", "tables", "einsum"))))
        before, names = needs, []
    return found


def _needs(bench: Bench, choice: Choice, document: bytes) -> dict[str, int] | None:
    """What a graph needs; None where ezkl does not take it."""
    try:
        reply = process.wait(
            bench.child, "settings", bench.timeout_s, model=bench.scratch.write("cut.onnx", document),
            output=str(bench.scratch.file("cut.json")), run_args=choice.run_args(bench.inputs, bench.outputs),
        )
    except ProofError:
        return None
    settings = reply.value["settings"]
    settings = json.loads(settings) if isinstance(settings, str) else settings
    return {
        "rows": settings["num_rows"],
        "tables": len(settings["required_lookups"]) + len(settings["required_range_checks"]),
        "einsum": settings["einsum_params"]["total_einsum_col_size"],
    }


def _cut(model: onnx.ModelProto, number: int, value: onnx.ValueInfoProto) -> bytes:
    """The document up to a node, whose first output becomes the graph's."""
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    nodes = list(model.graph.node)[: number + 1]
    needed, kept = {value.name}, []
    for node in reversed(nodes):  # only what leads to the value: a branch beside it costs nothing here
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    del cut.graph.node[:], cut.graph.output[:], cut.graph.value_info[:], cut.graph.initializer[:]
    cut.graph.node.extend(reversed(kept))
    cut.graph.output.append(value)
    cut.graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    return cut.SerializeToString(deterministic=True)
