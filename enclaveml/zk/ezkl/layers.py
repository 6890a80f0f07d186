"""Where a circuit's cost sits: rows, lookups and Freivalds' cells of each node, by settings of cut graphs.

ezkl tells what a whole circuit needs. A graph cut off after a node needs what comes before it, so the
difference of two cuts is what lies between them. How many lookups that takes ezkl doesn't tell; they are counted by what
legs more add, ``LEG_ROWS``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from enclaveml.errors import ProofError
from enclaveml.zk import process
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.plan import Choice

if TYPE_CHECKING:
    import onnx

#: Graphs of more nodes than this are cut at every n-th node, so that checking stays a matter of seconds.
MOST_CUTS = 64

#: Rows of one column that a value's decomposition takes more with one leg more: the digit, its place in the sum and its check (ezkl
#: 23.0.5; ``tests/test_check.py`` counts ReLUs, products and maxima by it).
LEG_ROWS = 3

#: Legs more that are counted by: one graph's rows differ by one or two from call to call (where constants are placed), of 9 a value.
MORE_LEGS = 3


@dataclass(frozen=True)
class Layer:
    """Nodes between two cuts. ``rows`` of the circuit at B rows of data, ``tables`` new lookup or range
    tables, ``einsum`` cells of Freivalds' argument, ``shape`` of the value at the cut (without the batch).

    lookups: how many digits, signs and values of functions are held to a table; small checks beside a quotient or root are left out.
    weights: of which of the model's modules they have weights, by name; of none: "after" the nearest before. slice: which they lie in, from
    1; 0 where the model is not cut.
    """

    name: str
    shape: tuple[int, ...]
    rows: int
    tables: int
    einsum: int
    lookups: int = 0
    weights: str = ""
    slice: int = 0


def layers(bench: Bench, choice: Choice, document: bytes, modules: Mapping[str, str] = {}) -> list[Layer]:
    """The layers of a document at the choice's batch, in its order; those that cost nothing are joined to the next.

    modules: as ``modules_of`` has them. Cuts that ezkl does not take alone (an index, say) are passed over.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(document))
    shapes = {v.name: v for v in (*model.graph.value_info, *model.graph.output)}
    constants = {t.name for t in model.graph.initializer}
    start = 0
    step = -(-len(model.graph.node) // MOST_CUTS)
    found: list[Layer] = []
    before: dict[str, Any] = {"rows": 0, "tables": 0, "einsum": 0, "digits": 0}
    names: list[str] = []
    through: dict[str, int] = {}
    for number, node in enumerate(model.graph.node):
        names.append(node.op_type)
        value = shapes.get(node.output[0])
        if value is not None:
            through[node.op_type] = through.get(node.op_type, 0) + _size(value)
        last = number == len(model.graph.node) - 1
        if not last and (number % step or value is None or all(name in constants for name in node.input)):
            continue
        needs = _needs(bench, choice, _cut(model, number, value) if not last else document)
        if needs is None or (needs["rows"] <= before["rows"] and needs["einsum"] <= before["einsum"] and not last):
            continue
        dims = () if value is None else tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]
        looked_up = sum(count for op, count in through.items() if ("Exp" if op == "Softmax" else op) in needs["functions"])
        found.append(Layer(" ".join(names), dims, *(max(0, needs[k] - before[k]) for k in ("rows", "tables", "einsum")),
                           max(0, needs["digits"] - before["digits"]) + looked_up,
                           _told(model, range(start, number + 1), modules)))
        before, names, through, start = needs, [], {}, number + 1
    return found


def _size(value: onnx.ValueInfoProto) -> int:
    """How many numbers a value is."""
    return int(np.prod([d.dim_value for d in value.type.tensor_type.shape.dim], dtype=np.int64))


def modules_of(document: bytes, weights: Mapping[str, Any]) -> dict[str, str]:
    """Of each node of a canonical document the model's module whose weights it takes, in whatever order they lie; of one that takes none
    "after" and the nearest before it; "" where there is none. By the name of their first output, after which what is made of them is named."""
    import onnx
    from onnx import numpy_helper

    known: dict[bytes, str] = {}
    for name, values in weights.items():
        if np.size(values) > 1 and np.asarray(values).any():
            known.setdefault(_likeness(np.asarray(values)), name.rpartition(".")[0] or name)
    graph = onnx.load_from_string(document).graph
    given = {t.name: known.get(_likeness(numpy_helper.to_array(t)), "") for t in graph.initializer if np.prod(t.dims) > 1} if known else {}
    nearest: dict[str, str] = {}
    found: dict[str, str] = {}
    for node in graph.node:
        own = ", ".join(dict.fromkeys(given[name] for name in node.input if given.get(name)))
        before = next((nearest[name] for name in node.input if nearest.get(name)), "")
        if node.op_type == "BatchNormalization" and own and before:  # folded into the layer before
            own = f"{before}, {own}"
        nearest |= dict.fromkeys(node.output, own or before)
        found[node.output[0]] = own or (f"after {before}" if before else "")
    return found


def _likeness(values: np.ndarray) -> bytes:
    """What an array keeps where it is transposed, reshaped or padded."""
    return np.unique(np.abs(values.astype(np.float32))).tobytes()


def _told(model: onnx.ModelProto, nodes: range, modules: Mapping[str, str]) -> str:
    """The modules of these nodes of a document, which were made of those nodes of the canonical one that their values are named after."""
    made = [name for at in nodes for name in re.findall(r"value_\d+_\d+", " ".join(model.graph.node[at].output))]
    told = [modules[name] for name in made if name in modules] or list(modules.values())[-1:]  # the output has a name of its own
    own = ", ".join(dict.fromkeys(each for each in told if each and not each.startswith("after ")))
    return own or (told[-1] if told else "")


def _needs(bench: Bench, choice: Choice, document: bytes) -> dict[str, Any] | None:
    """What a graph needs; None where ezkl does not take it."""
    path = bench.scratch.write("cut.onnx", document)
    try:
        settings = _settings(bench, choice, path)
        # With several inner columns a row holds several cells and some are left empty: counted in one.
        one = settings if choice.inner == 1 else _settings(bench, replace(choice, inner=1), path)
        more = _settings(bench, replace(choice, inner=1, legs=choice.legs + MORE_LEGS), path)
    except ProofError:
        return None
    decompositions = round((more["num_rows"] - one["num_rows"]) / (LEG_ROWS * MORE_LEGS))
    return {
        "rows": settings["num_rows"],
        "tables": len(settings["required_lookups"]) + len(settings["required_range_checks"]),
        "einsum": settings["einsum_params"]["total_einsum_col_size"],
        "digits": decompositions * (choice.legs + 1),  # and a sign
        "functions": {name for each in settings["required_lookups"] for name in each},
    }


def _settings(bench: Bench, choice: Choice, path: str) -> dict[str, Any]:
    """ezkl's settings of a graph. Raises ProofError where ezkl does not take it."""
    reply = process.wait(bench.child, "settings", bench.timeout_s, model=path, output=str(bench.scratch.file("cut.json")),
                         run_args=choice.run_args(bench.inputs, bench.outputs))
    settings = reply.value["settings"]
    return json.loads(settings) if isinstance(settings, str) else settings


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
