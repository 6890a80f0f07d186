"""How many rows one proof has: enough that a proof's fixed cost is small, few enough for the memory and the job."""

from __future__ import annotations

import math
from dataclasses import replace

from enclaveml.errors import JobError
from enclaveml.round_size import ROUND_ROWS
from enclaveml.zk.batch.format import MOST_ROWS, VerificationKey
from enclaveml.zk.interface import CircuitRequest

#: Least and most rows that are chosen; beyond the most a row hardly gets cheaper, and a lost proof costs more.
LEAST, MOST = 4, 1 << 14

#: What a proof costs beside its rows, in rows: 190 ms beside 25 us a row (benchmarks/reports/batch.md, digits).
FIXED_ROWS = 7600

#: Part of a rank's memory that its prover may take: the rank itself has rows and outputs there too.
SHARE = 0.7


def choose(request: CircuitRequest, key: VerificationKey) -> int:
    """N for a job's request; ``key`` is the network's at any number of rows.

    Raises JobError where the job gives rows per proof that no proof has, or that the memory does not hold.
    """
    given = request.rows_per_proof
    if given is not None:
        if given & (given - 1) or not LEAST <= given <= MOST_ROWS:
            near = 1 << max(2, round(math.log2(given)))
            raise JobError(f"proof.rows_per_proof: found {given}; a batch proof has a power of two of rows, {LEAST} or more: {near}, say")
        if peak_bytes(key, given) * request.children > request.memory_gb * 1e9:
            raise JobError(f"proof.rows_per_proof: {given} rows a proof take about {peak_bytes(key, given) / 1e9:.1f} GB, and a rank has "
                           f"{request.memory_gb:.1f} GB for {request.children}; give fewer rows or more memory")
        return given
    ranks = max(1, request.cores // max(1, request.children))
    share = max(1, math.ceil(min(request.expected_rows, ROUND_ROWS) / ranks / max(1, request.children)))
    found = [n for n in (1 << b for b in range(LEAST.bit_length() - 1, MOST.bit_length()))
             if n == LEAST or peak_bytes(key, n) * request.children <= SHARE * request.memory_gb * 1e9]
    return min(found, key=lambda n: (math.ceil(share / n) * (n + FIXED_ROWS), n))


def peak_bytes(key: VerificationKey, rows: int) -> float:
    """About what a prover of so many rows a proof takes, its process included; infinite where the protocol has no such proof."""
    from enclaveml.zk.batch.prove.memory import memory_bytes

    try:
        return float(memory_bytes(replace(key, rows=rows)))
    except ValueError:
        return math.inf
