"""Fiat-Shamir: everything is absorbed before anything is drawn after it (``PROTOCOL.md``, "Transcript")."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from ..format import DEGREE, DOMAIN, P
from .element import Element
from .field import small


class Transcript:
    """The state of 32 bytes, and what is drawn of it."""

    def __init__(self) -> None:
        self.state = sha256(DOMAIN).digest()

    def absorb(self, label: str, data: bytes | np.ndarray) -> None:
        """Put ``data``, bytes or a contiguous array's, under ``label`` into the state."""
        length = memoryview(data).nbytes
        state = sha256(b"A" + self.state + _name(label) + length.to_bytes(8, "little"))
        state.update(data)
        self.state = state.digest()

    def element(self, label: str) -> Element:
        """One challenge."""
        return self.elements(label, 1)[0]

    def elements(self, label: str, count: int) -> list[Element]:
        """So many challenges."""
        words = (self._draw(label, DEGREE * count) % P).tolist()
        return [Element(tuple(words[DEGREE * i:DEGREE * (i + 1)])) for i in range(count)]

    def array(self, label: str, count: int) -> np.ndarray:
        """The same as an array [5, count] (``extension``)."""
        words = (self._draw(label, DEGREE * count) % P).astype(np.int64)
        return small(np.ascontiguousarray(words.reshape(count, DEGREE).T))

    def positions(self, label: str, count: int, below: int) -> list[int]:
        """So many positions below a power of two, with replacement."""
        return (self._draw(label, count) % below).tolist()

    def _draw(self, label: str, count: int) -> np.ndarray:
        self.state = sha256(b"".join([b"C", self.state, _name(label), count.to_bytes(8, "little")])).digest()
        blocks = (sha256(b"X" + self.state + i.to_bytes(8, "little")).digest() for i in range(-(-count // 4)))
        return np.frombuffer(b"".join(blocks), "<u8")[:count]


def _name(label: str) -> bytes:
    return len(label).to_bytes(2, "little") + label.encode()
