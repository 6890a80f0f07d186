"""The kinds of record in a journal, as data: what the aggregator writes and every reader may rely on.

Letters: n rows in this record, D flat outputs per row, P ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Kind:
    """One kind of record. ``meta``: key to Python type; ``arrays``: name to (dtype, shape); ``blobs``: bytes.

    Keys in ``optional`` may be left out; further meta keys are kept and ignored.
    """

    meaning: str
    meta: Mapping[str, type | tuple[type, ...]]
    arrays: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    blobs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


_REAL = (int, float)

KINDS: dict[str, Kind] = {
    "start": Kind(
        "first record of every journal: what the job is",
        {
            "job": str,
            "job_given": str,
            "inputs": str,
            "strategy": str,
            "versions": dict,
            "model_hash": str,
            "dataset_fingerprint": str,
            "rows": int,
            "outputs": int,
            "started": str,
            "ranks": list,
        },
    ),
    "resume": Kind(
        "a killed or stopped job goes on, perhaps on other ranks",
        {"started": str, "versions": dict, "ranks": list},
    ),
    "circuit": Kind(
        "a circuit, before the first bundle that was proved with it; and bytes srs or weights_proof, by its system",
        {"circuit_id": str, "manifest": dict},
        {},
        ("vk", "settings"),
    ),
    "outputs": Kind(
        "float outputs gathered from one rank, before it proves them",
        {"rank": int, "attempt": int, "round": int},
        {"rows": ("int64", ("n",)), "outputs": ("float32", ("n", "D"))},
        optional=("attempt",),
    ),
    "draw": Kind(
        "which of a rank's rows are to be proved (coverage below 1): `drawn` of `of` rows in `start` to `stop`, by the "
        "seed (hex); what follows from it is said at this `confidence`",
        {"rank": int, "round": int, "seed": str, "of": int, "drawn": int, "confidence": _REAL, "start": int, "stop": int},
        {"rows": ("int64", ("n",))},
    ),
    "sealed": Kind(
        "outputs that a draw by a beacon is from, a digest (`leaf`) each, and the SHA-256 of them all (`root`), "
        "before the beacon was read; `before`: SHA-256 of what the beacon's file held then, empty for none",
        {"round": int, "root": str, "before": str},
        {"rows": ("int64", ("n",)), "ranks": ("int32", ("n",)), "leaf": ("uint8", ("n", "L"))},
    ),
    "beacon": Kind(
        "the public value that the draw from the sealed outputs was made with",
        {"root": str, "value": str},
    ),
    "recheck": Kind(
        "unproved rows of a rank that rank 0 computed in float itself: `differ` of them were further off than "
        "`allowed`, the largest deviation of the others is `deviation`",
        {"rank": int, "round": int, "of": int, "differ": int, "allowed": _REAL, "deviation": _REAL},
        {"rows": ("int64", ("n",))},
    ),
    "bundle": Kind(
        "one envelope and the aggregator's verdict on it",
        {
            "bundle": int,
            "rank": int,
            "attempt": int,
            "round": int,
            "verdict": str,
            "verify_seconds": _REAL,
            "circuit_id": str,
            "witness_seconds": _REAL,
            "prove_seconds": _REAL,
        },
        {
            "rows": ("int64", ("n",)),
            "status": ("uint8", ("n",)),
            "proved": ("float64", ("n", "D")),
            "deviation": ("float64", ("n",)),
            "argmax_differs": ("bool", ("n",)),
        },
        ("envelope",),
        ("witness_seconds", "prove_seconds"),
    ),
    "rows": Kind(
        "a status that rows get without a proof: with `rank` (>= 0) it is that rank's answer's, without it "
        "the row's; it never takes `verified` away, nor gives it",
        {"reason": str, "rank": int, "attempt": int},
        {"rows": ("int64", ("n",)), "status": ("uint8", ("n",))},
        optional=("rank", "attempt"),
    ),
    "rank": Kind(
        "what a rank did and how it ended: columns of /ranks, a later record of a rank adds to the earlier",
        {"rank": int, "fate": str, "fate_reason": str, "fate_time": str},
        optional=("fate", "fate_reason", "fate_time"),
    ),
    "heartbeat": Kind(
        "the job lives: running totals of every rank, S columns of P ranks; the next record comes within `every_s` "
        "seconds",
        {"columns": list, "every_s": _REAL},
        {"ranks": ("int32", ("P",)), "values": ("float64", ("P", "S"))},
    ),
    "move": Kind(
        "rows that a rank had not begun to prove go to another, which ran out of work",
        {"from": int, "to": int, "round": int},
        {"rows": ("int64", ("n",))},
    ),
    "copy": Kind(
        "a bundle in flight is proved by another rank as well, under the number `copy`",
        {"from": int, "to": int, "round": int, "bundle": int, "copy": int},
        {"rows": ("int64", ("n",))},
    ),
    "discard": Kind(
        "a bundle that is not needed any more, because the bundle `for` of the same rows was proved first",
        {"rank": int, "bundle": int, "for": int, "round": int},
        {"rows": ("int64", ("n",))},
    ),
    "round": Kind(
        "a round is complete: rows start to start + rows are settled",
        {"counter": int, "start": int, "rows": int},
        optional=("start", "rows"),
    ),
    "end": Kind(
        "last record of a session: the file's status",
        {"status": str, "exit_code": int, "message": str, "finished": str},
    ),
}


def fault(
    kind: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], blobs: Mapping[str, bytes]
) -> str:
    """What is wrong with a record of a known kind, or an empty text. Unknown kinds are passed over."""
    if kind not in KINDS:
        return ""
    spec = KINDS[kind]
    for key, types in spec.meta.items():
        if key not in meta:
            if key in spec.optional:
                continue
            return f"{kind} record: {key} is missing"
        value = meta[key]
        if not isinstance(value, types) or isinstance(value, bool):
            wanted = " or ".join(t.__name__ for t in (types if isinstance(types, tuple) else (types,)))
            return f"{kind} record: {key} is {type(value).__name__}, expected {wanted}"
    lengths: dict[str, int] = {}
    for name, (dtype, shape) in spec.arrays.items():
        if name not in arrays:
            return f"{kind} record: array {name} is missing"
        array = arrays[name]
        if array.dtype != np.dtype(dtype) or array.ndim != len(shape):
            return (
                f"{kind} record: array {name} is {array.dtype} with {array.ndim} dimensions, "
                f"expected {dtype} ({', '.join(shape)})"
            )
        for letter, length in zip(shape, array.shape):
            if lengths.setdefault(letter, length) != length:
                return f"{kind} record: array {name} has {letter} = {length}, others have {lengths[letter]}"
    for name in spec.blobs:
        if name not in blobs:
            return f"{kind} record: bytes {name} are missing"
    return ""
