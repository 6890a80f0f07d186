"""The InferenceProof: one bundle's outputs, proofs and labels as bytes. Format: ENVELOPE.md beside it.

Letters: n rows in this bundle, B rows in the circuit (n <= B), D flat outputs per row.

The parser trusts nothing: every length is compared with the bytes that are there before anything is
made of them, and there is exactly one encoding of an envelope. It decides only whether bytes are an
envelope. Whether what they say is true (hashes, labels, proofs) is the verifier's business.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

import numpy as np

from .byte_reader import TEXT_RULE, ByteReader, text_fault
from .errors import FormatError

MAGIC = b"ZKML"
VERSION = 1
# Stands for input_hash where inputs are committed: a plain hash of few rows would leak them.
NO_HASH = bytes(32)
# Section kinds, in the order in which they stand.
_SECTIONS = ("commitment", "output", "proof")
_ROWS_RULE = "different rows, each 0 or more,"


@dataclass(frozen=True)
class Limits:
    """What ``decode`` accepts at most: all in bytes, or in rows and outputs as counts."""

    max_bytes: int = 64 << 20
    max_rows: int = 1 << 16
    max_outputs: int = 1 << 16
    max_text: int = 255
    max_proof: int = 16 << 20


@dataclass(frozen=True, eq=False)
class Consistency:
    """What the proof says the outputs are, beside what the device said.

    ``proved`` (B, D) int64: fixed-point outputs, value = proved / 2**scale; ``scale`` int32; ``tolerance``
    and ``deviation`` float64, absolute, in units of the outputs: the allowed and the largest difference.
    All of it is the worker's word: the verifier has a tolerance and scale of its own.
    """

    proved: np.ndarray
    scale: int
    tolerance: float
    deviation: float

    def __post_init__(self) -> None:
        _array("proved", self.proved, np.int64, 2)
        _integer("scale", self.scale, -(1 << 31), (1 << 31) - 1)


@dataclass(frozen=True, eq=False)
class Envelope:
    """One bundle as its worker sends it. Hashes and ids are 32 bytes.

    ``rows`` (n,) int64: dataset rows, all different, in the order of the outputs (padding is left out).
    ``outputs`` (n, D) float32: what the model said on the device. ``round``, ``bundle`` and ``attempt``
    label the bundle within the job; labels bind nothing by themselves. ``computation`` and
    ``commitment`` are the proof system's bytes, either may be empty.

    Raises ValueError where a field has another type, shape or range.
    """

    model_hash: bytes
    input_hash: bytes
    output_hash: bytes
    node_id: str
    job_id: str
    circuit_id: bytes
    round: int
    bundle: int
    attempt: int
    rows: np.ndarray
    outputs: np.ndarray
    computation: bytes = field(repr=False)
    commitment: bytes = field(repr=False)
    consistency: Consistency

    def __post_init__(self) -> None:
        for name in ("model_hash", "input_hash", "output_hash", "circuit_id"):
            found = getattr(self, name)
            if not isinstance(found, bytes) or len(found) != 32:
                raise ValueError(f"{name}: {_brief(found)} found; 32 bytes allowed")
        for name in ("node_id", "job_id"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: {_brief(getattr(self, name))} found; text allowed")
            fault = text_fault(getattr(self, name))
            if fault or len(_utf8(getattr(self, name))) > 0xFFFF:
                raise ValueError(f"{name}: {fault or 'more than 65535 bytes'} found; {TEXT_RULE} allowed")
        _integer("round", self.round, 0, (1 << 64) - 1)
        _integer("bundle", self.bundle, 0, (1 << 64) - 1)
        _integer("attempt", self.attempt, 0, (1 << 32) - 1)
        _array("rows", self.rows, np.int64, 1)
        _array("outputs", self.outputs, np.float32, 2)
        fault = _rows_fault(self.rows)
        if fault:
            raise ValueError(f"rows: {fault} found; {_ROWS_RULE} allowed")
        n, outputs = self.outputs.shape
        bundle, proved = self.consistency.proved.shape
        if len(self.rows) != n or proved != outputs or bundle < n:
            raise ValueError(
                f"rows {self.rows.shape}, outputs {self.outputs.shape} and proved {(bundle, proved)} found; "
                f"(n,), (n, D) and (B, D) with B at least n allowed"
            )


def output_hash(outputs: np.ndarray) -> bytes:
    """SHA-256 of the output section's payload: n and D as uint64, then (n, D) float32, little-endian."""
    _array("outputs", outputs, np.float32, 2)
    return hashlib.sha256(_table(outputs, "<f4")).digest()


def input_hash(inputs: str, rows: np.ndarray) -> bytes:
    """The input_hash of a bundle's ``rows`` (n, …), float or int of any width: for ``inputs`` "public" the
    SHA-256 of type, shape and little-endian values, by ENVELOPE.md; else NO_HASH.
    """
    if inputs != "public":
        return NO_HASH
    rows = np.asarray(rows)
    kind = rows.dtype.newbyteorder("<")
    shape = struct.pack(f"<B{rows.ndim}Q", rows.ndim, *rows.shape)
    return hashlib.sha256(kind.str.encode("ascii") + shape + rows.astype(kind).tobytes()).digest()


def encode(envelope: Envelope) -> bytes:
    """The envelope's one encoding: ``decode(encode(e))`` has the same fields, bit for bit."""
    e, c = envelope, envelope.consistency
    commitment = b"".join(
        (
            e.model_hash + e.input_hash + e.output_hash,
            *(struct.pack("<H", len(text)) + text for text in (_utf8(e.node_id), _utf8(e.job_id))),
            e.circuit_id + struct.pack("<QQI", e.round, e.bundle, e.attempt),
            struct.pack("<Q", len(e.rows)) + e.rows.astype("<i8").tobytes(),
        )
    )
    consistency = struct.pack("<idd", c.scale, c.tolerance, c.deviation) + _table(c.proved, "<i8")
    proof = b"".join(_sized(part) for part in (e.computation, e.commitment, consistency))
    sections = (commitment, _table(e.outputs, "<f4"), proof)
    return MAGIC + bytes([VERSION]) + b"".join(bytes([k]) + _sized(s) for k, s in enumerate(sections, 1))


def decode(data: bytes | bytearray | memoryview, limits: Limits = Limits()) -> Envelope:
    """The envelope that ``data`` is, whole and nothing else; ``encode`` gives the same bytes back.

    NaN and infinities are allowed wherever there are floats: to reject them is the verifier's part.

    Raises FormatError, and nothing else, naming offset, section, field, what was found and what is
    allowed. Allocates no more than a small multiple of ``len(data)``, whatever lengths are claimed.
    """
    length = data.nbytes if isinstance(data, memoryview) else len(data)
    if length > limits.max_bytes:
        raise FormatError(f"envelope: {length} bytes found; at most {limits.max_bytes} allowed")
    file = ByteReader("envelope", bytes(data))
    magic, version = file.take(4, "magic"), file.number("B", "version")
    if magic != MAGIC:
        raise file.fault(0, "magic", repr(magic), repr(MAGIC))
    if version != VERSION:
        raise file.fault(4, "version", str(version), str(VERSION))
    commitment, output, proof = [_section(file, kind, name) for kind, name in enumerate(_SECTIONS, 1)]
    file.end()
    labels, rows = _commitment(commitment, limits)
    outputs = _outputs(output, len(rows), limits)
    computation = proof.blob("computation", limits.max_proof)
    commitment_proof = proof.blob("commitment", limits.max_proof)
    consistency = _consistency(proof.part("consistency"), outputs.shape, limits)
    proof.end()
    return Envelope(
        **labels,
        rows=rows,
        outputs=outputs,
        computation=computation,
        commitment=commitment_proof,
        consistency=consistency,
    )


def _section(file: ByteReader, kind: int, name: str) -> ByteReader:
    at, found = file.at, file.number("B", f"kind of section {name}")
    if found != kind:
        raise file.fault(at, f"kind of section {name}", str(found), str(kind))
    return file.part(f"section {name}", section=name)


def _commitment(part: ByteReader, limits: Limits) -> tuple[dict[str, object], np.ndarray]:
    labels: dict[str, object] = {
        name: part.take(32, name) for name in ("model_hash", "input_hash", "output_hash")
    }
    for name in ("node_id", "job_id"):
        labels[name] = part.text(name, limits.max_text)
    labels["circuit_id"] = part.take(32, "circuit_id")
    for name, code in (("round", "<Q"), ("bundle", "<Q"), ("attempt", "<I")):
        labels[name] = part.number(code, name)
    at = part.at
    rows = part.array((part.count("rows", limits.max_rows),), "<i8", "rows")
    fault = _rows_fault(rows)
    if fault:
        raise part.fault(at, "rows", fault, _ROWS_RULE)
    part.end()
    return labels, rows


def _outputs(part: ByteReader, n: int, limits: Limits) -> np.ndarray:
    at = part.at
    found, columns = part.count("rows", limits.max_rows), part.count("outputs", limits.max_outputs)
    if found != n:
        raise part.fault(at, "number of rows", str(found), f"{n}, as in the commitment,")
    outputs = part.array((n, columns), "<f4", "outputs")
    part.end()
    return outputs


def _consistency(part: ByteReader, shape: tuple[int, int], limits: Limits) -> Consistency:
    scale, tolerance, deviation = (
        part.number(code, name) for name, code in (("scale", "<i"), ("tolerance", "<d"), ("deviation", "<d"))
    )
    at, (n, columns) = part.at, shape
    size, found = part.count("rows", limits.max_rows), part.count("outputs", limits.max_outputs)
    if size < n:
        raise part.fault(at, "number of rows", str(size), f"at least {n}, as in the commitment,")
    if found != columns:
        raise part.fault(at + 8, "number of outputs", str(found), f"{columns}, as in the output section,")
    proved = part.array((size, columns), "<i8", "proved")
    part.end()
    return Consistency(proved, scale, tolerance, deviation)


def _rows_fault(rows: np.ndarray) -> str:
    if (rows < 0).any():
        return f"row {rows[rows < 0][0]}"
    ordered = np.sort(rows)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return f"row {twice[0]} twice" if len(twice) else ""


def _array(name: str, array: np.ndarray, dtype: type, dimensions: int) -> None:
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or array.ndim != dimensions
        or not array.size
    ):
        raise ValueError(
            f"{name}: {_brief(array)} found; an array of {np.dtype(dtype).name} with {dimensions} axes, "
            f"not empty, allowed"
        )


def _integer(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}: {value!r} found; a whole number from {least} to {most} allowed")


def _brief(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} {value.shape}"
    return f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__


def _utf8(text: str) -> bytes:
    return text.encode("utf-8")


def _sized(part: bytes) -> bytes:
    return struct.pack("<Q", len(part)) + part


def _table(array: np.ndarray, code: str) -> bytes:
    return struct.pack("<QQ", *array.shape) + array.astype(code).tobytes()
