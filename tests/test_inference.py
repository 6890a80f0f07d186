"""Inference at a static batch: padding, and the same bits wherever a row falls and on any cores."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enclaveml.errors import EnvironmentFault
from enclaveml.inference import MOST_ROWS, Footprint, Inference, batch_that_fits, choose_batch
from enclaveml.zk.interface import ModelFunction


def mlp(widths: tuple[int, ...]) -> ModelFunction:
    rng = np.random.default_rng(1)
    w = [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in itertools.pairwise(widths)]

    def apply(x):
        for layer in w[:-1]:
            x = jnp.tanh(x @ layer)
        return x @ w[-1]

    return ModelFunction(apply, widths[:1])


def cnn() -> ModelFunction:
    """The model that showed it: batched, half of its rows change their last bits with their place."""
    from flax import linen as nn

    rng = np.random.default_rng(1)
    shapes = [(3, 3, 1, 8), (3, 3, 8, 16), (64, 10)]
    one, two, out = (jnp.asarray(rng.standard_normal(s) / math.sqrt(math.prod(s[:-1])), jnp.float32)
                     for s in shapes)

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def apply(x):
        x = nn.avg_pool(nn.relu(conv(x, one)), (2, 2), strides=(2, 2))
        x = nn.avg_pool(jnp.tanh(conv(x, two)), (2, 2), strides=(2, 2))
        return x.reshape(x.shape[0], -1) @ out

    return ModelFunction(apply, (8, 8, 1))


MODELS = {"mlp": lambda: mlp((30, 16, 2)), "wide": lambda: mlp((784, 257, 10)),
          "narrow": lambda: mlp((5, 3, 1)), "cnn": cnn}


def sample(function: ModelFunction, n: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((n, *function.row_shape)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_bits_do_not_depend_on_place_batch_or_neighbours(name):
    function = MODELS[name]()
    x = sample(function, 50)
    inference = Inference(function, 16)
    base = inference(x)
    np.testing.assert_allclose(base, function.apply(x), rtol=1e-4, atol=1e-5)
    order = np.random.default_rng(3).permutation(len(x))
    np.testing.assert_array_equal(inference(x[order]), base[order])
    shards = [inference(x[:7]), inference(x[7:8]), inference(x[8:])]
    np.testing.assert_array_equal(np.concatenate(shards), base)
    for batch in (1, 7, 64):
        np.testing.assert_array_equal(Inference(function, batch)(x), base)


CODE = """
    import os, sys
    if sys.argv[1] == "one":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from enclaveml.devices import bind_device
    bind_device("cpu", 0)
    import hashlib
    import jax.numpy as jnp
    from enclaveml.inference import Inference
    from tests.test_inference import MODELS, ModelFunction, sample
    big = ModelFunction(lambda x: x.sum((1, 2))[:, None], (3000, 1000))
    for function, n in [*((f(), 40) for f in MODELS.values()), (big, 2)]:
        print(hashlib.sha256(Inference(function, 8)(sample(function, n)).tobytes()).hexdigest())
"""


def test_bits_do_not_depend_on_cores():
    def hashes(cores: str) -> list[str]:
        clean = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS", "NPROC")}
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(CODE), cores], text=True, timeout=300,
                              capture_output=True, env=clean, cwd=Path(__file__).parent.parent)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    one = hashes("one")
    assert len(set(one)) == len(MODELS) + 1 and one == hashes("all")


def test_a_rest_is_not_computed_as_a_whole_batch():
    """On the CPU, where rows are computed one by one, padding would cost as much as rows."""
    inference = Inference(mlp((5, 3)), 8)
    padded = sample(mlp((5, 3)), 8)
    assert np.count_nonzero(np.asarray(inference._start(padded, 3)).any(axis=1)) == 3


def test_no_rows():
    out = Inference(mlp((5, 3)), 4)(np.empty((0, 5), np.float32))
    assert out.shape == (0, 3) and out.dtype == np.float32


def test_compiled_once_for_all_calls():
    traces = []
    base = mlp((5, 3))

    def apply(x):
        traces.append(x.shape)
        return base.apply(x)

    inference = Inference(ModelFunction(apply, (5,)), 4)
    before = len(traces)
    for n in (0, 1, 4, 9):
        inference(sample(base, n))
    assert len(traces) == before


def test_model_that_loses_its_axis_at_one_row():
    """squeeze() then one argmax: at one row there is no axis left to take it over."""
    function = ModelFunction(
        lambda x: jnp.argmax(x[:, None, :].squeeze(), axis=1)[:, None].astype(jnp.float32), (5,))
    x = sample(function, 6)
    np.testing.assert_array_equal(Inference(function, 4)(x)[:, 0], x.argmax(1))


def test_integer_rows():
    function = ModelFunction(lambda x: jax.nn.one_hot(x, 4).reshape(len(x), -1), (2,), np.dtype(np.int32))
    assert Inference(function, 4)(np.array([[1, 3]], np.int32)).tolist() == [[0, 1, 0, 0, 0, 0, 0, 1]]


def test_rows_of_another_shape_or_dtype():
    inference = Inference(mlp((5, 3)), 4)
    with pytest.raises(ValueError) as caught:
        inference(np.zeros((2, 6), np.float32))
    assert str(caught.value) == "rows of shape (6,) float32; this model takes (5,) float32"
    with pytest.raises(ValueError) as caught:
        inference(np.zeros((2, 5)))
    assert str(caught.value) == "rows of shape (5,) float64; this model takes (5,) float32"


@pytest.mark.parametrize(("row_shape", "batch"), [((64,), 256), ((), 256), ((0,), 256), ((224, 224, 3), 32),
                                                   ((2**23,), 1), ((2**30,), 1)])
def test_batch_depends_on_the_row_alone(row_shape, batch):
    assert choose_batch(row_shape, np.float32) == batch


def test_on_demand_is_compiled_at_its_first_call_and_says_the_same() -> None:
    import jax.numpy as jnp

    from enclaveml.inference import InferenceOnDemand

    class Doubling:
        row_shape, dtype, traced = (3,), np.dtype(np.float32), 0

        def apply(self, rows):
            Doubling.traced += 1
            return jnp.asarray(rows) * 2

    later = InferenceOnDemand(Doubling())
    assert Doubling.traced == 0 and later.batch == 256
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert (later(rows) == rows * 2).all()
    seen = Doubling.traced
    assert (later(rows) == rows * 2).all() and Doubling.traced == seen > 0


# XLA's account of a ResNet-50 (benchmarks/resnet.py, 224x224x3 float32, 25.6 million weights) compiled for
# CPUs by JAX 0.10.2 at 16 rows: 239.5 MB besides 102.4 MB of weights, 9.6 MB of rows and 64 kB of outputs.
RESNET_50 = Footprint(weights=102_440_608, row=15_573_284)


@pytest.mark.parametrize(("memory_gb", "least", "most"), [(48, 256, 512), (16, 64, 96), (12, 64, 128), (6, 32, 64)])
def test_the_batch_of_a_resnet_50_is_the_usual_one_for_the_memory(memory_gb, least, most):
    assert least <= batch_that_fits(RESNET_50, memory_gb * 1e9) <= most
    assert least <= batch_that_fits(RESNET_50, memory_gb * 2**30) <= most


def test_the_batch_has_its_bounds():
    assert batch_that_fits(RESNET_50, 0) == 1 and batch_that_fits(RESNET_50, 1e9) == 4
    assert batch_that_fits(RESNET_50, 1e15) == MOST_ROWS and batch_that_fits(RESNET_50, 1e15, most=100) == 64
    assert batch_that_fits(Footprint(weights=10, row=0), 1e9) == MOST_ROWS


def test_the_footprint_is_the_compilers_own_account():
    inference = Inference(mlp((784, 257, 10)), 16)
    assert inference.footprint.weights == 4 * (784 * 257 + 257 * 10)
    assert 4 * 784 + 4 * 10 <= inference.footprint.row < 4 * (784 + 257 + 10) + 1000


class ShortOfMemory:
    """A device that holds ``rows`` rows and no more, wherever the error comes up: at the call, or at the result."""

    def __init__(self, inference, monkeypatch, rows, late):
        self.tried, compile_ = [], inference._compile

        def compiling(batch):
            compile_(batch)
            program = inference._run

            def run(weights, padded, count):
                self.tried.append(len(padded))
                if len(padded) <= rows:
                    return program(weights, padded, count)
                if not late:
                    raise self.error()
                return self  # an array whose computation has failed

            inference._run = run

        self._compiling = compiling
        monkeypatch.setattr(inference, "_compile", compiling)
        compiling(inference.batch)

    @staticmethod
    def error():
        return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.")

    def __array__(self, *_, **__):
        raise self.error()


@pytest.mark.parametrize("late", [False, True])
def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch, caplog, late):
    function = mlp((5, 3))
    x = sample(function, 21)
    expected = Inference(function, 16)(x)
    inference = Inference(function, 16)
    device = ShortOfMemory(inference, monkeypatch, 4, late)
    np.testing.assert_array_equal(inference(x), expected)
    assert inference.batch == 4 and device.tried[-6:] == [4] * 6
    assert [record.message for record in caplog.records] == [
        "the device's memory ran out at 16 rows a batch; going on with 8",
        "the device's memory ran out at 8 rows a batch; going on with 4"]
    np.testing.assert_array_equal(inference(x[:3]), expected[:3])


def test_memory_that_runs_out_on_the_way_loses_no_row(monkeypatch):
    """Another rank takes the memory when two batches are done: only the rest is done again."""
    function = mlp((5, 3))
    x = sample(function, 40)
    expected = Inference(function, 8)(x)
    inference = Inference(function, 8)
    program, calls = inference._run, []

    def run(weights, padded, count):
        calls.append(len(padded))
        if len(calls) == 4:
            raise ShortOfMemory.error()
        return program(weights, padded, count)

    inference._run = run
    np.testing.assert_array_equal(inference(x), expected)
    assert inference.batch == 4 and calls == [8] * 4


def test_not_one_row_fits(monkeypatch):
    inference = Inference(mlp((5, 3)), 2)
    ShortOfMemory(inference, monkeypatch, 0, False)
    with pytest.raises(EnvironmentFault) as caught:
        inference(np.zeros((3, 5), np.float32))
    assert str(caught.value) == (
        "the device's memory is too small for one row of the model: RESOURCE_EXHAUSTED: Out of memory while trying "
        "to allocate 99 bytes. Give this rank a device with more memory, or share it with fewer ranks")


def test_other_errors_of_the_device_are_not_taken_for_it(monkeypatch):
    inference = Inference(mlp((5, 3)), 2)
    error = jax.errors.JaxRuntimeError("INTERNAL: the device fell off the bus")
    inference._run = lambda *_: (_ for _ in ()).throw(error)
    with pytest.raises(jax.errors.JaxRuntimeError, match="fell off"):
        inference(np.zeros((3, 5), np.float32))
    assert inference.batch == 2
