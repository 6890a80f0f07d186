"""``enclaveml check``: what it predicts is what a circuit needs, and what it refuses cannot be proved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from enclaveml.check import check
from enclaveml.zk.ezkl.advice import advise
from tests.small_job import BUNDLE, TOLERANCE, write_small_job

MODELS = '''
from flax import nnx
import jax, jax.numpy as jnp

class Two(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(6, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)
    def __call__(self, x):
        hidden = jnp.maximum(self.a(x), 0)
        return {"classes": hidden, "value": self.b(hidden)}

class Dilated(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 2, kernel_size=(3,), kernel_dilation=(2,), padding="VALID", rngs=rngs)
    def __call__(self, x):
        return self.conv(x[:, :, None]).reshape(x.shape[0], -1)

class Loops(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Linear(6, 6, rngs=rngs)
    def __call__(self, x):
        return jax.lax.fori_loop(0, 3, lambda i, y: jnp.maximum(self.a(y), 0), x)
'''

pytestmark = pytest.mark.ezkl


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", str(tmp_path_factory.mktemp("cache")))
        # Another test file may have brought up JAX in this process: it is on the CPU all the same.
        patch.setattr("enclaveml.devices.bind_device", lambda device, local_rank: None)
        yield


def job(folder: Path, name: str) -> Path:
    small = write_small_job(folder, sections={"model": {"flax": f"more.py:{name}", "weights": None}})
    (folder / "more.py").write_text(MODELS)
    return small.path


def told(path: Path, capsys, code: int, *overrides: str) -> dict:
    assert check(path, overrides, ranks=2, as_json=True) == code
    return json.loads(capsys.readouterr().out)


def test_a_model_that_can_be_proved(tmp_path, capsys):
    path = write_small_job(tmp_path).path
    report = told(path, capsys, 0)
    assert report["provable"] and report["refused"] is None and report["rows_per_proof"] == BUNDLE
    (output,) = report["outputs"]
    assert output["onnx_deviation"] < 1e-5 and output["onnx_rows"] == 8
    assert 1e-5 < output["proved_deviation"] <= TOLERANCE, "fixed point is not float"
    assert output["onnx_agreement"] == 1.0 and report["samples"] == 24
    assert report["memory_bytes"] > report["key_bytes"] > 1e5 and report["wall_seconds"] > 0

    assert check(path, ranks=2) == 0
    text = capsys.readouterr().out
    assert text.startswith("the model can be proved\n") and f"Where the cost sits, at {BUNDLE} rows a proof" in text
    assert f"plan: {report['plan']}\n" in text and f"model hash: {report['model_hash']}\n" in text


def test_the_layers_add_up_to_the_circuit(tmp_path, capsys):
    from enclaveml.job import load_job
    from enclaveml.prepare import load_function, request_of
    from enclaveml.zk.ezkl.examine import examine
    from enclaveml.zk.ezkl.system import EzklSystem

    small = load_job(write_small_job(tmp_path).path)
    function, samples, rows = load_function(small)
    request = request_of(small, rows, 2)
    found = examine(function, samples, request, lambda line: None)
    assert [la.name for la in found.layers][-1].split()[-1] in ("Gemm", "Add", "Flatten", "Reshape")
    assert sum("Abs" in la.name or "Relu" in la.name for la in found.layers) == 1
    # What check planned is what prepare sets up, and the layers' rows are all that it has.
    circuit = EzklSystem().prepare(function, samples, request, lambda line: None)
    settings = json.loads((circuit.folder / "settings.json").read_text())
    assert sum(la.rows for la in found.layers) == settings["num_rows"]
    assert sum(la.einsum for la in found.layers) == settings["einsum_params"]["total_einsum_col_size"]
    assert circuit.model_hash == found.model_hash
    assert circuit.deviation == pytest.approx(float(np.abs(found.proved - found.truth).max()))


def test_outputs_are_told_apart(tmp_path, capsys):
    report = told(job(tmp_path, "Two"), capsys, 0, "proof.scale=12")
    assert [(o["output"], o["shape"], o["proved_agreement"] is None) for o in report["outputs"]] == [
        ("classes", [4], False), ("value", [1], True)]


def test_a_dilated_convolution_is_refused_with_advice(tmp_path, capsys):
    report = told(job(tmp_path, "Dilated"), capsys, 2)
    assert not report["provable"] and report["plan"] is None
    (advice,) = [a for a in report["advice"] if a["refused"]]
    assert advice["what"].startswith("Conv (node ")
    assert (advice["why"], advice["instead"]) == ("a dilated convolution", "use a larger kernel with zeros, or strides")


def test_a_loop_is_refused_with_advice(tmp_path, capsys):
    path = job(tmp_path, "Loops")
    report = told(path, capsys, 2)
    assert "must be unrolled in Python" in report["refused"] or "unroll it in Python" in report["refused"]
    assert check(path) == 2
    assert capsys.readouterr().out.startswith("refused: ")


def test_a_tolerance_that_cannot_be_kept_is_told_with_the_figure(tmp_path, capsys):
    report = told(write_small_job(tmp_path).path, capsys, 2, "proof.tolerance=1.0e-7")
    assert "more than proof.tolerance 1e-07" in report["refused"]


def document(*nodes, initializers=(), kind=1) -> bytes:
    from onnx import helper

    graph = helper.make_graph(list(nodes), "g", [helper.make_tensor_value_info("x", kind, [2, 6])],
                              [helper.make_tensor_value_info(nodes[-1].output[0], kind, None)], list(initializers))
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize(("node", "refused", "why"), [
    (("TopK", ["x", "k"], ["y", "i"], {}), True, "top_k or sort"),
    (("Resize", ["x"], ["y"], {}), True, "jax.image.resize"),
    (("Gelu", ["x"], ["y"], {}), True, "Gelu as one node"),
    (("QuantizeLinear", ["x", "s"], ["y"], {}), True, "a quantised model"),
    (("Conv", ["x", "w"], ["y"], {"dilations": [2, 2]}), True, "a dilated convolution"),
    (("LayerNormalization", ["x", "s"], ["y"], {}), False, "its epsilon is 0 in fixed point, so a row of equal values fails"),
])
def test_advice_on_nodes(node, refused, why):
    from onnx import helper

    kind, inputs, outputs, attributes = node
    (advice,) = advise(document(helper.make_node(kind, inputs, outputs, **attributes)))
    assert (advice.refused, advice.why) == (refused, why) and str(advice).startswith(f"{kind} (node 0 of 1): {why}; ")


def test_advice_is_not_given_on_what_works():
    from onnx import helper, numpy_helper

    seven = numpy_helper.from_array(np.array([7], np.int32), "seven")
    fine = [helper.make_node("Conv", ["x", "w"], ["c"], dilations=[1, 1]), helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Equal", ["x", "seven"], ["y"])]
    assert advise(document(*fine, initializers=[seven], kind=6)) == []  # int32 input
    (advice,) = advise(document(*fine, initializers=[seven]))
    assert advice.why == "a float input compared with an integer, which proves another function"
