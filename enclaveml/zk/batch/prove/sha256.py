"""SHA-256 (FIPS 180-4) of many messages of one length, eight at a time in the lanes of vectors, for the prover's trees.

hashlib takes 0.4 us to start a hash of 80 ns, and holds the interpreter's lock for messages below 2 KB. Here the lock is released, so
that threads share the work. Importing this needs numba; what it compiles is kept in numba's cache. ``tree`` does without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

#: Messages that are hashed at once: 256 bits, on any processor (LLVM cuts or joins vectors as its registers are).
LANES = 8

_WORD = (1 << 32) - 1


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def _root(number: int, degree: int) -> int:
    """The integer part of the root."""
    low, high = 0, 1 << (number.bit_length() // degree + 1)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle)
    return low


#: The first 32 bits of the fractions of primes' square and cube roots (FIPS 180-4, 5.3.3 and 4.2.2).
START = tuple(_root(prime << 64, 2) & _WORD for prime in _primes(8))
CONSTANTS = tuple(_root(prime << 96, 3) & _WORD for prime in _primes(64))

_START = np.array(START, np.uint32)


@intrinsic
def _compress(_context: Any, state: Any, words: Any) -> Any:
    """FIPS 180-4, 6.2.2: ``state`` [8, LANES] after one more block ``words`` [16, LANES] of each lane, uint32 both."""
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(32), LANES)
        before, block = (builder.bitcast(context.make_array(kind)(context, builder, value).data, vector.as_pointer())
                         for kind, value in zip(signature.args, arguments, strict=True))
        _rounds(builder, vector, before, block)
        return context.get_dummy_value()

    return types.void(state, words), generate


def _rounds(b: ir.IRBuilder, vector: ir.VectorType, before: ir.Value, block: ir.Value) -> None:
    """The 64 rounds, written out."""
    def place(pointer: ir.Value, i: int) -> ir.Value:
        return b.gep(pointer, [ir.Constant(ir.IntType(32), i)])

    def constant(value: int) -> ir.Value:
        return ir.Constant(vector, [value] * LANES)

    def add(first: ir.Value, *others: ir.Value) -> ir.Value:
        return b.add(first, add(*others)) if others else first

    def rotate(x: ir.Value, n: int) -> ir.Value:
        return b.or_(b.lshr(x, constant(n)), b.shl(x, constant(32 - n)))

    def mixed(x: ir.Value, *turns: int) -> ir.Value:
        first, second, third = (rotate(x, n) for n in turns)
        return b.xor(b.xor(first, second), third)

    def schedule(x: ir.Value, one: int, other: int, shift: int) -> ir.Value:
        return b.xor(b.xor(rotate(x, one), rotate(x, other)), b.lshr(x, constant(shift)))

    given = [b.load(place(before, i), align=4) for i in range(8)]
    words = [b.load(place(block, i), align=4) for i in range(16)]
    state = list(given)
    for t in range(64):
        if t >= 16:
            words.append(add(schedule(words[t - 2], 17, 19, 10), words[t - 7], schedule(words[t - 15], 7, 18, 3), words[t - 16]))
        x, y, z, d, e, f, g, h = state
        choice = b.xor(g, b.and_(e, b.xor(f, g)))
        majority = b.xor(y, b.and_(b.xor(x, y), b.xor(y, z)))
        first = add(h, constant(CONSTANTS[t]), words[t], choice, mixed(e, 6, 11, 25))
        state = [add(first, majority, mixed(x, 2, 13, 22)), x, y, z, b.add(d, first), e, f, g]
    for i, (old, new) in enumerate(zip(given, state, strict=True)):
        b.store(b.add(old, new), place(before, i), align=4)


@njit(types.uint32(types.uint32), inline="always")
def _swapped(word: int) -> int:
    """Its bytes in the other order."""
    return np.uint32((word >> 24) | ((word >> 8) & 0xFF00) | ((word << 8) & 0xFF0000) | (word << 24))


_GIVEN = types.Array(types.uint32, 2, "A", readonly=True)
_FOUND = types.Array(types.uint32, 2, "A")


@njit(types.void(types.uint32, _GIVEN, _GIVEN, _FOUND), nogil=True, boundscheck=False, cache=True)
def hash_rows(mark: int, rows: np.ndarray, salts: np.ndarray, found: np.ndarray) -> None:
    """SHA-256 of a byte ``mark``, a row and its salt, uint32 [n, .] as they lie in memory (little-endian), into ``found``, uint32 [n, 8].

    The byte before them moves all words by one: a message's word is the last byte of one number and three of the next.
    """
    width = rows.shape[1]
    whole = width + salts.shape[1]
    length = 4 * whole + 1
    blocks = (length + 9 + 63) // 64
    state, words, carried = np.empty((8, LANES), np.uint32), np.zeros((16, LANES), np.uint32), np.empty(LANES, np.uint32)
    for start in range(0, rows.shape[0], LANES):
        lanes = min(LANES, rows.shape[0] - start)
        for i in range(8):
            state[i, :] = _START[i]
        carried[:] = np.uint32(mark << 24)
        for block in range(blocks):
            for i in range(16):
                k = 16 * block + i
                if k < whole:
                    for lane in range(lanes):
                        number = _swapped(rows[start + lane, k] if k < width else salts[start + lane, k - width])
                        words[i, lane] = carried[lane] | (number >> np.uint32(8))
                        carried[lane] = number << np.uint32(24)
                elif k == whole:
                    for lane in range(lanes):
                        words[i, lane] = carried[lane] | np.uint32(1 << 23)
                else:
                    words[i, :] = 0
            if block == blocks - 1:  # the length in bits: below 2^32, as a leaf's columns are below 2^27
                words[15, :] = np.uint32(8 * length)
            _compress(state, words)
        for i in range(8):
            for lane in range(lanes):
                found[start + lane, i] = _swapped(state[i, lane])
