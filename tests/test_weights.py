"""Weights by name: reading safetensors, and one error that lists every mismatch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from enclaveml.errors import JobError
from enclaveml.weights import match_weights, read_weights

MODEL = {"hidden.kernel": np.zeros((64, 32), "f4"), "hidden.bias": np.zeros(32, "f4"),
         "out.kernel": np.zeros((32, 10), "f4"), "out.bias": np.zeros(10, "f4")}


def test_round_trip():
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in MODEL.items()}
    got = match_weights(MODEL, read_weights(save(arrays), "w.safetensors"), "w.safetensors")
    assert list(got) == list(MODEL)
    for n, a in arrays.items():
        np.testing.assert_array_equal(got[n], a)
        assert got[n].dtype == a.dtype


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u4", "?"])
def test_every_dtype_is_read(dtype):
    a = np.arange(6).reshape(2, 3).astype(dtype)
    got = read_weights(save({"a": a, "scalar": np.asarray(a[0, 1])}), "w")
    np.testing.assert_array_equal(got["a"], a)
    assert got["a"].dtype == a.dtype and got["scalar"].shape == ()


def test_bfloat16_is_read():
    import jax.numpy as jnp
    from safetensors.flax import save as save_flax

    got = read_weights(save_flax({"a": jnp.array([1.5, -2], jnp.bfloat16)}), "w")["a"]
    assert str(got.dtype) == "bfloat16" and got.astype("f4").tolist() == [1.5, -2]


def test_every_mismatch_at_once():
    found = {"hiden.kernel": MODEL["hidden.kernel"], "hidden.bias": np.zeros(31, "f4"),
             "out.kernel": np.zeros((32, 10), "f8"), "out.bias": np.full(10, np.nan, "f4"),
             "zz": np.zeros((), "i4")}
    with pytest.raises(JobError) as caught:
        match_weights(MODEL, found, "w.safetensors")
    assert str(caught.value).splitlines() == [
        "w.safetensors: model.weights: missing hidden.kernel (64, 32) float32; the file has hiden.kernel",
        "w.safetensors: model.weights: unexpected hiden.kernel (64, 32) float32; did you mean hidden.kernel?",
        "w.safetensors: model.weights: unexpected zz () int32",
        "w.safetensors: model.weights: hidden.bias has shape (31); the model needs (32)",
        "w.safetensors: model.weights: out.kernel has dtype float64; the model needs float32",
        "w.safetensors: model.weights: out.bias holds NaN or infinity",
    ]


def test_not_safetensors():
    with pytest.raises(JobError) as caught:
        read_weights(b"abc", "w.npz")
    assert str(caught.value) == (
        "w.npz: model.weights: no readable safetensors file (Error while deserializing: header too small); "
        "write it with safetensors.numpy.save_file or safetensors.flax.save_file")


def test_complex_weights_are_refused():
    with pytest.raises(JobError) as caught:
        read_weights(save({"a": np.zeros(2, "c8")}), "w")
    assert str(caught.value) == (
        "w: model.weights: a has dtype C64; readable are F32, F16, BF16, F64, I8, I16, I32, I64, U8, U16, "
        "U32, U64, BOOL")


@given(st.integers(0, 200), st.integers(0, 255))
def test_damaged_files_raise_job_errors_only(position, value):
    data = bytearray(save({"a": np.arange(8, dtype="f4"), "b": np.zeros((2, 2), "i4")}))
    for wrong in (data[:position % len(data)], data + b"x"):
        with pytest.raises(JobError):
            read_weights(bytes(wrong), "w")
    data[position % len(data)] = value
    try:
        read_weights(bytes(data), "w")  # one changed byte may be a changed value, or padding
    except JobError:
        pass
