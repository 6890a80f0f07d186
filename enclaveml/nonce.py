"""What names one order to prove, in 32 bytes that a proof can be bound to.

Rank 0 makes it of what it ordered and sends it along; the batch system's proofs are bound to it (ezkl's circuits have no place for
it, and their proofs stay true statements wherever they are played again). Everything that it is made of is in the envelope and the results file, so an
auditor makes it again.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

NONCE_BYTES = 32

_DOMAIN = b"enclaveml nonce 1"


def nonce_of(job_id: str, node_id: str, rank: int, circuit_id: str, round_: int, bundle: int, attempt: int, rows: np.ndarray) -> bytes:
    """SHA-256 over the labels of one bundle: 32 bytes.

    In this order, little-endian: ``enclaveml nonce 1``; job_id and node_id, each as its length in bytes (u32) and UTF-8; rank (i32);
    circuit_id (32 bytes of its hex); round and bundle (u64), attempt (u32); the number of rows (u64) and the dataset's rows (i64 each),
    padding left out. ``job_id`` is of one session: a job that is resumed has another, so bundle numbers may begin anew.
    """
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (job_id.encode(), node_id.encode()))
    numbers = struct.pack("<i", rank) + bytes.fromhex(circuit_id) + struct.pack("<QQI", round_, bundle, attempt)
    listed = struct.pack("<Q", len(rows)) + np.asarray(rows).astype("<i8").tobytes()
    return hashlib.sha256(_DOMAIN + texts + numbers + listed).digest()
