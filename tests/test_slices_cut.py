"""Where a model may be cut, and into how many slices memory needs."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest

from enclaveml.errors import JobError
from enclaveml.zk import process
from enclaveml.zk.ezkl.layouts import Layouts, TooLarge
from enclaveml.zk.ezkl.onnx_run import run
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.slices.bench import Whole, benches_of
from enclaveml.zk.ezkl.slices.cut import Graph
from enclaveml.zk.ezkl.slices.plan import cut, request_of_slice
from enclaveml.zk.interface import CircuitRequest, ModelFunction
from enclaveml.zk.scratch import Scratch

pytestmark = pytest.mark.ezkl

RNG = np.random.default_rng(3)


def document(nodes, tensors: dict[str, np.ndarray], width: int = 6, batch: int = 2, out: int = 3) -> bytes:
    """An ONNX document of nodes (op, inputs, output), from x (batch, width) to y (batch, out)."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output]) for op, inputs, output in nodes], "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, out])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


WEIGHTS = {"a": RNG.normal(size=(6, 8)), "b": RNG.normal(size=8), "c": RNG.normal(size=(8, 4)), "d": RNG.normal(size=(4, 3)),
           "e": RNG.normal(size=(8, 8))}


def layers(*names: str) -> dict[str, np.ndarray]:
    return {name: WEIGHTS[name] for name in names}


DENSE = document(
    [("MatMul", ["x", "a"], "v1"), ("Add", ["v1", "b"], "v2"), ("Relu", ["v2"], "v3"), ("MatMul", ["v3", "c"], "v4"), ("Relu", ["v4"], "v5"),
     ("MatMul", ["v5", "d"], "y")], layers("a", "b", "c", "d"),
)


def test_a_dense_model_is_cut_before_its_activations_and_not_between_weights_and_bias() -> None:
    graph = Graph(DENSE)
    assert [(place.name, place.width) for place in graph.places] == [("v2", 8), ("v4", 4)]
    assert (graph.names(1), graph.names(2), graph.names(3)) == ([], ["v2"], ["v2", "v4"])


def test_more_slices_than_places() -> None:
    with pytest.raises(JobError) as problem:
        Graph(DENSE).names(4)
    assert str(problem.value) == "proof.slices: the model can be cut into 3 slices at most, 4 are asked for"


def test_no_cut_beside_a_residual_connection() -> None:
    graph = Graph(document(
        [("MatMul", ["x", "a"], "v1"), ("Relu", ["v1"], "v2"), ("MatMul", ["v2", "e"], "v3"), ("Relu", ["v3"], "v4"), ("Add", ["v2", "v4"], "v5"),
         ("MatMul", ["v5", "c"], "v6"), ("MatMul", ["v6", "d"], "y")], layers("a", "c", "d", "e"),
    ))
    assert [place.name for place in graph.places] == ["v1", "v5", "v6"]


def test_slices_give_what_the_whole_gives() -> None:
    rows = RNG.normal(size=(5, 6)).astype(np.float32)
    graph = Graph(DENSE)
    for cuts in (["v2"], ["v4"], ["v2", "v4"]):
        ends, values = ["", *cuts, ""], rows
        for start, end in zip(ends[:-1], ends[1:], strict=True):
            values = run(graph.slice(start, end), values.astype(np.float32))
        assert np.allclose(values, run(DENSE, rows), atol=1e-5)


def test_a_value_that_holds_no_rows_or_is_not_there() -> None:
    graph = Graph(DENSE)
    with pytest.raises(JobError, match="the model cannot be cut at v9 with 2 rows a proof: it is of shape"):
        graph.slice("", "v9")


@pytest.fixture(scope="module")
def bench():
    """A model of three layers, a child and a place for files."""
    import jax

    weights = [RNG.normal(size=shape).astype(np.float32) / 8 for shape in ((64, 96), (96, 64), (64, 10))]

    def apply(x):
        for number, each in enumerate(weights):
            x = x @ each
            x = jax.nn.relu(x) if number < 2 else x
        return x

    rows = RNG.random((4, 64)).astype(np.float32)
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(contextlib.closing(process.Child(EZKL)))
        yield Whole(ModelFunction(apply, (64,))), rows, child, lambda: stack.enter_context(contextlib.closing(Scratch()))


REQUEST = CircuitRequest(slices=None, rows_per_proof=4, scale=10)


def least_gb(bench, count: int) -> float:
    """GB that the largest of so many slices takes at least, by the prediction."""
    whole, rows, child, scratch = bench
    benches = benches_of(whole, whole.graph().names(count), "public", child, [scratch() for _ in range(count)])
    found = []
    for each in benches:
        with pytest.raises(TooLarge) as problem:
            Layouts(each, replace(request_of_slice(REQUEST, each), memory_gb=1e-3), rows).refuse_too_large(10)
        found.append(float(str(problem.value).partition("takes at least ")[2].split()[0]))
    return max(found)


def test_as_few_slices_as_fit_memory(bench) -> None:
    whole, rows, child, scratch = bench
    two, three = least_gb(bench, 2), least_gb(bench, 3)
    assert least_gb(bench, 1) > two >= three
    said: list[str] = []
    for memory, count in ((two * 1.02, 2), (1.0, 2)):
        found = next(cut(whole, rows, replace(REQUEST, memory_gb=memory), child, scratch, said.append))
        assert len(found) == count
        assert said[-1] == f"cut into {count} slices, at {', '.join(each.end for each in found[:-1])}"
    with pytest.raises(TooLarge, match="in 3 slices, the most that this model can be cut into, it is too large all the same: slice 1 of 3: no circuit"):
        next(cut(whole, rows, replace(REQUEST, memory_gb=three / 2), child, scratch, said.append))


def test_slices_asked_for_that_do_not_fit(bench) -> None:
    whole, rows, child, scratch = bench
    with pytest.raises(TooLarge, match=r"slice 1 of 2: no circuit for this model fits 0\.001 GB"):
        next(cut(whole, rows, replace(REQUEST, slices=2, memory_gb=1e-3), child, scratch, lambda line: None))


def test_a_convolutional_model_is_cut_between_its_layers() -> None:
    from onnx import TensorProto, helper, numpy_helper

    kernels = {"k": RNG.normal(size=(3, 1, 3, 3)), "l": RNG.normal(size=(2, 3, 3, 3)), "w": RNG.normal(size=(32, 3))}
    shapes = {"to": np.array([2, 1, 6, 6]), "flat": np.array([2, 32])}
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "to"], ["v0"]), helper.make_node("Conv", ["v0", "k"], ["v1"], pads=[1, 1, 1, 1]),
         helper.make_node("Relu", ["v1"], ["v2"]), helper.make_node("Conv", ["v2", "l"], ["v3"]), helper.make_node("Relu", ["v3"], ["v4"]),
         helper.make_node("Reshape", ["v4", "flat"], ["v5"]), helper.make_node("MatMul", ["v5", "w"], ["y"])], "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 36])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in kernels.items()]
        + [numpy_helper.from_array(v.astype(np.int64), name) for name, v in shapes.items()],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    cuts = Graph(whole)
    assert [(place.name, place.width) for place in cuts.places] == [("v1", 108), ("v3", 32)]
    rows = values = RNG.normal(size=(4, 36)).astype(np.float32)
    for start, end, shape in (("", "v1", (3, 6, 6)), ("v1", "v3", (2, 4, 4)), ("v3", "", (3,))):
        values = run(cuts.slice(start, end), values.astype(np.float32)).reshape(len(rows), *shape)
    assert np.allclose(values, run(whole, rows), atol=1e-4)
