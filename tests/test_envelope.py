"""The envelope: one encoding, and a parser that survives anything."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from enclaveml.envelope import NO_HASH, Consistency, Envelope, Limits, decode, encode, input_hash, output_hash
from enclaveml.errors import FormatError

OUTPUTS = np.array([[1.5, -2.0], [0.25, 3.0]], dtype=np.float32)


def small(**changes) -> Envelope:
    """Two rows of a circuit for three, two outputs each."""
    consistency = Consistency(np.arange(6, dtype=np.int64).reshape(3, 2) - 3, 13, 0.01, 0.0004)
    envelope = Envelope(
        bytes(range(32)), NO_HASH, output_hash(OUTPUTS), "node-ü", "digits", b"\xcc" * 32, 1, 5, 2,
        np.array([9, 4], dtype=np.int64), OUTPUTS, b"proof bytes", b"", consistency,
    )  # fmt: skip
    return replace(envelope, **changes)


def same(a: Envelope, b: Envelope) -> bool:
    def value(x):
        if isinstance(x, np.ndarray):
            return x.dtype, x.shape, x.tobytes()
        if isinstance(x, float):
            return struct.pack("<d", x)
        return [value(getattr(x, f.name)) for f in fields(x)] if isinstance(x, Consistency) else x

    return all(value(getattr(a, f.name)) == value(getattr(b, f.name)) for f in fields(Envelope))


# Where the fields of small() stand, by ENVELOPE.md.
COMMITMENT = 5
NODE = COMMITMENT + 9 + 96
JOB = NODE + 2 + len("node-ü".encode())
ROUND = JOB + 2 + len("digits") + 32
ROWS = ROUND + 20
OUTPUT = ROWS + 8 + 16
PROOF = OUTPUT + 9 + 16 + 16
CONSISTENCY = PROOF + 9 + 8 + len(b"proof bytes") + 8


def test_the_bytes_are_those_of_the_documentation():
    data = encode(small())
    assert data[:5] == b"ZKML\x01"
    assert data[COMMITMENT] == 1 and data[OUTPUT] == 2 and data[PROOF] == 3
    assert struct.unpack_from("<Q", data, COMMITMENT + 1) == (OUTPUT - COMMITMENT - 9,)
    assert data[COMMITMENT + 9 :][:96] == bytes(range(32)) + bytes(32) + output_hash(OUTPUTS)
    assert data[NODE : NODE + 9] == b"\x07\0node-\xc3\xbc"
    assert struct.unpack_from("<QQI", data, ROUND) == (1, 5, 2)
    assert struct.unpack_from("<Qqq", data, ROWS) == (2, 9, 4)
    assert struct.unpack_from("<QQ4f", data, OUTPUT + 9) == (2, 2, 1.5, -2.0, 0.25, 3.0)
    assert struct.unpack_from("<Qidd", data, CONSISTENCY) == (36 + 48, 13, 0.01, 0.0004)
    assert struct.unpack_from("<QQ6q", data, CONSISTENCY + 28) == (3, 2, -3, -2, -1, 0, 1, 2)
    assert len(data) == CONSISTENCY + 8 + 36 + 48


def test_output_hash_covers_shape_and_values():
    payload = encode(small())[OUTPUT + 9 : PROOF]
    assert output_hash(OUTPUTS) == hashlib.sha256(payload).digest()
    assert output_hash(OUTPUTS.reshape(1, 4)) != output_hash(OUTPUTS)
    assert output_hash(OUTPUTS + np.float32(1)) != output_hash(OUTPUTS)


def test_input_hash_of_public_rows_only():
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    written = b"<f4" + struct.pack("<BQQ6f", 2, 2, 3, *range(6))
    assert input_hash("public", rows) == hashlib.sha256(written).digest()
    assert input_hash("public", rows.astype(">f4")) == input_hash("public", rows)
    assert input_hash("public", np.asfortranarray(rows)) == input_hash("public", rows)
    others = [rows.reshape(3, 2), rows.astype(np.int32), rows[::-1]]
    assert all(input_hash("public", other) != input_hash("public", rows) for other in others)
    assert input_hash("committed", rows) == input_hash("hashed", rows) == NO_HASH == bytes(32)


floats32 = st.floats(width=32)  # NaN and infinities included
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


@st.composite
def envelopes(draw) -> Envelope:
    n, padding, d = draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.integers(1, 3))
    outputs = draw(hnp.arrays(np.float32, (n, d), elements=floats32))
    rows = draw(st.lists(st.integers(0, 2**63 - 1), min_size=n, max_size=n, unique=True))
    hashes = [draw(st.binary(min_size=32, max_size=32)) for _ in range(3)]
    consistency = Consistency(
        draw(hnp.arrays(np.int64, (n + padding, d))), draw(st.integers(-(2**31), 2**31 - 1)),
        draw(st.floats()), draw(st.floats()),
    )  # fmt: skip
    return Envelope(
        *hashes, draw(texts), draw(texts), draw(st.binary(min_size=32, max_size=32)),
        draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 2**32 - 1)),
        np.array(rows, dtype=np.int64), outputs,
        draw(st.binary(max_size=50)), draw(st.binary(max_size=9)), consistency,
    )  # fmt: skip


@settings(deadline=None)
@given(envelopes())
def test_round_trip(envelope):
    data = encode(envelope)
    assert same(decode(data), envelope)
    assert encode(decode(data)) == data
    assert same(decode(memoryview(bytearray(data))), envelope)


def survives(data: bytes) -> None:
    """Refused with FormatError, or understood as exactly these bytes."""
    try:
        envelope = decode(data)
    except FormatError:
        return
    assert encode(envelope) == data


@settings(deadline=None, max_examples=200)
@given(st.data(), envelopes())
def test_mutations_are_refused_or_keep_one_encoding(data, envelope):
    raw = bytearray(encode(envelope))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    survives(bytes(raw))


@settings(deadline=None, max_examples=200)
@given(st.data(), envelopes())
def test_cuts_and_insertions_are_refused(data, envelope):
    raw = encode(envelope)
    at = data.draw(st.integers(0, len(raw)))
    inserted = data.draw(st.binary(min_size=1, max_size=12))
    survives(raw[:at] + inserted + raw[at:])
    end = data.draw(st.integers(at, len(raw)))
    survives(raw[:at] + raw[end:])
    with pytest.raises(FormatError):
        decode(raw + inserted)


def test_every_truncation_is_refused():
    data = encode(small())
    for size in range(len(data)):
        with pytest.raises(FormatError):
            decode(data[:size])


def test_every_bit_flip_is_refused_or_changes_the_envelope():
    data = encode(small())
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            survives(bytes(flipped))


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(noise, headed):
    with pytest.raises(FormatError):
        decode(b"ZKML\x01" + noise if headed else noise)


def at_offset(offset: int, code: str, *values) -> bytes:
    data = bytearray(encode(small()))
    struct.pack_into(code, data, offset, *values)
    return bytes(data)


@pytest.mark.parametrize(
    "offset",
    [
        COMMITMENT + 1,
        ROWS,
        OUTPUT + 1,
        OUTPUT + 9,
        OUTPUT + 17,
        PROOF + 1,
        PROOF + 9,
        CONSISTENCY,
        CONSISTENCY + 28,
    ],
)
@pytest.mark.parametrize("claimed", [1 << 30, 1 << 62, (1 << 64) - 1])
def test_a_claimed_length_allocates_nothing(offset, claimed):
    data = at_offset(offset, "<Q", claimed)
    generous = Limits(max_rows=1 << 63, max_outputs=1 << 63, max_proof=1 << 63)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            decode(data, generous)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64_000


def test_nan_and_infinity_parse():
    outputs = np.array([[np.nan, np.inf], [-np.inf, 0]], dtype=np.float32)
    consistency = replace(small().consistency, tolerance=float("nan"), deviation=float("inf"))
    envelope = small(outputs=outputs, consistency=consistency)
    assert same(decode(encode(envelope)), envelope)


GOOD = encode(small())
SIZE = len(GOOD)


@pytest.mark.parametrize(
    "data, limits, text",
    [
        (b"", Limits(), "envelope, offset 0, header: magic: 0 bytes left found; 4 bytes allowed"),
        (b"ZKMX" + GOOD[4:], Limits(), "envelope, offset 0, header: magic: b'ZKMX' found; b'ZKML' allowed"),
        (at_offset(4, "B", 2), Limits(), "envelope, offset 4, header: version: 2 found; 1 allowed"),
        (
            at_offset(5, "B", 2),
            Limits(),
            "envelope, offset 5, header: kind of section commitment: 2 found; 1 allowed",
        ),
        (GOOD + b"xy", Limits(), f"envelope, offset {SIZE}, header: end: 2 bytes more found; none allowed"),
        (GOOD, Limits(max_bytes=100), f"envelope: {SIZE} bytes found; at most 100 allowed"),
        (
            at_offset(COMMITMENT + 1, "<Q", 1 << 30),
            Limits(),
            f"envelope, offset 6, header: length of section commitment: 1073741824 found; "
            f"at most {SIZE - 14}, the bytes left, allowed",
        ),
        (
            at_offset(NODE, "<H", 300),
            Limits(),
            f"envelope, offset {NODE}, commitment: length of node_id: 300 found; at most 255 allowed",
        ),
        (
            at_offset(NODE + 7, "B", 0x20),
            Limits(),
            f"envelope, offset {NODE + 2}, commitment: node_id: no UTF-8 (invalid start byte) found; "
            f"UTF-8 without control characters allowed",
        ),
        (
            at_offset(JOB + 3, "B", 10),
            Limits(),
            f"envelope, offset {JOB + 2}, commitment: job_id: control character U+000A found; "
            f"UTF-8 without control characters allowed",
        ),
        (
            at_offset(ROWS, "<Q", 3),
            Limits(),
            f"envelope, offset {ROWS + 8}, commitment: rows: 16 bytes left found; 24 bytes allowed",
        ),
        (
            at_offset(ROWS, "<Q", 1),
            Limits(),
            f"envelope, offset {OUTPUT - 8}, commitment: end: 8 bytes more found; none allowed",
        ),
        (
            at_offset(ROWS, "<Q", 0),
            Limits(),
            f"envelope, offset {ROWS}, commitment: number of rows: 0 found; 1 to 65536 allowed",
        ),
        (
            GOOD,
            Limits(max_rows=1),
            f"envelope, offset {ROWS}, commitment: number of rows: 2 found; 1 to 1 allowed",
        ),
        (
            GOOD,
            Limits(max_outputs=1),
            f"envelope, offset {OUTPUT + 17}, output: number of outputs: 2 found; 1 to 1 allowed",
        ),
        (
            at_offset(ROWS + 8, "<q", -1),
            Limits(),
            f"envelope, offset {ROWS}, commitment: rows: row -1 found; "
            f"different rows, each 0 or more, allowed",
        ),
        (
            at_offset(ROWS + 8, "<q", 4),
            Limits(),
            f"envelope, offset {ROWS}, commitment: rows: row 4 twice found; "
            f"different rows, each 0 or more, allowed",
        ),
        (
            at_offset(OUTPUT + 9, "<QQ", 1, 4),
            Limits(),
            f"envelope, offset {OUTPUT + 9}, output: number of rows: 1 found; "
            f"2, as in the commitment, allowed",
        ),
        (
            GOOD,
            Limits(max_proof=5),
            f"envelope, offset {PROOF + 9}, proof: length of computation: 11 found; at most 5 allowed",
        ),
        (
            at_offset(CONSISTENCY + 28, "<QQ", 1, 6),
            Limits(),
            f"envelope, offset {CONSISTENCY + 28}, proof, consistency: number of rows: 1 found; "
            f"at least 2, as in the commitment, allowed",
        ),
        (
            at_offset(CONSISTENCY + 28, "<QQ", 6, 1),
            Limits(),
            f"envelope, offset {CONSISTENCY + 36}, proof, consistency: number of outputs: 1 found; "
            f"2, as in the output section, allowed",
        ),
        (
            at_offset(CONSISTENCY + 28, "<QQ", 2, 2),
            Limits(),
            f"envelope, offset {SIZE - 16}, proof, consistency: end: 16 bytes more found; none allowed",
        ),
    ],
)
def test_parser_errors_in_words(data, limits, text):
    with pytest.raises(FormatError) as caught:
        decode(data, limits)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"model_hash": b"short"}, "model_hash: 5 bytes found; 32 bytes allowed"),
        ({"node_id": 3}, "node_id: int found; text allowed"),
        (
            {"node_id": "a\nb"},
            "node_id: control character U+000A found; UTF-8 without control characters allowed",
        ),
        ({"job_id": "\ud800"}, "job_id: surrogate U+D800 found; UTF-8 without control characters allowed"),
        (
            {"job_id": "x" * 65536},
            "job_id: more than 65535 bytes found; UTF-8 without control characters allowed",
        ),
        ({"attempt": -1}, "attempt: -1 found; a whole number from 0 to 4294967295 allowed"),
        (
            {"rows": np.array([1, 1])},
            "rows: row 1 twice found; different rows, each 0 or more, allowed",
        ),
        (
            {"rows": np.array([1, 2], np.int32)},
            "rows: int32 (2,) found; an array of int64 with 1 axes, not empty, allowed",
        ),
        (
            {"outputs": OUTPUTS.astype(np.float64)},
            "outputs: float64 (2, 2) found; an array of float32 with 2 axes, not empty, allowed",
        ),
        (
            {"rows": np.array([1, 2, 3])},
            "rows (3,), outputs (2, 2) and proved (3, 2) found; "
            "(n,), (n, D) and (B, D) with B at least n allowed",
        ),
    ],
)
def test_an_envelope_that_cannot_be_is_not_made(changes, text):
    with pytest.raises(ValueError) as caught:
        small(**changes)
    assert str(caught.value) == text


def test_a_consistency_section_that_cannot_be_is_not_made():
    with pytest.raises(ValueError) as caught:
        Consistency(np.ones((1, 1), np.int64), 1 << 31, 0.0, 0.0)
    assert (
        str(caught.value) == "scale: 2147483648 found; a whole number from -2147483648 to 2147483647 allowed"
    )
