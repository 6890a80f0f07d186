"""The Fiat-Shamir transcript (PROTOCOL.md, "Transcript"), and the proof's bytes as they come to be."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from enclaveml.zk.batch.format import DEGREE, DOMAIN, P
from enclaveml.zk.batch.prove.extension import Element


class Transcript:
    """State of 32 bytes; ``message`` is what the proof consists of, ``absorb`` what both sides know."""

    def __init__(self) -> None:
        self._state = hashlib.sha256(DOMAIN).digest()
        self._proof: list[bytes] = []

    @property
    def proof(self) -> bytes:
        """All messages until now, in their order."""
        return b"".join(self._proof)

    def absorb(self, label: str, data: bytes) -> None:
        """Bind everything that is drawn later to ``data``."""
        name = label.encode()
        head = b"A" + self._state + struct.pack("<H", len(name)) + name + struct.pack("<Q", len(data))
        digest = hashlib.sha256(head)
        digest.update(data)
        self._state = digest.digest()

    def message(self, label: str, data: bytes) -> None:
        """Absorb ``data`` and append it to the proof."""
        self.absorb(label, data)
        self._proof.append(data)

    def words(self, label: str, count: int) -> np.ndarray:
        """Draw uint64 [count]."""
        name = label.encode()
        self._state = hashlib.sha256(
            b"C" + self._state + struct.pack("<H", len(name)) + name + struct.pack("<Q", count)).digest()
        head = hashlib.sha256(b"X" + self._state)
        blocks = []
        for i in range(-(-count // 4)):
            block = head.copy()
            block.update(struct.pack("<Q", i))
            blocks.append(block.digest())
        return np.frombuffer(b"".join(blocks), "<u8")[:count].astype(np.uint64)

    def vector(self, label: str, count: int) -> np.ndarray:
        """Draw ``count`` elements of F: uint32 [count, 5], plain."""
        return (self.words(label, DEGREE * count) % np.uint64(P)).astype(np.uint32).reshape(count, DEGREE)

    def elements(self, label: str, count: int = 1) -> list[Element]:
        """Draw ``count`` elements of F as integers."""
        return [tuple(row) for row in self.vector(label, count).tolist()]
