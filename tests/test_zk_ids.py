"""Ids among float inputs: a table's rows by one-hot products, the same to the last bit, and proved."""

from __future__ import annotations

import numpy as np
import pytest
from small_job import TOLERANCE, write_small_job
from small_runs import enclaveml, log_of, read

from enclaveml.audit import AuditOptions, audit
from enclaveml.zk.ezkl.onnx_ids import one_hot_ids
from enclaveml.zk.ezkl.onnx_run import run
from tests.test_zk_lean import N, kinds

onnx = pytest.importorskip("onnx")
RNG = np.random.default_rng(4)
TABLE = RNG.normal(size=(6, 3)).astype(np.float32)
INT32, INT64, FLOAT = 6, 7, 1


def document(nodes, kind=FLOAT, table=TABLE) -> bytes:
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("x", kind, [2, 4])],
        [onnx.helper.make_tensor_value_info("y", FLOAT, None)], [onnx.numpy_helper.from_array(table, "t")])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


EMBEDDING = [N("Round", ["x"], ["r"]), N("Cast", ["r"], ["c"], to=INT32), N("Cast", ["c"], ["d"], to=INT64), N("Gather", ["t", "d"], ["y"], axis=0)]


def test_the_rows_of_the_table_to_the_last_bit():
    made = one_hot_ids(document(EMBEDDING))
    assert kinds(made) == ["Unsqueeze", "Sub", "Abs", "Sub", "Relu", "MatMul"]
    ids = np.array([[0, 5, 3, 3], [1, 2, 4, 0]], np.float32)
    assert np.array_equal(run(made, ids), TABLE[ids.astype(int)].reshape(2, -1))


@pytest.mark.parametrize("left", [
    document([N("Cast", ["x"], ["d"], to=INT64), N("Gather", ["t", "d"], ["y"], axis=0)], kind=INT32),  # ids alone: ezkl does them
    document([N("Cast", ["x"], ["d"], to=INT64), N("Gather", ["t", "d"], ["y"], axis=1)]),
    document([N("Cast", ["x"], ["d"], to=INT64), N("Gather", ["t", "d"], ["y"])], table=np.ones((6,), np.float32)),
    document([N("Relu", ["x"], ["y"])]),
])
def test_what_is_left_as_it_is(left):
    assert one_hot_ids(left) is left


def test_casts_that_something_else_reads_stay():
    made = one_hot_ids(document([*EMBEDDING[:3], N("Gather", ["t", "d"], ["g"], axis=0), N("Cast", ["c"], ["f"], to=FLOAT),
                                 N("ReduceSum", ["g"], ["s"], keepdims=0), N("Add", ["f", "s"], ["y"])]))
    assert kinds(made)[:2] == ["Round", "Cast"] and "Gather" not in kinds(made)


MODEL = '''\
import jax.numpy as jnp
from flax import nnx


class Mixed(nnx.Module):
    """Two ids of 5 and two numbers in; two logits and a length out."""

    def __init__(self, *, rngs):
        self.embed = nnx.Embed(5, 3, rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, ids, x):
        found = self.embed(ids)
        return {"logits": self.out(nnx.relu(jnp.concatenate([found.reshape(-1, 6), x], axis=1))), "sum": found.sum((1, 2))}
'''


@pytest.mark.mpi
@pytest.mark.ezkl
def test_a_job_with_inputs_of_two_types(tmp_path):
    """From an .npz with ids beside numbers to verified rows, with the model as its user wrote it."""
    job = write_small_job(tmp_path, 8, {"model": {"flax": "mixed.py:Mixed", "weights": "mixed.npz"}, "input": {
        "path": "both.npz", "key": ["ids", "x"]}, "proof": {"scale": 8}})
    (tmp_path / "mixed.py").write_text(MODEL)
    ids, x = RNG.integers(0, 5, (8, 2)), RNG.uniform(-1, 1, (8, 2)).astype(np.float32)
    weights = {"embed.embedding": RNG.normal(size=(5, 3)), "out.kernel": RNG.normal(size=(8, 2)), "out.bias": RNG.normal(size=2)}
    np.savez(tmp_path / "mixed.npz", **{name: array.astype(np.float32) for name, array in weights.items()})
    np.savez(tmp_path / "both.npz", ids=ids, x=x)
    done = enclaveml(job, ranks=2)
    assert done.returncode == 0, log_of(done)
    found = weights["embed.embedding"][ids]
    logits = np.maximum(np.concatenate([found.reshape(8, 6), x], axis=1), 0) @ weights["out.kernel"] + weights["out.bias"]
    truth = np.concatenate([logits, found.sum((1, 2))[:, None]], axis=1)
    outcome = read(job.results)
    assert outcome.status == "complete" and np.allclose(outcome.outputs, truth, atol=1e-5)
    assert np.abs(outcome.proved - truth).max() <= TOLERANCE
    report = audit(AuditOptions(job.results, inputs=tmp_path / "both.npz", key=("ids", "x")))
    assert (report.exit_code, report.facts["inputs"]) == (0, "2 of 2 proofs checked are about the data given")
