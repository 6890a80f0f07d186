"""``enclaveml check``: what it predicts is what a circuit needs, and what it refuses cannot be proved."""

from __future__ import annotations

import contextlib
import json
import re
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

class Normed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 2, kernel_size=(3,), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(2, use_running_average=True, rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)
    def __call__(self, x):
        hidden = jnp.maximum(self.norm(self.conv(x[:, :, None])), 0)
        return self.out(hidden.reshape(x.shape[0], -1))

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
    # What check planned is what prepare sets up, and the layers' rows are all that it has: of one model ezkl itself counts a row or two more or less
    # from call to call.
    circuit = EzklSystem().prepare(function, samples, request, lambda line: None)
    settings = json.loads((circuit.folder / "settings.json").read_text())
    assert sum(la.rows for la in found.layers) == pytest.approx(settings["num_rows"], abs=2)
    assert sum(la.einsum for la in found.layers) == settings["einsum_params"]["total_einsum_col_size"]
    assert circuit.model_hash == found.model_hash
    assert circuit.deviation == pytest.approx(float(np.abs(found.proved - found.truth).max()))


def test_a_layer_is_told_by_the_weights_that_it_has(tmp_path, capsys):
    """Whatever order they lie in, and whatever was folded into them."""
    path = job(tmp_path, "Normed")
    report = told(path, capsys, 0, "proof.scale=10", "proof.tolerance=0.5", "proof.agreement=0")
    by = {la["weights"]: la for la in report["layers"] if la["lookups"]}
    assert list(by) == ["after conv, norm"]
    legs = int(re.search(r"decomposition=\d+\^(\d+)", report["plan"])[1])
    assert by["after conv, norm"]["lookups"] == report["layers_at"] * 4 * 2 * (legs + 1), "each digit of each ReLU, and its sign"
    assert {la["weights"] for la in report["layers"]} >= {"conv, norm", "out"}
    assert check(path, ["proof.scale=10", "proof.tolerance=0.5", "proof.agreement=0"], ranks=2) == 0
    assert re.search(r"^weights of +nodes +value +circuit rows +% +lookups +new tables +einsum cells$", capsys.readouterr().out, re.M)


def test_of_a_model_in_slices_each_layers_slice_is_told_with_what_a_slice_costs(tmp_path, capsys):
    path = job(tmp_path, "Two")
    given = ["proof.scale=12", "proof.slices=2"]
    report = told(path, capsys, 0, *given)
    assert {(la["slice"], la["weights"]) for la in report["layers"]} >= {(1, "a"), (2, "b")}
    assert report["layers"] == sorted(report["layers"], key=lambda la: -la["rows"]) and len(report["slice_key_bytes"]) == 2
    assert sum(report["slice_cpu_seconds_a_proof"]) == pytest.approx(report["cpu_seconds_a_proof"])
    assert check(path, given, ranks=2) == 0
    text = capsys.readouterr().out
    assert re.search(r"^slice +weights of +nodes ", text, re.M) and re.search(r"^2 +b +", text, re.M)
    assert len(re.findall(r"^plan, slice [12] of 2: B=.*; [0-9.]+ CPU s a proof, key [0-9,]+ MB$", text, re.M)) == 2


LOOKED_UP = {  # by kind: nodes from x (2, 4) to y, decompositions and values of functions
    "a ReLU each": (("Relu", ["x"], {}), 8, 0),
    "three comparisons for a maximum of four": (("ReduceMax", ["x"], {"axes": [1]}), 2 * 3, 0),
    "a product rescaled": (("Mul", ["x", "x"], {}), 8 * 3, 0),
    "a function": (("Sigmoid", ["x"], {}), 0, 8),
}


@pytest.mark.parametrize("which", LOOKED_UP)
def test_lookups_are_counted_as_ezkl_lays_them_out(which, tmp_path):
    """Of what is known to be laid out: 4 digits and a sign of each value that is decomposed, one of each value that a function gives."""
    import onnx
    from onnx import TensorProto, helper

    from enclaveml.zk import process
    from enclaveml.zk.ezkl.bench import Bench
    from enclaveml.zk.ezkl.layers import layers
    from enclaveml.zk.ezkl.plan import Choice, Numerics
    from enclaveml.zk.ezkl.program import EZKL
    from enclaveml.zk.interface import ModelFunction
    from enclaveml.zk.scratch import Scratch

    (op, given, more), decomposed, looked_up = LOOKED_UP[which]
    shape = [2, 1] if op == "ReduceMax" else [2, 4]
    document = helper.make_model(helper.make_graph(
        [helper.make_node(op, given, ["y"], **more)], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(document)
    with contextlib.closing(process.Child(EZKL, 1)) as child, contextlib.closing(Scratch()) as scratch:
        bench = Bench(ModelFunction(lambda x: x, (4,)), "public", child, scratch)
        choice = Choice(Numerics(scale=8, multiplier=1, input_scale=8), base=128, legs=4, inner=2, logrows=14, rows=2, lookup=(-2000, 2000))
        (found,) = layers(bench, choice, document.SerializeToString())
    assert found.lookups == decomposed * 5 + looked_up


def test_outputs_are_told_apart(tmp_path, capsys):
    report = told(job(tmp_path, "Two"), capsys, 0, "proof.scale=12")
    assert [(o["output"], o["shape"], o["proved_agreement"] is None) for o in report["outputs"]] == [
        ("classes", [4], False), ("value", [1], True)]


def test_a_dilated_convolution_is_refused_with_advice(tmp_path, capsys):
    report = told(job(tmp_path, "Dilated"), capsys, 2)
    assert not report["provable"] and report["plan"] is None
    assert report["refused"].startswith("Conv (node ") and "a dilated convolution; use a larger kernel with zeros" in report["refused"]
    (advice,) = [a for a in report["advice"] if a["refused"]]
    assert advice["what"].startswith("Conv (node ")
    assert (advice["why"], advice["instead"]) == ("a dilated convolution", "use a larger kernel with zeros, or strides")
    assert check(tmp_path / "job.yaml", ranks=2) == 2
    assert capsys.readouterr().out.count("a dilated convolution") == 1, "it is said once"


def test_a_loop_is_refused_with_advice(tmp_path, capsys):
    path = job(tmp_path, "Loops")
    report = told(path, capsys, 2)
    assert report["refused"] == (
        "the model exports to an ONNX Loop node, a loop (lax.scan, fori_loop, while_loop, nnx.RNN), which cannot be proved: unroll it in "
        "Python: for t in range(steps)")
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
    (("Tile", ["x", "k"], ["y"], {}), True, "jnp.tile"),
    (("Mod", ["x", "k"], ["y"], {}), True, "jnp.mod (%)"),
    (("DFT", ["x", "k"], ["y"], {}), True, "a Fourier transform"),
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
    assert advise(document(*fine, initializers=[seven])) == []


def norms():
    """Layers that divide by a root, as Flax's users have them, and what each one's epsilon is."""
    import jax
    import jax.numpy as jnp
    from flax import linen, nnx

    def applied(layer, shape):
        variables = layer.init(jax.random.key(0), jnp.zeros((1, *shape)))
        return lambda x: layer.apply(variables, x)

    rngs = nnx.Rngs(0)
    return {
        "nnx.LayerNorm": ((6,), nnx.LayerNorm(6, rngs=rngs), "1e-06"), "nnx.RMSNorm": ((6,), nnx.RMSNorm(6, rngs=rngs), "1e-06"),
        "linen.LayerNorm": ((6,), applied(linen.LayerNorm(), (6,)), "1e-06"),
        "nnx.GroupNorm": ((4, 4, 2), nnx.GroupNorm(2, num_groups=2, rngs=rngs), "1e-06"),
        "a maximum": ((6,), lambda x: x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12)), "1e-12"),
        "a sum behind the root": ((6,), lambda x: x / (jnp.sqrt((x * x).sum(-1, keepdims=True)) + 1e-8), "1e-08"),
        "epsilon 1e-3": ((6,), nnx.LayerNorm(6, epsilon=1e-3, rngs=rngs), None),
        "no norm": ((6,), lambda x: x / (1.0 + jnp.exp(-x)), None),
    }


@pytest.mark.parametrize("name", ["nnx.LayerNorm", "nnx.RMSNorm", "linen.LayerNorm", "nnx.GroupNorm", "a maximum",
                                  "a sum behind the root", "epsilon 1e-3", "no norm"])
def test_an_epsilon_that_fixed_point_loses_is_told(name):
    from enclaveml.zk.export import export
    from enclaveml.zk.interface import ModelFunction

    shape, layer, epsilon = norms()[name]
    found = [a for a in advise(export(ModelFunction(layer, shape), 2), 10) if "epsilon" in a.why]
    if epsilon is None:
        assert found == []
    else:
        (advice,) = found
        assert advice.what.startswith("Div (node ") and not advice.refused and advice.why == (
            f"its epsilon {epsilon} is 0 at 10 bits of scale, so a row of equal values, or of values far below 1, is divided by 0 and "
            "has no witness")


def test_two_norms_are_told_together_and_a_finer_scale_keeps_the_epsilon():
    from flax import nnx

    from enclaveml.zk.export import export
    from enclaveml.zk.interface import ModelFunction

    one, two = (nnx.LayerNorm(6, epsilon=1e-4, rngs=nnx.Rngs(0)) for _ in range(2))
    exported = export(ModelFunction(lambda x: two(one(x)), (6,)), 2)
    (advice,) = advise(exported, 10)
    assert advice.what.endswith(", and 1 more)") and advise(exported, 13) == []


RNN = """
from flax import nnx

class Rnn(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(1, 3, rngs=rngs))
    def __call__(self, x):
        return self.rnn(x[:, :, None])[:, -1]
"""


def test_a_loop_of_flax_is_refused_with_what_to_do(tmp_path):
    from enclaveml.errors import JobError

    path = job(tmp_path, "Rnn")
    (tmp_path / "more.py").write_text(RNN)
    with pytest.raises(JobError, match="a loop of Flax's \\(nnx.RNN, nnx.scan\\) cannot be proved: unroll it in Python: for t in range\\(steps\\)"):
        check(path)


def test_the_tolerance_told_is_the_runs(tmp_path, capsys):
    """Scale 7 is off by more than the default: what a run would set is told, and that it is more."""
    path = write_small_job(tmp_path, sections={"proof": {"tolerance": None, "scale": 7, "agreement": 0.0}}).path
    assert check(path, ranks=2) == 0
    text = capsys.readouterr().out
    tolerance = re.search(r"\(ONNX on 8; tolerance ([0-9.]+), twice what these rows need: MORE THAN THE DEFAULT 0.01\):", text)
    off = re.search(r"\noutput +\(3,\) .* ([0-9.]+) +[01]\.[0-9]{4}\n", text)
    assert tolerance and off and 2 * float(off[1]) * 0.99 <= float(tolerance[1]) <= 2.3 * float(off[1]) and float(off[1]) > 0.005

