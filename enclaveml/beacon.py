"""A public value, later than the outputs, that decides which rows are proved: ``proof.beacon``.

A draw by rank 0's own randomness convinces rank 0: an outsider could think that it drew again until it
suited. So the outputs are sealed first: a digest of each goes to the journal, and the SHA-256 of all of
them to the log. Only then is the beacon's file read, into which the user puts a value that nobody knew
before (a later round of drand, NIST's beacon, the closing prices of a day). Each rank's seed follows from
both. What the file held when the outputs were sealed is no such value; it must change.

That the digest was known before the value was is nothing that a file can show: whoever was told the
digest in time knows it (AUDIT.md).

Letters: n rows drawn from, D outputs per row.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.errors import Fault, JobError
from enclaveml.journal import Journal

log = logging.getLogger(__name__)

#: With a beacon the job is one round: its rows are in rank 0's memory, which may be so many bytes.
MOST_BYTES = 1 << 30
#: Characters of a beacon's value.
MOST_TEXT = 256  # texts in tables of the results file are cut at 500 bytes

_GLANCE_S = 1.0


def leaves(rows: np.ndarray, ranks: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The digest of each output (n, 32) uint8: SHA-256 of ``EnclaveML output 1``, a line feed, rank (u32), row
    (u64) and the D float32 of rows (n,) and outputs (n, D); little-endian."""
    values = np.ascontiguousarray(outputs, "<f4").tobytes()
    size = len(values) // max(1, len(rows))
    found = b"".join(
        hashlib.sha256(b"EnclaveML output 1\n" + struct.pack("<IQ", rank, row) + values[i * size : (i + 1) * size]).digest()
        for i, (rank, row) in enumerate(zip(ranks.tolist(), rows.tolist(), strict=True)))
    return np.frombuffer(found, np.uint8).reshape(-1, 32)


def root_of(leaf: np.ndarray) -> str:
    """The digest of all outputs (hex): SHA-256 of ``EnclaveML outputs 1``, a line feed and their leaves (n, 32)."""
    return hashlib.sha256(b"EnclaveML outputs 1\n" + np.ascontiguousarray(leaf, np.uint8).tobytes()).hexdigest()


def seed_of(root: str, value: str, rank: int) -> str:
    """A rank's seed (hex): SHA-256 of ``EnclaveML draw 1``, a line feed, the root's 32 bytes, rank (u32) and value (UTF-8)."""
    return hashlib.sha256(b"EnclaveML draw 1\n" + bytes.fromhex(root) + struct.pack("<I", rank) + value.encode()).hexdigest()


def check_size(where: str, row_bytes: int, n_rows: int) -> None:
    """Raise JobError where the rows are too many for one round."""
    if row_bytes * n_rows > MOST_BYTES:
        raise JobError(Fault(where, "proof.beacon", f"the data are {row_bytes * n_rows / 1e9:.2f} GB; allowed: up to "
                             f"{MOST_BYTES / 1e9:.2f} GB, since all outputs come before the draw: cut the job into parts"))


class Beacon:
    """The file ``path`` and the wait for its value, at most ``wait_s`` seconds."""

    def __init__(self, path: Path, wait_s: float, journal: Journal) -> None:
        self._path, self._wait_s, self._journal = path, wait_s, journal
        self._before: dict[str, str] = {}
        self._root = self._value = ""
        self._since = self._looked = 0.0

    def go_on(self, sealed: Iterable[Mapping[str, Any]]) -> None:
        """Take over in what earlier sessions sealed outputs: a value that came after the very same outputs
        were sealed is as good as one that comes now."""
        for line in sealed:
            self._before.setdefault(line["root"], line["before"])

    @property
    def late(self) -> bool:
        """Whether the outputs are sealed and the value did not come in time."""
        return bool(self._root) and not self._value and time.monotonic() - self._since > self._wait_s

    def ready(self, round_: int, rows: np.ndarray, ranks: np.ndarray, outputs: np.ndarray) -> bool:
        """Whether the value is there. The first call seals these outputs: rows and ranks (n,), outputs (n, D)."""
        if not self._root:
            self._seal(round_, rows, ranks, outputs)
        if not self._value and time.monotonic() - self._looked > _GLANCE_S:
            self._looked = time.monotonic()
            self._read()
        return bool(self._value)

    def seed(self, rank: int) -> str:
        """The seed of a rank's draw."""
        return seed_of(self._root, self._value, rank)

    def _seal(self, round_: int, rows: np.ndarray, ranks: np.ndarray, outputs: np.ndarray) -> None:
        order = np.lexsort((rows, ranks))
        rows, ranks = rows[order].astype(np.int64), ranks[order].astype(np.int32)
        leaf = leaves(rows, ranks, outputs[order])
        root = root_of(leaf)
        before = self._before.setdefault(root, _digest(self._content()))
        self._journal.append("sealed", {"round": round_, "root": root, "before": before}, rows=rows, ranks=ranks, leaf=leaf)
        self._journal.flush()
        self._root, self._since = root, time.monotonic()
        log.info("outputs of %d rows are sealed, SHA-256 %s: tell it whom the draw shall convince; waiting up to %.0f s "
                 "for a later public value in %s", len(rows), root, self._wait_s, self._path)

    def _read(self) -> None:
        content = self._content()
        if not content or _digest(content) == self._before[self._root]:
            return
        value = content.decode("utf-8", "replace").strip()
        if not value or len(value) > MOST_TEXT or not (value.isprintable() and value.isascii()):
            log.warning("%s: is no value: allowed are 1 to %d printable ASCII characters on one line", self._path, MOST_TEXT)
            self._before[self._root] = _digest(content)
            return
        self._value = value
        self._journal.append("beacon", {"root": self._root, "value": value})
        self._journal.flush()
        log.info("the beacon's value is %s; the rows to prove are drawn by it", value if len(value) <= 80 else value[:77] + "...")

    def _content(self) -> bytes:
        """What the file holds; nothing where it is not there or cannot be read yet."""
        try:
            with open(self._path, "rb") as file:
                return file.read(4 * MOST_TEXT + 1)
        except OSError:
            return b""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if content else ""
