"""Codewords of columns: in vectors by numba where there are such (``code_kernel``), else in JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache

import numpy as np

from enclaveml.zk.batch.format import BLOWUP, P
from enclaveml.zk.batch.prove import code, field, kernels
from enclaveml.zk.batch.prove.field import Array
from enclaveml.zk.batch.prove.parallel import Pool, cores

#: Encodes columns of one coset: ``code_kernel.encoded``.
Kernel = Callable[[np.ndarray, int, np.ndarray, int], None]

#: In JAX: cells that are encoded at once, about, and most columns: more leave a core's cache.
_CELLS = 1 << 20
_COLUMNS = 256

#: Shorter codes are not worth a kernel, and it has no steps for them.
_SHORTEST = 16

#: Fewest columns of a thread's share, and what their number is a multiple of, but at a part's end.
_LEAST = 64

#: Symbols below which a second thread doesn't pay.
_SHARED = 1 << 16


def codewords(parts: Sequence[np.ndarray], threads: Pool, at_once: bool) -> tuple[list[np.ndarray], list[list[Future[None]]]]:
    """The symbols of columns uint32 [n, .] (plain), or int32 in (-p, p), part after part: by cosets, '<u4' [n, C] each; and for each coset what
    has to be waited for.

    at_once: wait for all before the first: what follows would keep threads from going on.
    """
    n, width = parts[0].shape[0], sum(part.shape[1] for part in parts)
    found = [np.empty((n, width), "<u4") for _ in range(BLOWUP)]
    kernel = vectors() if kernels.without_device() else None
    if kernel and n >= _SHORTEST:
        _in_vectors(kernel, parts, found, threads)
        return found, [[] for _ in found]
    started = _in_jax(np.concatenate([field.from_signed(part.view(np.int32)) for part in parts], axis=1), found, threads)
    return found, [sum(started, [])] * BLOWUP if at_once else started


def _in_vectors(kernel: Kernel, parts: Sequence[np.ndarray], found: list[np.ndarray], threads: Pool) -> None:
    # Cosets are what threads share; where there are more cores than those, every part's columns too.
    shares: list[list[tuple[np.ndarray, int]]] = [[] for _ in range(-(-cores() // BLOWUP))]
    start = 0
    for part in parts:
        width = part.shape[1]
        size = max(_LEAST, -(-width // (len(shares) * _LEAST)) * _LEAST)
        for number, first in enumerate(range(0, width, size)):
            shares[number].append((part[:, first : first + size], start + first))
        start += width

    def run(coset: int, share: list[tuple[np.ndarray, int]]) -> None:
        for columns, to in share:
            kernel(columns, coset, found[coset], to)

    jobs = [(coset, share) for coset in range(BLOWUP) for share in shares if share]
    if found[0].size * BLOWUP < _SHARED:
        for job in jobs:
            run(*job)
    elif jobs:
        threads.map(run, *zip(*jobs, strict=True))


def _in_jax(columns: np.ndarray, found: list[np.ndarray], threads: Pool) -> list[list[Future[None]]]:
    n, width = columns.shape
    block = max(16, min(_COLUMNS, _CELLS // n))
    blocks = -(-width // block)
    block = -(-width // (16 * blocks)) * 16
    parts = [kernels.on_device(_block(columns, start, block)) for start in range(0, width, block)]
    return [[threads.submit(_encode, part, code.scale_powers(n, c), coset[:, b * block : (b + 1) * block])
             for b, part in enumerate(parts)] for c, coset in enumerate(found)]


def _block(columns: np.ndarray, start: int, width: int) -> np.ndarray:
    """So many columns; zeros where there are fewer."""
    part = columns[:, start : start + width]
    return np.pad(part, ((0, 0), (0, width - part.shape[1])))


def _encode(part: Array, scales: np.ndarray, found: np.ndarray) -> None:
    found[:] = np.asarray(kernels.coset_values(part, scales))[:, : found.shape[1]]


@cache
def vectors() -> Kernel | None:
    """``code_kernel.encoded``; None where it cannot be imported, or not called, for whatever reason, or gives something else."""
    try:
        from enclaveml.zk.batch.prove.code_kernel import encoded

        for n in (_SHORTEST, 2 * _SHORTEST):
            tried = (np.arange(1, 11 * n + 1, dtype=np.uint32).reshape(n, 11) * np.uint32(40503)) % np.uint32(P)
            for c in range(BLOWUP):
                found = np.zeros((n, 12), "<u4")
                encoded(tried, c, found, 1)
                if not (found[:, 1:] == code.coset_values(tried, code.scale_powers(n, c))).all() or found[:, 0].any():
                    return None
    except Exception:  # no numba; or its own errors, which share no class; or a cache that a crash has cut
        return None
    return encoded
