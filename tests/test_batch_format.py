"""The batch protocol's verification key: one encoding, nothing that could wrap, ValueError for everything else."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaveml.zk.batch.format import (
    BLOWUP,
    GENERATOR,
    LEAST_MASKS,
    LEAST_TABLE_ROWS,
    MOST_LAYERS,
    MOST_ROWS,
    QUERIES,
    RESIDUE,
    ROUND_MASKS,
    Layer,
    P,
    VerificationKey,
    bits,
    power_of_two,
    table_shape,
)

KEY = VerificationKey(16, -128, 127, (Layer(64, 32, 8), Layer(32, 10, 0)), 12, (b"\1" * 32, b"\2" * 32))
MASKED = replace(KEY, rows=1024, masks=256)
TEXT = json.loads(KEY.to_bytes())


def test_the_field_is_what_the_protocol_says() -> None:
    assert all(P % divisor for divisor in range(2, math.isqrt(P) + 1))
    assert all(pow(GENERATOR, (P - 1) // prime, P) != 1 for prime in (2, 3, 5))  # p - 1 = 2^27 * 3 * 5
    assert pow(RESIDUE, (P - 1) // 5, P) != 1  # so X^5 - 2 is irreducible
    query_bits = -QUERIES * math.log2(1 - (1 - 1 / BLOWUP) / 2)  # of one opening: positions miss what is 3/8 apart
    assert query_bits == pytest.approx(105.1, abs=0.05)
    assert query_bits - math.log2(1 + MOST_LAYERS) > 101
    assert query_bits - math.log2(4 + MOST_LAYERS) > 100.8
    # An opening shows QUERIES symbols and a value of five numbers of each column's uniform entries.
    assert min(LEAST_MASKS, LEAST_TABLE_ROWS) >= QUERIES + 5 + 96
    # The rounds' coefficients: of the most rows (4 n + 1), and of the largest table, less than 2^22 entries (2 v + 1).
    assert ROUND_MASKS - (4 * bits(MOST_ROWS) + 1) - (2 * (1 + 22) + 1) >= 256


def test_a_key_comes_back() -> None:
    assert VerificationKey.from_bytes(KEY.to_bytes()) == KEY
    assert KEY.to_bytes() == (
        b'{"format":"enclaveml-batch-key-1","input":[-128,127],"layers":[[64,32,8],[32,10,0]],"range_bits":12,'
        b'"roots":["' + b"01" * 32 + b'","' + b"02" * 32 + b'"],"rows":16}')


def test_a_key_with_mask_rows_comes_back() -> None:
    assert VerificationKey.from_bytes(MASKED.to_bytes()) == MASKED and MASKED.real_rows == 768
    assert MASKED.to_bytes() == replace(KEY, rows=1024).to_bytes().replace(b'"range_bits"', b'"masks":256,"range_bits"')
    assert replace(MASKED, rows=512).real_rows == 256 and KEY.real_rows == KEY.rows


def test_the_form_of_committed_multiplicities() -> None:
    assert [table_shape(count) for count in (4, 256, 257, 2**16, 2**16 + 1, 2**17, 2**17 + 1, 2**22)] == [
        (256, 1), (256, 1), (256, 2), (256, 256), (512, 256), (512, 256), (512, 512), (2048, 2048)]


@pytest.mark.parametrize(("change", "reason"), [
    ({"rows": 2}, "2 rows: a power of two, 4 to 1048576, is allowed"),
    ({"rows": 24}, "24 rows: a power of two, 4 to 1048576, is allowed"),
    ({"rows": 2**21}, "2097152 rows: a power of two, 4 to 1048576, is allowed"),
    ({"rows": 2**100}, "a number of 101 bits rows: a power of two, 4 to 1048576, is allowed"),
    ({"input_low": -(2**15) - 1}, "the inputs' range is not within int16"),
    ({"input_low": 128}, "the inputs' range is not within int16"),
    ({"range_bits": 21}, "range bits are 21: 0 to 20"),
    ({"range_bits": -1}, "range bits are -1: 0 to 20"),
    ({"layers": ()}, "0 layers; 1 to 15 are allowed"),
    ({"roots": (b"\1" * 32,)}, "1 roots for 2 layers"),
    ({"roots": (b"\1" * 32, b"\1" * 31)}, "a root is 32 bytes"),
    ({"layers": (Layer(64, 33, 8), Layer(32, 10, 0))}, "a layer has 33 outputs, the next 32 inputs"),
    ({"layers": (Layer(64, 32, 0), Layer(32, 10, 0))}, "layer 1 has the shift 0: 1 to 20, in the last layer 0"),
    ({"layers": (Layer(64, 32, 21), Layer(32, 10, 0))}, "layer 1 has the shift 21: 1 to 20, in the last layer 0"),
    ({"layers": (Layer(64, 32, 8), Layer(32, 10, 1))}, "layer 2 has the shift 1: 1 to 20, in the last layer 0"),
    ({"layers": (Layer(64, 32, 18), Layer(32, 10, 0))}, "layer 1: range bits + shift exceed 29"),
    ({"layers": (Layer(0, 32, 8), Layer(32, 10, 0))},
     "layer 1 has 0 inputs and 32 outputs: 1 to 32768 are allowed"),
    ({"layers": (Layer(64, 2**16, 8), Layer(2**16, 10, 0))},
     "layer 1 has 64 inputs and 65536 outputs: 1 to 32768 are allowed"),
    ({"layers": (Layer(64, 30584, 8), Layer(30584, 10, 0))},
     "layer 2 could wrap modulo p: fewer inputs, or smaller ones"),
    ({"layers": (Layer(2000, 4, 8), Layer(4, 4, 0)), "input_low": -(2**15)},
     "layer 1 could wrap modulo p: fewer inputs, or smaller ones"),
    ({"rows": 2**20, "layers": (Layer(4, 961, 8), Layer(961, 1, 0))}, "too many lookups: fewer rows a proof"),
    ({"layers": (*[Layer(2**14, 2**14, 8)] * 3, Layer(2**14, 2**14, 0)), "roots": (b"\1" * 32,) * 4, "rows": 4},
     "too many weights for one weights proof"),
    ({"masks": True}, "a size is not an integer"),
    ({"masks": 128}, "128 mask rows of 16: 0, or a power of two from 256 to half of the rows, is allowed"),
    ({"masks": -256}, "-256 mask rows of 16: 0, or a power of two from 256 to half of the rows, is allowed"),
    ({"rows": 1024, "masks": 128}, "128 mask rows of 1024: 0, or a power of two from 256 to half of the rows, is allowed"),
    ({"rows": 1024, "masks": 300}, "300 mask rows of 1024: 0, or a power of two from 256 to half of the rows, is allowed"),
    ({"rows": 1024, "masks": 1024}, "1024 mask rows of 1024: 0, or a power of two from 256 to half of the rows, is allowed"),
    ({"rows": 512, "masks": 256, "layers": (Layer(64, 32, 0),), "roots": (b"\1" * 32,)},
     "mask rows in a network without a hidden layer"),
    ({"rows": True}, "a size is not an integer"),
    ({"rows": 16.0}, "a size is not an integer"),
    ({"rows": np.int64(16)}, "a size is not an integer"),
    ({"layers": (Layer(64, 32, 8), Layer(32, 10, False))}, "a size is not an integer"),
    ({"layers": [Layer(64, 32, 8), Layer(32, 10, 0)]}, "layers and roots are tuples"),
    ({"layers": ((64, 32, 8), (32, 10, 0))}, "the layers are Layers"),
])
def test_a_key_beyond_the_limits_is_refused(change: dict, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(KEY, **change)
    assert str(caught.value) == reason


def test_the_bounds_are_tight() -> None:
    widest = (P // 2 - 128 * (1 + 2**8 + 2**16)) // (128 * 255)
    layers = (Layer(1, widest, 8), Layer(widest, 1, 0))
    assert replace(KEY, layers=layers).layers == layers
    with pytest.raises(ValueError, match="^layer 2 could wrap"):
        replace(KEY, layers=(Layer(1, widest + 1, 8), Layer(widest + 1, 1, 0)))
    replace(KEY, rows=2**20, layers=(Layer(4, 960, 8), Layer(960, 1, 0)))  # 2 * 2^20 * 960 = p - 1


def _encoded(change: dict) -> bytes:
    return json.dumps({**TEXT, **change}, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("data", [
    b"", b"{}", b"[]", b"null", b"1", b'"key"', b"\xff\xfe", b"[" * 4000, b'{"a":' * 800, b"1" * 4096, b" " * 5000,
    KEY.to_bytes() + b" ", b" " + KEY.to_bytes(), KEY.to_bytes()[:-1], KEY.to_bytes().replace(b",", b", ", 1),
    KEY.to_bytes().replace(b'"rows":16', b'"rows":16,"rows":16'), KEY.to_bytes().replace(b'"rows":16', b'"rows":1.6e1'),
    KEY.to_bytes().replace(b'"rows":16', b'"rows":16.0'), KEY.to_bytes().replace(b'"rows":16', b'"rows":NaN'),
    KEY.to_bytes().replace(b'"rows":16', b'"rows":"16"'), KEY.to_bytes().replace(b'"rows":16', b'"rows":true'),
    KEY.to_bytes().replace(b'"rows":16', b'"rows":016'), KEY.to_bytes().replace(b'"rows":16', b'"rows":' + b"9" * 3000),
    KEY.to_bytes().replace(b"01" * 32, b"0 1" * 32), KEY.to_bytes().decode().encode("utf-16"),
    KEY.to_bytes().replace(b"batch-key-1", b"batch-key-2"), _encoded({"more": 1}), _encoded({"input": [-128, 127, 1]}),
    _encoded({"input": "ab"}), _encoded({"input": None}), _encoded({"layers": ["abc", "def"]}),
    _encoded({"layers": {"a": 1}}), _encoded({"layers": [[64, 32, 8.0], [32, 10, 0]]}), _encoded({"roots": [1, 2]}),
    _encoded({"layers": [[64, 32, 8], [32, 10, False]]}), _encoded({"roots": ["AB" * 32, "02" * 32]}),
    _encoded({"layers": [[64, 32, 8, 0], [32, 10, 0]]}), _encoded({"layers": [[1, 1, 1]] * 300}),
    _encoded({"masks": 0}), _encoded({"rows": 1024, "masks": 256.0}), _encoded({"rows": 1024, "masks": "256"}),
    _encoded({"roots": "ab"}), _encoded({"input": [-(10**400), 127]}),
])
def test_other_bytes_are_no_key(data: bytes) -> None:
    with pytest.raises(ValueError, match="^not a batch verification key: "):
        VerificationKey.from_bytes(data)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(TEXT)), JSON)
def test_any_value_in_a_key_is_refused_or_comes_back(name: str, value: object) -> None:
    data = _encoded({name: value})
    try:
        key = VerificationKey.from_bytes(data)
    except ValueError as error:
        assert str(error).startswith("not a batch verification key: ")
    else:
        assert key.to_bytes() == data


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=80), st.integers(0, len(KEY.to_bytes())), st.integers(0, 80))
def test_any_bytes_are_refused_or_come_back(data: bytes, at: int, over: int) -> None:
    whole = KEY.to_bytes()
    data = whole[:at] + data + whole[at + over:]
    try:
        key = VerificationKey.from_bytes(data)
    except ValueError as error:
        assert str(error).startswith("not a batch verification key: ")
    else:
        assert key.to_bytes() == data


def test_powers_of_two() -> None:
    assert [power_of_two(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]
    assert [bits(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [0, 1, 2, 2, 3, 3, 4]
    assert [Layer(k, 1, 0).length for k in (1, 2, 5, 6, 13, 14)] == [4, 8, 8, 16, 16, 32]
