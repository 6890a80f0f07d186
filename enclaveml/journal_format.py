"""The bytes of a journal: records with lengths and digests, read one at a time, torn tails told from damage.

Little-endian (also in RESULTS.md)::

    file    "EMLJRNL1", salt (16 bytes), records
    record  "EMLR", header length u32, body length u64, digest (16 bytes), CRC-32 u32 of the 32 bytes before
            header (JSON), body (arrays and bytes, each at the offset that the header names)

The digest is BLAKE2b-128 over record offset, lengths, header and body, keyed with the salt: bytes
of an envelope that a worker sent cannot pass for a record, nor can a record that was moved.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from enclaveml import records
from enclaveml.errors import FormatError

MAGIC, RECORD = b"EMLJRNL1", b"EMLR"
SALT_BYTES = 16
FIRST = len(MAGIC) + SALT_BYTES  #: offset of the first record
HEADER_LIMIT = 1 << 26  # a start record holds the job file and a table of ranks, far below this
_PREAMBLE = struct.Struct("<4sIQ16sI")
_PIECE = 1 << 20


@dataclass(frozen=True)
class Record:
    """One record as read back. ``arrays`` are read-only; ``time`` is when it was appended (Unix seconds)."""

    kind: str
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    blobs: Mapping[str, bytes]
    time: float
    offset: int
    number: int


def hasher(salt: bytes, offset: int, header: int, body: int) -> Any:
    return hashlib.blake2b(struct.pack("<QIQ", offset, header, body), digest_size=16, key=salt)


def preamble(header: int, body: int, digest: bytes) -> bytes:
    front = _PREAMBLE.pack(RECORD, header, body, digest, 0)[:-4]
    return front + struct.pack("<I", zlib.crc32(front))


def read_start(path: Path, stream: BinaryIO) -> bytes:
    start = stream.read(FIRST)
    if len(start) < FIRST and MAGIC.startswith(start[: len(MAGIC)]):
        raise FormatError(
            f"{path}: is a journal that was never started ({len(start)} bytes); --force starts afresh"
        )
    if not start.startswith(MAGIC):
        raise FormatError(
            f"{path}: is no EnclaveML journal (it begins with {start[:8]!r}, expected {MAGIC!r})"
        )
    return start[len(MAGIC) :]


def scan(path: Path, stream: BinaryIO, salt: bytes, offset: int, number: int) -> Iterator[tuple[Record, int]]:
    """Records from ``offset`` with the offset behind each, up to the end or a torn tail."""
    while True:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(offset)
        front = stream.read(_PREAMBLE.size)
        lengths = _lengths(front)
        if lengths is None:
            # Fewer bytes than a preamble are a torn tail; so are more, unless a whole record follows.
            if len(front) == _PREAMBLE.size and _record_after(stream, salt, offset + 1, size):
                raise _damaged(path, offset, number)
            return
        header_length, body_length = lengths
        after = offset + _PREAMBLE.size + header_length + body_length
        if after > size:
            return
        digest, data = hasher(salt, offset, header_length, body_length), bytearray()
        while len(data) < header_length + body_length:
            piece = stream.read(min(_PIECE, header_length + body_length - len(data)))
            if not piece:
                return  # cut off while we read
            data += piece
        digest.update(data)
        if digest.digest() != front[16:32]:
            if after < size and _record_after(stream, salt, after, size):
                raise _damaged(path, offset, number)
            return
        yield (
            _parse(path, bytes(data[:header_length]), memoryview(data)[header_length:], offset, number),
            after,
        )
        offset, number = after, number + 1


def _lengths(front: bytes) -> tuple[int, int] | None:
    if len(front) < _PREAMBLE.size:
        return None
    magic, header, body, _, check = _PREAMBLE.unpack(front)
    if magic != RECORD or check != zlib.crc32(front[:-4]) or header > HEADER_LIMIT:
        return None
    return header, body


def _record_after(stream: BinaryIO, salt: bytes, offset: int, size: int) -> bool:
    """Whether a whole, valid record starts anywhere from ``offset`` on."""
    position = offset
    while position < size:
        stream.seek(position)
        piece = stream.read(_PIECE + _PREAMBLE.size)
        found = piece.find(RECORD)
        if found < 0:
            position += max(len(piece) - len(RECORD) + 1, 1)
            continue
        position += found
        stream.seek(position)
        front = stream.read(_PREAMBLE.size)
        lengths = _lengths(front)
        if lengths and position + _PREAMBLE.size + sum(lengths) <= size:
            digest, left = hasher(salt, position, *lengths), sum(lengths)
            while left:
                piece = stream.read(min(_PIECE, left))
                if not piece:
                    break
                digest.update(piece)
                left -= len(piece)
            if not left and digest.digest() == front[16:32]:
                return True
        position += 1
    return False


def _damaged(path: Path, offset: int, number: int) -> FormatError:
    return FormatError(
        f"{path}: record {number} at byte {offset} is damaged, and whole records follow it; "
        f"'truncate -s {offset}' on a copy keeps the {number} records before it"
    )


def _parse(path: Path, header: bytes, body: memoryview, offset: int, number: int) -> Record:
    """The digest held, so anything wrong from here on was written so; it is refused all the same."""
    where = f"{path}: record {number} at byte {offset}"
    try:
        document = json.loads(header)
        kind, meta = document["kind"], document["meta"]
        arrays: dict[str, np.ndarray] = {}
        blobs: dict[str, bytes] = {}
        for part in document["parts"]:
            start, shape = part["offset"], part["shape"]
            if part["dtype"] == "bytes":
                blobs[part["name"]] = _cut(body, start, shape[0]).tobytes()
                continue
            dtype = np.dtype(part["dtype"])
            if dtype.kind not in "biuf":
                raise ValueError(f"dtype {dtype}")
            count = int(np.prod(shape, dtype=object)) if shape else 1
            array = np.frombuffer(_cut(body, start, count * dtype.itemsize), dtype).reshape(shape)
            array.flags.writeable = False
            arrays[part["name"]] = array
        wrong = records.fault(kind, meta, arrays, blobs)
        record = Record(kind, meta, arrays, blobs, float(document["time"]), offset, number)
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise FormatError(f"{where}: is not as its format says: {error}") from error
    if wrong:
        raise FormatError(f"{where}: {wrong}")
    return record


def _cut(body: memoryview, start: int, length: int) -> memoryview:
    if start < 0 or length < 0 or start + length > len(body):
        raise ValueError(f"a part at {start} of {length} bytes in a body of {len(body)}")
    return body[start : start + length]
