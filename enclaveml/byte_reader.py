"""Reading binary formats from bytes that nobody vouches for: bounded, strict, with errors that say where.

Each length is compared with the bytes that are left before anything is read or made, so a length that is
merely claimed costs nothing. Everything here raises FormatError only.
"""

from __future__ import annotations

import struct

import numpy as np

from .errors import FormatError

TEXT_RULE = "UTF-8 without control characters"


class ByteReader:
    """Reads fields, one after the other, from ``data[at:end]``, the bytes of ``section``.

    ``form`` names the format in errors. Numbers are little-endian, counts and lengths uint64 (a text's
    uint16). Arrays come in native byte order and may be read-only.
    """

    def __init__(
        self, form: str, data: bytes, at: int = 0, end: int | None = None, section: str = "header"
    ) -> None:
        self.form, self.data, self.at, self.section = form, data, at, section
        self._end = len(data) if end is None else end

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return self._end - self.at

    def fault(self, offset: int, name: str, found: str, allowed: str) -> FormatError:
        """The error to raise for the field ``name`` at ``offset`` of the data."""
        return FormatError(
            f"{self.form}, offset {offset}, {self.section}: {name}: {found} found; {allowed} allowed"
        )

    def take(self, size: int, name: str) -> bytes:
        """The next ``size`` bytes."""
        if size > self.left:
            raise self.fault(self.at, name, f"{self.left} bytes left", f"{size} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str, name: str):
        """One number, ``code`` as in ``struct``, for instance "<Q"."""
        return struct.unpack(code, self.take(struct.calcsize(code), name))[0]

    def count(self, name: str, most: int) -> int:
        """A uint64 from 1 to ``most``."""
        at, found = self.at, self.number("<Q", f"number of {name}")
        if not 1 <= found <= most:
            raise self.fault(at, f"number of {name}", str(found), f"1 to {most}")
        return found

    def array(self, shape: tuple[int, ...], code: str, name: str) -> np.ndarray:
        """An array whose elements stand in C order; ``code`` is a numpy type with its byte order."""
        size = np.dtype(code).itemsize
        for length in shape:
            size *= length  # Python's integers: a product of claimed counts cannot wrap round
        native = np.dtype(code).newbyteorder("=")
        return np.frombuffer(self.take(size, name), dtype=code).reshape(shape).astype(native, copy=False)

    def text(self, name: str, most: int) -> str:
        """A uint16 length, at most ``most``, and as many bytes of UTF-8 without control characters."""
        at, size = self.at, self.number("<H", f"length of {name}")
        if size > most:
            raise self.fault(at, f"length of {name}", str(size), f"at most {most}")
        at = self.at
        try:
            text = self.take(size, name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fault(at, name, f"no UTF-8 ({error.reason})", TEXT_RULE) from None
        fault = text_fault(text)
        if fault:
            raise self.fault(at, name, fault, TEXT_RULE)
        return text

    def blob(self, name: str, most: int) -> bytes:
        """A uint64 length, at most ``most``, and as many bytes."""
        part = self.part(name, most=most)
        return part.take(part.left, name)

    def part(self, name: str, section: str | None = None, most: int | None = None) -> ByteReader:
        """A reader of the part whose uint64 length stands here; this reader goes on behind it."""
        at, size = self.at, self.number("<Q", f"length of {name}")
        if size > self.left:
            raise self.fault(at, f"length of {name}", str(size), f"at most {self.left}, the bytes left,")
        if most is not None and size > most:
            raise self.fault(at, f"length of {name}", str(size), f"at most {most}")
        self.at += size
        section = section or f"{self.section}, {name}"
        return ByteReader(self.form, self.data, self.at - size, self.at, section)

    def end(self) -> None:
        """Raise FormatError unless everything has been read."""
        if self.left:
            raise self.fault(self.at, "end", f"{self.left} bytes more", "none")


def text_fault(text: str) -> str:
    """What is wrong with a text, or "". Control characters would let a sender write lines into a log."""
    for character in text:
        if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0:
            return f"control character U+{ord(character):04X}"
        if 0xD800 <= ord(character) < 0xE000:
            return f"surrogate U+{ord(character):04X}"
    return ""
