"""Fixed point and field elements against Python integers and ezkl itself."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaveml.zk import process
from enclaveml.zk.ezkl import document, field, statement
from enclaveml.zk.ezkl.program import EZKL

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64, max_size=20))
def test_field_elements_are_the_integers_modulo_p(values: list[int]) -> None:
    expected = b"".join((v % field.MODULUS).to_bytes(32, "little") for v in values)
    assert field.to_felts(np.array(values, np.int64)) == expected


@given(st.lists(st.integers(-(2**62), 2**62), max_size=20))
def test_signed_values_come_back(values: list[int]) -> None:
    assert field.from_felts(field.to_felts(np.array(values, np.int64))).tolist() == values


@pytest.mark.parametrize(
    "number",
    [2**62 + 1, field.MODULUS - 2**62 - 1, field.MODULUS, field.MODULUS + 1, 2**256 - 1, 2**64, 2**128,
     field.MODULUS // 2],
)
def test_other_numbers_are_no_outputs(number: int) -> None:
    with pytest.raises(ValueError, match="^a field element is not canonical or out of the signed range$"):
        field.from_felts(number.to_bytes(32, "little"))


def test_bytes_between_elements_are_refused() -> None:
    with pytest.raises(ValueError, match="^33 bytes are no whole number of field elements$"):
        field.from_felts(bytes(33))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e38])
def test_values_without_fixed_point_are_refused(bad: float) -> None:
    with pytest.raises(ValueError) as caught:
        field.quantise(np.array([0.0, bad]), 13)
    assert str(caught.value) == "a value is not finite or exceeds 2**39, the most at scale 13"


@pytest.mark.ezkl
def test_quantisation_is_ezkls() -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate([
        [0.0, -0.0, 0.5, -0.5, 2.5 / 8192, -2.5 / 8192, 0.49999999999999994 / 8192, 1 / 3, 1e-300, 2.0**38],
        rng.normal(size=100),
        (rng.integers(-1000, 1000, size=100) + 0.5) / 8192,
        rng.normal(size=50).astype(np.float32).astype(np.float64) * 1e6,
    ])
    child = process.Child(EZKL)
    try:
        reply = process.wait(child, "quantise", 60, values=values.tolist(), scale=13)
    finally:
        child.close()
    assert reply.block == field.to_felts(field.quantise(values, 13))


def test_packed_parts_come_apart_again():
    assert document.unpack(document.pack(b"i" * 64, b"proof")) == (b"i" * 64, b"proof")
    assert document.unpack(document.pack(b"", b"")) == (b"", b"")
    for short in (b"", b"\0" * 7, document.pack(b"i" * 64, b"")[:-1]):
        with pytest.raises(ValueError, match="bytes are no packed proof"):
            document.unpack(short)


def test_the_text_of_a_document():
    text = document.text(b"\x01" + bytes(31) + b"\xff" * 32, b"\0\x7f\xff")
    assert text.startswith('{"protocol":null,"instances":[["01' + "00" * 31 + '","' + "ff" * 32 + '"]],"proof":[0,127,255],')
    assert json.loads(text)["proof"] == [0, 127, 255]


@pytest.mark.parametrize("dtype", ["float32", ">f4", "int32"])
def test_a_child_makes_the_statement_that_rank_0_would(dtype: str) -> None:
    """From rows in their own type, fewer than a bundle, of any shape: the same instances and proof, byte for byte."""
    rng = np.random.default_rng(7)
    rows, outputs, proof = rng.normal(size=(3, 2, 5)).astype(dtype), rng.integers(-(2**40), 2**40, (4, 2)), b"a proof"
    found = statement.parts_of_rows(statement.pack_rows(rows, outputs, proof), 3, 4, 2, 10, rows.dtype.str, 11)
    assert found == statement.proof_parts("public", proof, outputs, felts=statement.input_felts(rows, 4, 11))
