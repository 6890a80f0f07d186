"""Fixed point and field elements, as ezkl has them.

A float x at scale s stands for the integer round(x * 2**s), half away from zero, computed in
float64 (ezkl's ``quantize_float``). An integer v stands for v mod p in the scalar field of BN254;
v < 0 for p - |v|. A field element is written as 32 little-endian bytes (ezkl's hex).
"""

from __future__ import annotations

import numpy as np

#: Order of BN254's scalar group (EIP-197).
MODULUS = 0x30644E72E131A029B85045B68181585D2833E84879B9709143E1F593F0000001

#: Largest magnitude that a proved output may have. Far below p/2, so sums of such values are signed
#: without doubt, and it is exact in int64.
MAX_MAGNITUDE = 2**62

_P_LIMBS = np.array([(MODULUS >> (64 * i)) & (2**64 - 1) for i in range(4)], dtype="<u8")
_MAX_INPUT = 2.0**52  # beyond it float64 no longer holds every integer


def quantise(values: np.ndarray, scale: int) -> np.ndarray:
    """Fixed-point int64 of floats or integers, elementwise, as ezkl quantises its inputs.

    Raises ValueError for values that are not finite or exceed 2**52 at this scale.
    """
    scaled = np.asarray(values).astype(np.float64) * 2.0**scale
    if not np.all(np.abs(scaled) < _MAX_INPUT):  # NaN compares false
        raise ValueError(f"a value is not finite or exceeds 2**{52 - scale}, the most at scale {scale}")
    whole = np.trunc(scaled)
    # scaled - whole is exact, where floor(x + 0.5) would round 0.49999999999999994 up
    return (whole + np.sign(scaled) * (np.abs(scaled - whole) >= 0.5)).astype(np.int64)


def dequantise(values: np.ndarray, scale: int) -> np.ndarray:
    """float64 of fixed-point int64."""
    return values.astype(np.float64) * 2.0**-scale


def to_felts(values: np.ndarray) -> bytes:
    """Canonical field elements, 32 bytes each, of int64 values in row-major order."""
    flat = np.ascontiguousarray(values, dtype=np.int64).reshape(-1)
    limbs = np.zeros((flat.size, 4), dtype="<u8")
    limbs[:, 0] = np.where(flat >= 0, flat, 0).astype(np.uint64)
    negative = flat < 0
    magnitude = (~flat[negative]).astype(np.uint64) + np.uint64(1)  # |-2**63| has no int64
    limbs[negative] = _P_LIMBS
    borrow = magnitude > _P_LIMBS[0]
    limbs[negative, 0] = _P_LIMBS[0] - magnitude  # wraps where it borrows
    limbs[negative, 1] -= borrow.astype(np.uint64)
    return limbs.tobytes()


def from_felts(data: bytes) -> np.ndarray:
    """int64 of canonical field elements within +-MAX_MAGNITUDE; ValueError for any other bytes."""
    if len(data) % 32:
        raise ValueError(f"{len(data)} bytes are no whole number of field elements")
    limbs = np.frombuffer(data, dtype="<u8").reshape(-1, 4)
    positive = (limbs[:, 1:] == 0).all(axis=1) & (limbs[:, 0] <= MAX_MAGNITUDE)
    magnitude = _P_LIMBS[0] - limbs[:, 0]
    borrow = (limbs[:, 0] > _P_LIMBS[0]).astype(np.uint64)
    upper = (limbs[:, 1] == _P_LIMBS[1] - borrow) & (limbs[:, 2:] == _P_LIMBS[2:]).all(axis=1)
    negative = upper & (magnitude <= MAX_MAGNITUDE) & (magnitude > 0)
    if not np.all(positive | negative):
        raise ValueError("a field element is not canonical or out of the signed range")
    return np.where(positive, limbs[:, 0].astype(np.int64), -(magnitude.astype(np.int64)))


def hex_felts(data: bytes) -> list[str]:
    """Field elements of 32 bytes each as ezkl's hex strings."""
    text = data.hex()
    return [text[i : i + 64] for i in range(0, len(text), 64)]
