"""The integer model of a batch proof: from an exported graph, its arithmetic against Python's integers, and what it is held to."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaveml.errors import JobError
from enclaveml.zk.batch import calibrate as calibrate_module
from enclaveml.zk.batch import integer
from enclaveml.zk.batch.calibrate import calibrate, exact_bits
from enclaveml.zk.batch.float_model import FloatLayer
from enclaveml.zk.batch.float_model import run as run_floats
from enclaveml.zk.batch.format import P
from enclaveml.zk.batch.graph import float_layers
from enclaveml.zk.batch.integer import BIAS_HIGH, BIAS_LOW, IntegerModel, layer
from enclaveml.zk.batch.quantise import Measured, measure, refuse, tolerance_of
from enclaveml.zk.interface import CircuitRequest

RNG = np.random.default_rng(3)


def small(seed: int = 0, low: int = -20, high: int = 40) -> IntegerModel:
    """Three layers of whole numbers, 5-4-3-2."""
    rng = np.random.default_rng(seed)
    sizes, shifts = (5, 4, 3, 2), (6, 9, 0)
    layers = tuple(layer(rng.integers(-128, 128, (k, m)), rng.integers(-40_000, 40_000, m), s)
                   for k, m, s in zip(sizes, sizes[1:], shifts, strict=False))
    return IntegerModel(layers, 3, 5, low, high)


def by_hand(model: IntegerModel, x: list[int]) -> list[int]:
    """What PROTOCOL.md's statement says, in Python's integers, one value at a time."""
    a = x
    for number, each in enumerate(model.layers):
        rows, z = each.matrix.tolist(), []
        for j in range(each.matrix.shape[1]):
            z.append(sum(v * w[j] for v, w in zip([*a, 1, 256, 65536], rows, strict=True)))
        if number == len(model.layers) - 1:
            return z
        a = [min(max((v + 2 ** (each.shift - 1)) >> each.shift, 0), 255) for v in z]
    raise AssertionError


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(-20, 40), min_size=5, max_size=5))
def test_the_reference_is_the_protocols_arithmetic(seed: int, x: list[int]) -> None:
    model = small(seed)
    assert model.run(np.array([x]))[0].tolist() == by_hand(model, x)


def test_halves_are_rounded_up_and_values_are_cut_at_255() -> None:
    identity = layer(np.array([[1]]), np.array([0]), 2)
    model = IntegerModel((identity, layer(np.array([[1]]), np.array([0]), 0)), 0, 0, -2000, 2000)
    x = np.array([[1], [2], [5], [6], [-2], [-3], [1017], [1018], [1021], [1022], [1100]])
    assert model.run(x)[:, 0].tolist() == [0, 1, 1, 2, 0, 0, 254, 255, 255, 255, 255]


@given(st.lists(st.integers(BIAS_LOW, BIAS_HIGH), min_size=1, max_size=20))
def test_three_limbs_say_a_bias(values: list[int]) -> None:
    made = layer(np.zeros((1, len(values))), np.array(values), 1)
    assert made.matrix.dtype == np.int8 and made.bias.tolist() == values


def test_what_no_limbs_or_int8_can_say_is_refused() -> None:
    for weights, bias in ((np.array([[128]]), np.array([0])), (np.array([[0]]), np.array([BIAS_HIGH + 1])),
                          (np.array([[0]]), np.array([BIAS_LOW - 1]))):
        with pytest.raises(ValueError, match="int8|limbs"):
            layer(weights, bias, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_the_range_bits_are_the_least_that_hold_every_input(seed: int) -> None:
    model = small(seed)
    seen = []
    rng = np.random.default_rng(seed)
    corners = np.concatenate([rng.choice([-20, 40], (300, 5)), np.where(model.layers[0].weights.T > 0, 40, -20),
                              np.where(model.layers[0].weights.T > 0, -20, 40)])
    arrays = [corners]
    for number, each in enumerate(model.layers[:-1], 1):
        q = integer.rescale(each.sums(number, arrays), each.shift)
        seen.append((int(q.min()), int(q.max())))
        arrays.append(np.clip(q, 0, 255))
    bits = model.range_bits
    assert all(-(2**bits) <= low and high < 2**bits for low, high in seen)
    first = IntegerModel((model.layers[0], layer(np.zeros((4, 1)), np.zeros(1), 0)), 3, 5, -20, 40)
    low, high = seen[0]
    assert low < -(2 ** (first.range_bits - 1)) or high >= 2 ** (first.range_bits - 1)


@pytest.mark.parametrize("inputs", [1, 30, 784, 32768])
def test_the_largest_input_is_the_protocols(inputs: int) -> None:
    most = integer.largest_input(inputs)
    bound = [inputs * 128 * m + 128 * (1 + 2**8 + 2**16) < P // 2 for m in (most, most + 1)]
    assert bound == [True, most == 2**15 - 1]


def test_rows_out_of_range_have_no_witness() -> None:
    model = small()
    x = model.quantise(np.array([[5.0, -2.5, 0, 0, 0], [5.125, 0, 0, 0, 0], [np.nan] * 5, [1e30, 0, 0, 0, 0]]))
    assert model.within(x).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match=re.escape("an input is out of [-20, 40]")):
        model.run(x)


# -- from the graph ----------------------------------------------------------------


def document(nodes: list, shape: tuple[int, ...] = (2, 4), outputs: int = 2, **tensors: np.ndarray) -> bytes:
    """An ONNX document of batch 2 from ``input`` to ``output``."""
    import onnx
    from onnx import helper, numpy_helper

    made = [helper.make_node(op, inputs, [out], **attributes) for op, inputs, out, attributes in nodes]
    graph = helper.make_graph(
        made, "model", [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, (2, outputs))],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def run(dense: tuple[FloatLayer, ...], x: np.ndarray) -> np.ndarray:
    for each in dense[:-1]:
        x = np.maximum(x @ each.weights + each.bias, 0)
    return x @ dense[-1].weights + dense[-1].bias


W, B = RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=3).astype(np.float32)
V, C = RNG.normal(size=(3, 2)).astype(np.float32), RNG.normal(size=2).astype(np.float32)


def test_gemm_matmul_and_what_is_folded() -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    mean, std = RNG.normal(size=(1, 2, 2)).astype(np.float32), np.float32(1.7)
    made = document([
        ("Sub", ["input", "mean"], "a", {}), ("Div", ["a", "std"], "b", {}), ("Reshape", ["b", "flat"], "c", {}),
        ("MatMul", ["c", "w"], "d", {}), ("Add", ["bias", "d"], "e", {}), ("Relu", ["e"], "f", {}),
        ("Mul", ["f", "three"], "g", {}), ("Gemm", ["g", "v", "c2"], "h", {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        ("Gemm", ["h", "u"], "i", {}), ("Sub", ["one", "i"], "output", {}),
    ], (2, 2, 2), mean=mean, std=std, flat=np.array([2, -1]), w=W, bias=B, three=np.float32(3), v=V.T.copy(), c2=C,
        u=np.array([[1, 2], [3, -4]], np.float32), one=np.ones(2, np.float32))
    dense = float_layers(made)
    assert [each.weights.shape for each in dense] == [(4, 3), (3, 2)]
    x = RNG.normal(size=(2, 2, 2)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(onnx.load_from_string(made)).run(None, {"input": x})
    assert np.allclose(run(dense, x.reshape(2, -1).astype(np.float64)), wanted, atol=1e-5)


HOLDS = ("a batch proof holds dense layers and convolutions (one- or two-dimensional), ReLU after them, means over windows without overlap, residual "
         "sums, concatenations, BatchNorm, products and sums with constants, flatten, reshape and transpose")


@pytest.mark.parametrize(("nodes", "text"), [
    ([("Gemm", ["input", "w"], "a", {}), ("Softmax", ["a"], "output", {})],
     f"node 1 of 2, Softmax: is none of these; {HOLDS}. Leave the softmax out and give the logits: the class is the same "
     "(combine.input: logits). proof.system: ezkl proves more kinds of layers"),
    ([("Transpose", ["input"], "a", {}), ("MaxPool", ["a"], "output", {})],  # the maximum is what matters
     f"node 1 of 2, MaxPool: is none of these; {HOLDS}. Use means (nnx.avg_pool) or strides in the place of maxima. "
     "proof.system: ezkl proves more kinds of layers"),
    ([("Gemm", ["input", "w"], "a", {}), ("Relu", ["a"], "output", {})],
     f"the last node: is a ReLU, not a dense layer; {HOLDS}. Leave it out of the model: outputs keep their sign. "
     "proof.system: ezkl proves more kinds of layers"),
    ([("Relu", ["input"], "a", {}), ("Gemm", ["a", "w"], "output", {})],
     f"node 0 of 2, Relu: a ReLU with no dense layer before it; {HOLDS}. Put a dense layer before it. "
     "proof.system: ezkl proves more kinds of layers"),
    ([("Gemm", ["input", "w"], "a", {}), ("Relu", ["a"], "b", {}), ("Mul", ["a", "b"], "output", {})],
     f"node 2 of 3, Mul: a product of two values of a row; {HOLDS}. proof.system: ezkl proves more kinds of layers"),
    ([("Cast", ["input"], "a", {"to": 6}), ("Gemm", ["a", "w"], "output", {})],
     f"node 0 of 2, Cast: is none of these; {HOLDS}. proof.system: ezkl proves more kinds of layers"),
    ([("Add", ["input", "rows"], "a", {}), ("Gemm", ["a", "w"], "output", {})],
     f"node 0 of 2, Add: a constant that differs between the rows of a batch; {HOLDS}. proof.system: ezkl proves more kinds of layers"),
])
def test_what_no_batch_proof_holds_is_refused_with_advice(nodes: list, text: str) -> None:
    with pytest.raises(JobError) as caught:
        float_layers(document(nodes, outputs=3, w=W, rows=RNG.normal(size=(2, 4)).astype(np.float32)))
    assert str(caught.value) == text


# -- scales ------------------------------------------------------------------------


def mlp(sizes: tuple[int, ...], seed: int = 1) -> list[FloatLayer]:
    rng = np.random.default_rng(seed)
    return [FloatLayer(rng.normal(size=(k, m)) * np.sqrt(2 / k), 0.1 * rng.normal(size=m)) for k, m in zip(sizes, sizes[1:], strict=False)]


def test_exact_inputs_are_found() -> None:
    rows = RNG.integers(0, 17, (40, 6)).astype(np.float32)
    assert [exact_bits(rows / 2**n) for n in (0, 4, 8)] == [0, 4, 8] and exact_bits(rows / 1000 + 0.3) is None
    dense = mlp((6, 8, 3))
    model = calibrate(dense, rows / 16, run(tuple(dense), rows / 16))
    assert model.input_scale == 4 and model.input_low == -model.input_high and model.input_high >= 32
    assert (model.quantise(rows / 16) == rows).all()


@pytest.mark.parametrize("sizes", [(3, 2), (6, 8, 3), (20, 32, 16, 16, 4)])
def test_the_integer_model_is_near_the_float_model(sizes: tuple[int, ...]) -> None:
    rows = np.random.default_rng(8).normal(size=(200, sizes[0])).astype(np.float32)
    dense = mlp(sizes)
    truth = run(tuple(dense), rows.astype(np.float64))
    model = calibrate(dense, rows, truth)
    assert integer.fits(model) == "" and model.key(1 << 14, (bytes(32),) * len(model.layers)).outputs == sizes[-1]
    found = measure(model, rows, truth)
    assert found.deviation < 0.04 * np.abs(truth).max() and found.agreement > 0.95
    fresh = np.random.default_rng(9).normal(size=(2000, sizes[0])).astype(np.float32)
    beyond = np.abs(model.outputs(fresh) - run(tuple(dense), fresh.astype(np.float64))).max()
    assert beyond < tolerance_of(CircuitRequest(), found.deviation)


def test_channels_of_very_different_sizes_are_equalised(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = mlp((10, 12, 3))
    sizes = 2.0 ** np.arange(-4, 4, 8 / 12)
    skewed = [FloatLayer(dense[0].weights * sizes, dense[0].bias * sizes), FloatLayer(dense[1].weights / sizes[:, None], dense[1].bias)]
    rows = np.random.default_rng(4).normal(size=(100, 10)).astype(np.float32)
    truth = run(tuple(dense), rows.astype(np.float64))
    with_it = measure(calibrate(skewed, rows, truth), rows, truth).deviation
    monkeypatch.setattr(calibrate_module, "_equalised", lambda dense, rows, by: list(dense))
    assert with_it < measure(calibrate(skewed, rows, truth), rows, truth).deviation / 2


def test_the_job_s_tolerance_and_agreement_are_kept() -> None:
    refuse(Measured(0.1, 0.99), CircuitRequest(tolerance=0.1, agreement=0.99))
    with pytest.raises(JobError, match=re.escape("deviates by 0.11 on the sample rows, more than proof.tolerance 0.1; raise it, or")):
        refuse(Measured(0.11, 1.0), CircuitRequest(tolerance=0.1))
    with pytest.raises(JobError, match=re.escape("argmax on 0.9800 of the sample rows, less than proof.agreement 0.995; lower it, or")):
        refuse(Measured(0.1, 0.98), CircuitRequest())
    with pytest.raises(JobError, match="deviates by nan"):
        refuse(Measured(float("nan"), 1.0), CircuitRequest(tolerance=0.1))
    assert [tolerance_of(CircuitRequest(), d) for d in (0.1603, 0.0, 7.0)] == pytest.approx([0.49, 1e-6, 21.0])
    assert tolerance_of(CircuitRequest(tolerance=0.5), 0.1) == 0.5


def test_a_flax_model_of_the_repository_is_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main job's: what its log would say."""
    from pathlib import Path

    from enclaveml.job import load_job
    from enclaveml.prepare import load_model
    from enclaveml.zk.batch.quantise import quantise
    from enclaveml.zk.rows import float_outputs

    # Another test file may have brought up JAX in this process: it is on the CPU all the same.
    monkeypatch.setattr("enclaveml.devices.bind_device", lambda device, local_rank: None)
    model, rows, _ = load_model(load_job(Path(__file__).resolve().parents[1] / "jobs/digits/job.yaml"))
    found = quantise(model.function, rows, CircuitRequest())
    assert found.weights == 64 * 32 + 32 + 32 * 10 + 10 and found.model.input_scale == 4
    assert found.measured.deviation < 0.25 and found.measured.agreement >= 0.995 and found.tolerance < 0.5
    assert measure(found.model, rows, float_outputs(model.function, rows, 64)) == found.measured


def test_rounding_errors_are_made_good_by_later_inputs() -> None:
    """Correlated inputs: what one weight's rounding adds, others take away; every weight stays int8."""
    rng = np.random.default_rng(2)
    a = np.rint(rng.normal(size=(200, 4)) @ rng.normal(size=(4, 24)) * 30 + 40)
    weights = rng.uniform(-127, 127, (24, 6))
    plain, found = np.rint(weights), calibrate_module._compensated(weights, a)
    assert (found == np.rint(found)).all() and found.min() >= -128 and found.max() <= 127
    assert np.square(a @ (found - weights)).mean() < 0.2 * np.square(a @ (plain - weights)).mean()
