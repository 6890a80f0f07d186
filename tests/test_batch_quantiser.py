"""The integer model of a batch proof: from an exported graph, its arithmetic against Python's integers, and what it is held to."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaveml.errors import JobError
from enclaveml.zk.batch import calibrate as calibrate_module
from enclaveml.zk.batch import compensate, integer, patches
from enclaveml.zk.batch.calibrate import calibrate, exact_bits
from enclaveml.zk.batch.float_model import Activation, FloatLayer
from enclaveml.zk.batch.float_model import run as run_floats
from enclaveml.zk.batch.format import P, Wiring
from enclaveml.zk.batch.integer import BIAS_HIGH, BIAS_LOW, IntegerModel, layer
from enclaveml.zk.batch.quantise import Measured, check_reading, check_sizes, coarse, measure, refuse, rounded, tolerance_of
from enclaveml.zk.interface import CircuitRequest

RNG = np.random.default_rng(3)


def small(seed: int = 0, low: int = -20, high: int = 40) -> IntegerModel:
    """Three layers of whole numbers, 5-4-3-2."""
    rng = np.random.default_rng(seed)
    sizes, shifts = (5, 4, 3, 2), (6, 9, 0)
    layers = tuple(layer(rng.integers(-128, 128, (k, m)), rng.integers(-40_000, 40_000, m), s)
                   for k, m, s in zip(sizes, sizes[1:], shifts, strict=False))
    return IntegerModel(layers, 3, 5, low, high)


@pytest.mark.parametrize(("high", "cut"), [(1, 1), (40, 32), (63, 32), (64, 64), (65, 64), (30_000, 16_384)])
def test_a_range_for_inputs_that_are_not_shown_says_their_size_alone(high: int, cut: int) -> None:
    """A range is twice the largest sample or more: cut to a power of two it still has every sample."""
    model = small(low=-high, high=high)
    found = coarse(model)
    assert (found.input_low, found.input_high) == (-cut, cut) and 2 * cut > high and found.layers is model.layers


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


# -- scales ------------------------------------------------------------------------


def run(dense: tuple[FloatLayer, ...], x: np.ndarray) -> np.ndarray:
    for each in dense[:-1]:
        x = np.maximum(x @ each.weights + each.bias, 0)
    return x @ dense[-1].weights + dense[-1].bias


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
    monkeypatch.setattr(calibrate_module, "equalised", lambda dense, rows, by: list(dense))
    assert with_it < measure(calibrate(skewed, rows, truth), rows, truth).deviation / 2


def test_where_inputs_are_hidden_weights_are_not_fitted_to_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearest whole numbers, by scales of powers of two and of weights' sizes: rows choose among these, and show in nothing finer."""
    dense, asked = mlp((10, 12, 3)), []
    rows = np.random.default_rng(4).normal(size=(100, 10)).astype(np.float32)
    truth = run(tuple(dense), rows.astype(np.float64))

    def bias_of(model: IntegerModel) -> np.ndarray:
        return np.array([1, 256, 65536]) @ model.layers[-1].matrix[-3:].astype(np.int64)

    fitted = calibrate(dense, rows, truth)
    equalised = calibrate_module.equalised
    monkeypatch.setattr(calibrate_module, "equalised", lambda dense, rows, by: asked.append(by) or equalised(dense, rows, by))
    monkeypatch.setattr(calibrate_module, "compensated_weights", lambda *_: pytest.fail("weights were fitted to rows"))
    model = calibrate(dense, rows, truth, plain=True)
    assert set(asked) == {"", "weights"}
    assert np.array_equal(bias_of(model), np.rint(dense[-1].bias * 2.0**model.output_scale))
    assert not np.array_equal(bias_of(fitted), np.rint(dense[-1].bias * 2.0**fitted.output_scale))
    assert measure(model, rows, truth).deviation < 4 * measure(fitted, rows, truth).deviation


def test_what_was_measured_on_hidden_rows_is_told_in_few_digits() -> None:
    assert rounded(Measured(0.0312, 0.98765)) == Measured(pytest.approx(0.04), 0.98)
    assert rounded(Measured(0.0, 1.0)) == Measured(0.0, 1.0) and rounded(Measured(7.0, 0.5)).deviation == pytest.approx(7.0)


def test_the_job_s_tolerance_and_agreement_are_kept() -> None:
    refuse(Measured(0.1, 0.99), CircuitRequest(tolerance=0.1, agreement=0.99), 0.2)
    refuse(Measured(0.1, 1.0), CircuitRequest(), 0.4)
    with pytest.raises(JobError, match=re.escape("deviates by 0.11 on the sample rows, more than proof.tolerance 0.1; raise it, or")):
        refuse(Measured(0.11, 1.0), CircuitRequest(tolerance=0.1), 1.0)
    with pytest.raises(JobError, match=re.escape("argmax on 0.9800 of the sample rows, less than proof.agreement 0.995; lower it, or")):
        refuse(Measured(0.1, 0.98), CircuitRequest(), 1.0)
    with pytest.raises(JobError, match="deviates by nan"):
        refuse(Measured(float("nan"), 1.0), CircuitRequest(tolerance=0.1), 1.0)
    with pytest.raises(JobError, match="whose outputs are 0.3 at most: a tolerance that wide says nothing; set proof.tolerance"):
        refuse(Measured(0.1, 1.0), CircuitRequest(), 0.3)
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
    plain, found = np.rint(weights), compensate.compensated_weights(weights, a.T @ a / len(a))
    assert (found == np.rint(found)).all() and found.min() >= -128 and found.max() <= 127
    assert np.square(a @ (found - weights)).mean() < 0.2 * np.square(a @ (plain - weights)).mean()


def test_mean_products_are_of_every_so_many_th_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are laid out at once."""
    wirings = (Wiring(0, (4, 4, 2), (1, 1), (2, 2)), Wiring(1, (3, 3, 1)))
    arrays = [RNG.integers(-9, 9, (11, features)) for features in (32, 9)]
    monkeypatch.setattr(compensate, "COMPENSATED_ROWS", 15)  # of 99 positions every seventh
    for cells in (1, 300, 1 << 22):
        monkeypatch.setattr(patches, "_CELLS", cells)
        given = patches.read(wirings, arrays).reshape(99, 9)[::7].astype(np.float64)
        assert np.array_equal(compensate.mean_products(wirings, arrays), given.T @ given / 15)


@pytest.mark.parametrize(("number", "change", "text"), [
    (1, {"bias": np.full(8, 1e6)}, "a bias is too large beside the weights"),
    (1, {"weights": np.full((6, 8), 1e-30), "bias": np.zeros(8), "activation": Activation("a step", lambda z: np.sign(z - 1))},
     "its sums would be divided by 2^77 for activations of 8 bits, and 2^1 to 2^20 are allowed: its weights are too small beside its values"),
    (2, {"weights": np.full((8, 8), 2.0**40), "residual": 1}, "its sums and the values of layer 1 that are added to them are of too different sizes")])
def test_what_gives_no_integer_model_says_which_layer_it_is(number: int, change: dict, text: str) -> None:
    layers = mlp((6, 8, 8, 2))
    layers[number - 1] = replace(layers[number - 1], **change)
    rows = RNG.integers(-1, 2, (40, 6)).astype(np.float32)
    with pytest.raises(JobError, match=f"^no integer model for a batch proof was found: layer {number}: {re.escape(text)}; proof.system: ezkl has wider numbers$"):
        calibrate(layers, rows, run_floats(layers, rows)[1][-1])


def test_a_network_of_maps_is_near_its_float_model() -> None:
    """A convolution, a residual, a mean, two arrays side by side: scales of arrays that meet in one sum are made to agree."""
    rng = np.random.default_rng(6)
    here = Wiring(1, (6, 6, 4), (1, 1), (3, 3), (1, 1), (1, 1, 1, 1))
    layers = [FloatLayer(rng.normal(size=(18, 4)) / 3, 0.1 * rng.normal(size=4), (Wiring(0, (6, 6, 2), (1, 1), (3, 3), (1, 1), (1, 1, 1, 1)),)),
              FloatLayer(rng.normal(size=(36, 4)) / 6, 0.1 * rng.normal(size=4), (here,), 1),
              FloatLayer(rng.normal(size=(40, 3)) * np.repeat([0.2, 3.0], [36, 4])[:, None], rng.normal(size=3),
                         (Wiring(2, (6, 6, 4), (2, 2), (3, 3)), Wiring(1, (6, 6, 4), (6, 6))))]
    layers[2].weights[:] /= np.repeat([4, 36], [36, 4])[:, None]
    rows = rng.normal(size=(80, 72)).astype(np.float32)
    truth = run_floats(layers, rows)[1][-1]
    model = calibrate(layers, rows, truth)
    assert integer.fits(model) == "" and [each.residual is not None for each in model.layers] == [False, True, False]
    found = measure(model, rows, truth)
    assert found.deviation < 0.04 * np.abs(truth).max() and found.agreement > 0.95
    fresh = rng.normal(size=(400, 72)).astype(np.float32)
    assert np.abs(model.outputs(fresh) - run_floats(layers, fresh)[1][-1]).max() < tolerance_of(CircuitRequest(), found.deviation)


def test_a_network_that_no_key_holds_is_refused_before_its_scales_are_sought() -> None:
    check_sizes(mlp((2,) * 16))
    for layers, reason in ((mlp((2,) * 17), "16 layers; 1 to 15 are allowed"),
                           ([FloatLayer(np.ones((1, 2)), np.zeros(2), (Wiring(0, (1, 2**15, 1)),)), *mlp((2**16, 1))], "layer 1 has too many positions")):
        with pytest.raises(JobError, match=f"^no batch proof holds this network: {re.escape(reason)} "):
            check_sizes(layers)


def test_layers_that_are_not_the_model_are_refused() -> None:
    """Whatever tolerance would cover them: the quantiser is fitted to the layers."""
    layers, rows = mlp((3, 4, 1)), np.random.default_rng(3).normal(size=(150, 3)).astype(np.float32)
    truth = run_floats(layers, rows)[1][-1]
    check_reading(layers, rows, truth)
    changed = truth.copy()
    changed[149] += 0.02 * np.abs(truth).max()
    with pytest.raises(JobError, match="^the model was read as layers that compute something else"):
        check_reading(layers, rows, changed)
    with pytest.raises(JobError):
        check_reading(layers, rows, np.where(truth == truth, np.nan, truth))


def test_maxima_by_differences_are_near_their_float_model() -> None:
    """max(u, v) = v + relu(u - v), as a graph gives a maximum."""
    rng = np.random.default_rng(1)
    pick = [Wiring(1, (2, 1, 3), (2, 1), cell=(i, 0)) for i in (0, 1)]
    layers = [FloatLayer(rng.normal(size=(5, 6)), rng.normal(size=6)),
              FloatLayer(np.concatenate([np.eye(3), -np.eye(3)]), np.zeros(3), tuple(pick)),
              FloatLayer(np.tile(rng.normal(size=(3, 2)), (2, 1)), rng.normal(size=2), (pick[1], Wiring(2, (1, 1, 3))))]
    rows = rng.normal(size=(80, 5)).astype(np.float32)
    arrays, sums = run_floats(layers, rows)
    assert np.allclose(arrays[2] + arrays[1][:, 3:], arrays[1].reshape(-1, 2, 3).max(axis=1))
    model = calibrate(layers, rows, sums[-1])
    assert measure(model, rows, sums[-1]).deviation < 0.03 * np.abs(sums[-1]).max()
