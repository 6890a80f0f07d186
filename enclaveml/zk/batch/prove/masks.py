"""What hides the rows of a masked proof: streams of uniform values from a seed (PROTOCOL.md, "The masked proof", randomness)."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence

import numpy as np

from enclaveml.zk.batch.format import DIGEST_DOMAIN, INPUT_KEY, INPUT_SALT, INPUTS_DOMAIN, MASKS_DOMAIN, PADS, SALT, P


class Masks:
    """The values that follow from a seed of 32 bytes, each array by the label that the protocol gives it."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError(f"a seed of {len(seed)} bytes; 32 are expected")
        self._seed = seed

    def next(self) -> Masks:
        """What a prover starts anew with."""
        return Masks(hashlib.sha256(self._seed).digest())

    def elements(self, label: str, shape: Sequence[int]) -> np.ndarray:
        """Uniform elements of F_p: uint32 of this shape, plain."""
        count = math.prod(shape)
        stream = self._stream(label)
        words = count + count // 14 + 4 * math.isqrt(count) + 32  # one of 16 is dropped
        while True:
            found = np.frombuffer(stream.digest(4 * words), "<u4") & np.uint32(2**31 - 1)
            found = found[found < P]
            if len(found) >= count:
                return found[:count].reshape(shape)
            words *= 2

    def pads(self, label: str, length: int) -> np.ndarray:
        """The columns U_0..U_4, E_0..E_4 of an opening: uint32 [length, 10]."""
        return self.elements(f"pads {label}", (length, PADS))

    def salts(self, label: str, leaves: int) -> np.ndarray:
        """Salts of a tree's leaves: uint8 [leaves, 16]."""
        return np.frombuffer(self._stream(f"salts {label}").digest(SALT * leaves), np.uint8).reshape(leaves, SALT)

    def input_salt(self) -> bytes:
        """What the masks of the inputs depend on beside the input key: other for each proof."""
        return self._stream("input salt").digest(INPUT_SALT)

    def _stream(self, label: str) -> hashlib._Hash:
        name = label.encode()
        return hashlib.shake_256(MASKS_DOMAIN + self._seed + struct.pack("<H", len(name)) + name)


def input_masks(input_key: bytes, salt: bytes, nonce: bytes, shape: tuple[int, int]) -> np.ndarray:
    """The mask rows of the inputs, uint32 (m, K): whoever has the input key, 32 bytes, can compute them."""
    if len(input_key) != INPUT_KEY:
        raise ValueError(f"an input key of {len(input_key)} bytes; {INPUT_KEY} are expected")
    return Masks(hashlib.sha256(INPUTS_DOMAIN + input_key + salt + nonce).digest()).elements("inputs", shape)


def input_digest(input_key: bytes, salt: bytes, x: np.ndarray) -> bytes:
    """What the proof says of the real rows' inputs (N - m, K) and their key before anything is drawn."""
    return hashlib.sha256(DIGEST_DOMAIN + input_key + salt + np.ascontiguousarray(x, "<i2").tobytes()).digest()
