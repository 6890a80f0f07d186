"""An envelope's bytes, spoilt in every field and frame of its format (ENVELOPE.md), one at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

_HASH = 32


def layout(data: bytes) -> dict[str, slice]:
    """Where each field of an envelope lies, by name, in order, from the first byte to the last."""
    return dict(_walk(data))


def _walk(data: bytes) -> Iterator[tuple[str, slice]]:
    at = 0

    def field(name: str, size: int) -> tuple[str, slice]:
        nonlocal at
        at += size
        return name, slice(at - size, at)

    def before(code: str) -> int:
        """The number whose bytes were the last field."""
        return int(struct.unpack(code, data[at - struct.calcsize(code): at])[0])

    def section(name: str) -> Iterator[tuple[str, slice]]:
        yield field(f"kind of section {name}", 1)
        yield field(f"length of section {name}", 8)

    yield field("magic", 4)
    yield field("version", 1)
    yield from section("commitment")
    for name in ("model_hash", "input_hash", "output_hash"):
        yield field(name, _HASH)
    for name in ("node_id", "job_id"):
        yield field(f"length of {name}", 2)
        yield field(name, before("<H"))
    yield field("circuit_id", _HASH)
    for name, size in (("round", 8), ("bundle", 8), ("attempt", 4)):
        yield field(name, size)
    yield field("number of rows", 8)
    yield field("rows", 8 * before("<Q"))
    yield from section("output")
    yield field("number of output rows", 8)
    n = before("<Q")
    yield field("number of outputs", 8)
    yield field("outputs", 4 * n * before("<Q"))
    yield from section("proof")
    for name in ("computation", "commitment"):
        yield field(f"length of {name}", 8)
        yield field(name, before("<Q"))
    yield field("length of consistency", 8)
    for name, size in (("scale", 4), ("tolerance", 8), ("deviation", 8)):
        yield field(name, size)
    yield field("number of proved rows", 8)
    n = before("<Q")
    yield field("number of proved outputs", 8)
    yield field("proved", 8 * n * before("<Q"))
    if at != len(data):
        raise ValueError(f"the layout ends at {at}, the envelope at {len(data)}")


def flipped(name: str) -> Callable[[bytes], bytes]:
    """A mutation: one bit of the middle byte of a field."""
    def flip(data: bytes) -> bytes:
        where = layout(data)[name]
        spoilt = bytearray(data)
        spoilt[(where.start + where.stop) // 2] ^= 1
        return bytes(spoilt)
    return flip


def _claims_a_gigabyte(data: bytes) -> bytes:
    where = layout(data)["length of computation"]
    return data[: where.start] + struct.pack("<Q", 1 << 30) + data[where.stop:]


#: Name to (mutation, how rank 0's verdict begins). An empty verdict: accepted, since nothing is read of it.
MUTATIONS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    name: (flipped(name), verdict)
    for name, verdict in {
        "magic": "envelope: ",
        "version": "envelope: ",
        "kind of section commitment": "envelope: ",
        "length of section commitment": "envelope: ",
        "model_hash": "envelope: model_hash is ",
        "input_hash": "envelope: input_hash is ",
        "output_hash": "envelope: output_hash is ",
        "length of node_id": "envelope: ",
        "node_id": "envelope: node_id is ",
        "length of job_id": "envelope: ",
        "job_id": "envelope: job_id is ",
        "circuit_id": "envelope: circuit_id is ",
        "round": "envelope: round is ",
        "bundle": "envelope: bundle is ",
        "attempt": "envelope: attempt is ",
        "number of rows": "envelope: ",
        "rows": "envelope: ",
        "kind of section output": "envelope: ",
        "length of section output": "envelope: ",
        "number of output rows": "envelope: ",
        "number of outputs": "envelope: ",
        "outputs": "envelope: output_hash is ",
        "kind of section proof": "envelope: ",
        "length of section proof": "envelope: ",
        "length of computation": "envelope: ",
        "computation": "verification: ",
        "length of commitment": "envelope: ",
        "commitment": "the input's commit is not that of these rows",
        "length of consistency": "envelope: ",
        "scale": "envelope: output scale is ",
        "tolerance": "envelope: tolerance is ",
        "deviation": "",
        "number of proved rows": "envelope: ",
        "number of proved outputs": "envelope: ",
        "proved": "verification: ",
    }.items()
}
MUTATIONS |= {
    "empty": (lambda data: b"", "envelope: "),
    "truncated": (lambda data: data[:-1], "envelope: "),
    "extended": (lambda data: data + b"\0", "envelope: "),
    "half": (lambda data: data[: len(data) // 2], "envelope: "),
    "claims a gigabyte": (_claims_a_gigabyte, "envelope: "),
}
