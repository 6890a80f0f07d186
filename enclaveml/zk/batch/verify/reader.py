"""A proof's bytes, message by message; nothing but canonical coordinates comes through."""

from __future__ import annotations

import numpy as np

from ..format import DEGREE, P
from .element import Element
from .field import small
from .rejection import demand

#: Bytes of an element of F.
ELEMENT = 4 * DEGREE


class Reader:
    """Reads a proof from its beginning; its length, which follows from the key, has been checked."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        demand(self._at + count <= len(self._data), "length: the proof ends within a message")
        self._at += count
        return self._data[self._at - count:self._at]

    def elements(self, count: int, what: str) -> tuple[bytes, list[Element]]:
        """The next elements of F, as bytes and as values."""
        raw = self.take(ELEMENT * count)
        words = numbers(raw, what).tolist()
        return raw, [Element(tuple(words[DEGREE * i:DEGREE * (i + 1)])) for i in range(count)]

    def array(self, count: int, what: str) -> tuple[bytes, np.ndarray]:
        """The same, the values as [5, count] (``extension``)."""
        raw = self.take(ELEMENT * count)
        words = numbers(raw, what).reshape(count, DEGREE)
        return raw, small(np.ascontiguousarray(words.T))


def numbers(raw: bytes, what: str) -> np.ndarray:
    """u32, each below p, as int64; ``Rejected`` where one isn't."""
    words = np.frombuffer(raw, "<u4")
    demand(words.size == 0 or int(words.max()) < P, f"encoding: a number of the {what} is not below p")
    return words.astype(np.int64)
