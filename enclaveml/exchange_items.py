"""What ranks trade in a tick, and the bytes of it: reports of workers, orders of rank 0, the boxes where they wait.

Letters: n rows at hand, D outputs per row.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Report:
    """What a worker brings: ``kind`` is outputs, envelope, slice, failed, cancelled, drained, error or signal.

    rows (n,) int64 and outputs (n, D) float32 with outputs; ``blob`` the envelope's
    bytes; ``meta`` the rest (bundle, seconds, text), of JSON types.
    """

    kind: str
    meta: Mapping[str, object] = field(default_factory=dict)
    rows: np.ndarray | None = None
    outputs: np.ndarray | None = None
    blob: bytes = b""


@dataclass(frozen=True)
class Order:
    """What rank 0 hands out: ``kind`` is infer, prove, forget, cancel, drain or stop.

    rows (n,) int64 are dataset rows; ``data`` (n, *row_shape) are these rows, with infer.
    """

    kind: str
    meta: Mapping[str, object] = field(default_factory=dict)
    rows: np.ndarray | None = None
    data: np.ndarray | None = None


class Outbox:
    """Numbered items that wait until the other side has read them."""

    def __init__(self) -> None:
        self._items: list[tuple[int, object]] = []
        self._next = 1

    def put(self, item: object) -> None:
        """Add an item behind the others."""
        self._items.append((self._next, item))
        self._next += 1

    def pending(self) -> list[tuple[int, object]]:
        """(number, item) of what has not been read, oldest first."""
        return list(self._items)

    def read_up_to(self, number: int) -> None:
        """Forget the items up to ``number``: the other side has them."""
        if self._items and self._items[0][0] <= number:
            self._items = [(n, item) for n, item in self._items if n > number]

    def __len__(self) -> int:
        return len(self._items)


def records_of(dtype: np.dtype, rows: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Row ids (n,) int64 and their outputs (n, D) float32 as records of ``dtype``, (n,)."""
    out = np.empty(len(rows), dtype)
    out["row"], out["output"] = rows, outputs
    return out


def joined(parts: Sequence[np.ndarray], row_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """All parts in one array (n, *row_shape), which is not copied where they lie one after the other in memory:
    so do a round's rows that go to the ranks in their order."""
    if not parts:
        return np.empty((0, *row_shape), dtype)
    whole = _adjacent([part for part in parts if len(part)]) if parts[0].dtype == dtype else None
    return np.concatenate(parts).astype(dtype, copy=False) if whole is None else whole


def _adjacent(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    """Views of one array, each beginning where the one before it ends, as one view; None where they are not that."""
    if not parts or parts[0].base is None or not all(p.flags.c_contiguous for p in parts):
        return None
    first = parts[0]
    ends = [p.__array_interface__["data"][0] + p.nbytes for p in parts[:-1]]
    begins = [p.__array_interface__["data"][0] for p in parts[1:]]
    if ends != begins or any(p.base is not first.base or p.dtype != first.dtype for p in parts):
        return None
    return np.lib.stride_tricks.as_strided(first, (sum(map(len, parts)), *first.shape[1:]), writeable=False)


def pack_reports(items: Sequence[tuple[int, Report]]) -> bytes:
    """Numbered reports, but for their rows and outputs, which travel as records: a JSON list and the blobs."""
    listed = [
        {"seq": n, "kind": r.kind, "meta": dict(r.meta), "rows": 0 if r.rows is None else len(r.rows),
         "blob": len(r.blob)}
        for n, r in items
    ]
    text = json.dumps(listed).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(r.blob for _, r in items)


def unpack_reports(blob: bytes, records: np.ndarray) -> list[tuple[int, Report]]:
    """The reports of one rank. Untrusted: raises ValueError, KeyError, TypeError, OverflowError or struct.error."""
    (length,) = struct.unpack_from("<Q", blob)
    listed = json.loads(blob[8: 8 + length])
    at, row_at, out = 8 + length, 0, []
    for item in listed:
        n_rows, n_blob, number = int(item["rows"]), int(item["blob"]), int(item["seq"])
        if n_rows < 0 or n_blob < 0 or not isinstance(item["meta"], dict) or not isinstance(item["kind"], str):
            raise ValueError(f"malformed item {str(item)[:200]}")
        if not 0 < number < 1 << 62:  # it goes back in a header of int64
            raise ValueError(f"malformed item {str(item)[:200]}")
        part = records[row_at: row_at + n_rows]
        body = blob[at: at + n_blob]
        if len(part) != n_rows or len(body) != n_blob:
            raise ValueError(f"item {item['seq']} claims {n_rows} rows and {n_blob} bytes that are not there")
        at, row_at = at + n_blob, row_at + n_rows
        out.append((number, Report(item["kind"], item["meta"], part["row"].copy(), part["output"].copy(), body)))
    return out


def pack_orders(orders: Sequence[tuple[int, Order]]) -> bytes:
    """Numbered orders as JSON, but for rows that travel with their data."""
    return json.dumps([
        {"seq": n, "kind": o.kind, "meta": dict(o.meta), "data": 0 if o.data is None else len(o.data),
         "rows": None if o.rows is None or o.data is not None else np.asarray(o.rows).tolist()}
        for n, o in orders
    ]).encode()


def unpack_orders(blob: bytes, ids: np.ndarray, data: np.ndarray) -> list[tuple[int, Order]]:
    """The numbered orders of ``blob``, with their rows ``ids`` (n,) int64 and ``data`` (n, *row_shape)."""
    out, at = [], 0
    for item in json.loads(blob) if blob else []:
        n = item["data"]
        rows = ids[at: at + n] if item["rows"] is None else np.array(item["rows"], np.int64)
        out.append((item["seq"], Order(item["kind"], item["meta"], rows, data[at: at + n] if n else None)))
        at += n
    return out
