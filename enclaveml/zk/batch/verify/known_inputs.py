"""Inputs of a masked proof that the verifier has: the real rows, and the mask rows below them, derived from a key."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256, shake_256

import numpy as np

from ..format import DIGEST_DOMAIN, INPUTS_DOMAIN, MASKS_DOMAIN, P, VerificationKey
from .field import product, small


@dataclass(frozen=True)
class KnownInputs:
    """x: integers [N - m, K], the quantised inputs. key: 32 bytes, the input key that the prover had."""

    x: np.ndarray
    key: bytes


def input_digest(salt: bytes, known: KnownInputs) -> bytes:
    """What a proof says of its inputs and their key before anything is drawn: they cannot be chosen later."""
    return sha256(b"".join([DIGEST_DOMAIN, known.key, salt, np.ascontiguousarray(known.x, "<i2").tobytes()])).digest()


class InputRows:
    """All rows of the inputs, the proof's mask rows included."""

    def __init__(self, key: VerificationKey, nonce: bytes, salt: bytes, known: KnownInputs) -> None:
        seed = sha256(b"".join([INPUTS_DOMAIN, known.key, salt, nonce])).digest()
        self._x = known.x
        self._masks = stream(seed, "inputs", key.masks * key.width).reshape(key.masks, key.width)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """[5, K]: sum_i eq_i x[i, j]; rows [5, N]."""
        real = len(self._x)
        return small(product(rows[:, :real], self._x) + product(rows[:, real:], self._masks))


def stream(seed: bytes, label: str, count: int) -> np.ndarray:
    """``count`` numbers below p, int64: the elements that ``seed`` (32 bytes) gives under ``label``."""
    source = shake_256(MASKS_DOMAIN + seed + len(label).to_bytes(2, "little") + label.encode())
    words = count * 17 // 16 + 64
    while True:
        found = np.frombuffer(source.digest(4 * words), "<u4").astype(np.int64) & (2**31 - 1)
        found = found[found < P]  # 15 of 16 are
        if len(found) >= count:
            return found[:count]
        words += words // 8
