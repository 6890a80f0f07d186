"""Every form in which a row of numbers could stand in bytes, for the tests that search files and logs for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from enclaveml.zk.ezkl import field


def forms(row: np.ndarray, scale: int) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the parts of one row (w,) float32, each long enough not to stand anywhere by chance.

    Floats are taken two neighbours at a time, whole numbers of fixed point three at a time, hex and decimal
    text one at a time. scale: fractional bits of the fixed point.
    """
    whole = field.quantise(row, scale)
    for kind in ("f4", "f8", "i2", "i4", "i8"):
        values, step = (row, 2) if kind[0] == "f" else (whole, 3)
        for order in "<>":
            if kind[0] == "f" or np.abs(whole).max() < 1 << (8 * int(kind[1]) - 1):
                array = values.astype(order + kind)
                for i in range(len(row) - step + 1):
                    yield f"{order}{kind}", array[i : i + step].tobytes()
    for i, value in enumerate(whole):
        little = field.to_felts(np.array([value]))
        for name, one in (("little", little), ("big", little[::-1])):
            yield f"{name}-endian hex", one.hex().encode()
            yield f"{name}-endian HEX", one.hex().upper().encode()
        yield "decimal text", str(row[i]).encode()
        yield "decimal text of a double", repr(float(row[i]))[:12].encode()
    for i in range(len(whole) - 1):
        yield "little-endian elements", field.to_felts(whole[i : i + 2])
        yield "big-endian elements", field.to_felts(whole[i : i + 2][::-1])[::-1]


def digests(rows: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of plain SHA-256 digests of rows (N, w): of each, and of all."""
    for name, data in [("SHA-256 of all rows", rows.tobytes()), *(("SHA-256 of a row", row.tobytes()) for row in rows)]:
        found = hashlib.sha256(data)
        yield name, found.digest()
        yield f"{name}, hex", found.hexdigest().encode()


def found(data: bytes, rows: np.ndarray, scale: int, hashed: bool = False) -> set[str]:
    """The names of the forms in which any of the rows (N, w) stands in the data."""
    names = {name for row in rows for name, form in forms(row, scale) if form in data}
    return names | ({name for name, form in digests(rows) if form in data} if hashed else set())
