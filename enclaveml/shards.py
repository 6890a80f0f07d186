"""Which rows go to which rank: counts and displacements for Scatterv. Pure numpy, deterministic.

Letters: n rows to give out, P ranks, r replicas.

Shares are computed in exact rational arithmetic, so neither the order of a sum nor the size of a
capacity can move a row from one rank to another.

References: largest-remainder (Hamilton's) method: Balinski and Young, "Fair Representation" (2001).
Replicas: the wrap-around rule of McNaughton, Management Science 6 (1959) 1-12.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .errors import JobError

STRATEGIES = ("equal", "by_capacity", "redundant")


@dataclass(frozen=True, eq=False)
class Shards:
    """What each rank is sent, packed in rank order.

    ``counts`` (P,) int64; ``displs`` (P,) int64, the exclusive cumulative sum of ``counts``; ``rows``
    (sum counts,) int64: ``rows[displs[p]:displs[p] + counts[p]]`` are the dataset rows sent to rank p.
    A row with replicas appears once for each, in different ranks' segments. A count may be 0.
    """

    counts: np.ndarray
    displs: np.ndarray
    rows: np.ndarray

    def of(self, rank: int) -> np.ndarray:
        """Dataset rows sent to ``rank``, (counts[rank],) int64."""
        start = int(self.displs[rank])
        return self.rows[start : start + int(self.counts[rank])]

    def ranks(self) -> np.ndarray:
        """The rank that each entry of ``rows`` is sent to, (sum counts,) int64."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)


def largest_remainder(n: int, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """n rows in proportion to ``weights`` (P,): counts (P,) int64 that sum to n.

    Each count is the exact share n * w / sum(w) rounded down, or that plus one: the rows left over go
    to the largest fractional parts, ties to the lowest rank. A weight of 0 gets no row.

    Raises ValueError for a negative n, for weights that are negative or not finite, and for n > 0
    with no weight above 0.
    """
    exact = _fractions(weights)
    if n < 0:
        raise ValueError(f"rows to split: {n} found; 0 or more allowed")
    return np.array(_largest_remainder(n, exact), dtype=np.int64)


def split(
    strategy: str,
    rows: np.ndarray,
    capacities: np.ndarray,
    eligible: np.ndarray,
    replicas: int = 1,
) -> Shards:
    """Give the dataset rows ``rows`` (n,) int64 to the ranks that are ``eligible`` (P,) bool.

    ``equal``: counts of eligible ranks differ by at most one, lowest ranks first; capacities unused.
    ``by_capacity``: in proportion to ``capacities`` (P,) float64 (any unit), by largest remainder: no
    rank is above its exact share by a whole row or more.
    ``redundant``: each row to ``replicas`` different ranks. n * replicas places are shared out in
    proportion to capacity with no rank above n (what a full rank cannot take is shared among the
    others, again in proportion). The places are then laid on a line in rank order, and place s holds
    row s modulo n: a rank's places are at most n in succession, so no rank has a row twice, and each
    row is met ``replicas`` times. A rank of capacity 0 takes no row.
    ``replicas`` belongs to ``redundant`` alone; the other strategies send each row once.

    Within a rank, rows keep the order of ``rows``. A rank that is not eligible gets count 0.

    Raises JobError where no rank may compute, where every capacity is 0, and where there are more
    replicas than ranks to hold them; ValueError for arrays of wrong shape or an unknown strategy.
    """
    rows, weights, eligible = _checked(rows, capacities, eligible)
    n = len(rows)
    if strategy == "equal":
        return _packed(rows, _largest_remainder(n, [Fraction(int(e)) for e in eligible]))
    if strategy not in STRATEGIES:
        raise ValueError(f"split.strategy: {strategy!r} found; {', '.join(STRATEGIES)} allowed")
    able = _able(weights, f"split.strategy {strategy}")
    if strategy == "by_capacity":
        return _packed(rows, _largest_remainder(n, weights))
    if replicas < 1:
        raise JobError(f"split.replicas: {replicas} found; 1 or more allowed")
    if replicas > able:
        raise JobError(
            f"split.replicas: {replicas} found; at most {able} allowed, because {able} of {len(weights)} "
            f"ranks can take rows; lower split.replicas or start more ranks"
        )
    counts = _capped(n, replicas, weights)
    places = np.arange(n * replicas, dtype=np.int64) % max(n, 1)
    ends = np.cumsum(counts, dtype=np.int64)
    for start, end in zip(ends - counts, ends, strict=True):
        places[start:end].sort()
    return _packed(rows[places], counts)


def level(rows: np.ndarray, speeds: np.ndarray, eligible: np.ndarray, left: np.ndarray, unit: int) -> Shards:
    """Give ``rows`` (n,) int64 away in units of ``unit`` rows, so that all ranks are done at about the same time.

    ``speeds`` (P,) float64 are rows per second, ``left`` (P,) the rows that each rank still has. Each
    unit goes to the ``eligible`` (P,) bool rank that would be done with it first (list scheduling:
    Graham, SIAM J. Appl. Math. 17 (1969) 416-429), ties to the lowest rank; what is left over is the
    last unit. So no two ranks that got any are done further apart than the slower one's unit takes.
    Raises JobError where no rank can take rows.
    """
    rows, exact, eligible = _checked(rows, speeds, eligible)
    _able(exact, "split.capacity throughput")
    if unit < 1:
        raise ValueError(f"unit: {unit} rows found; 1 or more allowed")
    speed, after = [float(s) for s in exact], np.asarray(left, np.float64) + unit
    heap = [(float(after[p]) / speed[p], p) for p in range(len(speed)) if speed[p] > 0]
    heapq.heapify(heap)
    counts = [0] * len(speed)
    for start in range(0, len(rows), unit):
        done, p = heap[0]
        counts[p] += min(unit, len(rows) - start)
        heapq.heapreplace(heap, (done + unit / speed[p], p))
    return _packed(rows, counts)


def split_excluding(
    rows: np.ndarray, capacities: np.ndarray, eligible: np.ndarray, forbidden: np.ndarray
) -> tuple[Shards, np.ndarray]:
    """Give each of ``rows`` (n,) int64, all different, to one rank that may have it: for re-dispatch.

    ``forbidden`` (n, P) bool: ``forbidden[i, p]`` keeps ``rows[i]`` from rank p (it failed there, or
    holds a replica already). Returns the shards, and the rows that nobody may take, (m,) int64 in the
    order of ``rows``.

    Rows with the fewest ranks to choose from go first; each goes to the permitted rank that would
    then have the smallest load relative to its capacity, ties to the lowest rank. Rows with the same
    choice are handed out in runs, so that a rank's rows stay together. With all capacities 0, or no
    rank eligible, nobody can take any row: no error, since a job may lose its last worker.
    """
    rows, weights, eligible = _checked(rows, capacities, eligible, need_eligible=False)
    n, size = len(rows), len(weights)
    if len(np.unique(rows)) != n:
        raise ValueError("rows to re-dispatch: the same row found twice; each row once allowed")
    forbidden = np.asarray(forbidden, dtype=bool)
    if forbidden.shape != (n, size):
        raise ValueError(f"forbidden: shape {forbidden.shape} found; {(n, size)} allowed")
    permitted = ~forbidden & np.array([w > 0 for w in weights], dtype=bool)

    patterns, group = np.unique(permitted, axis=0, return_inverse=True)
    group = group.reshape(-1)  # numpy 2.0.0 returned (n, 1) here
    loads, capacity = [0] * size, [float(w) for w in weights]
    target = np.full(n, -1, dtype=np.int64)
    for g in sorted(range(len(patterns)), key=lambda g: (int(patterns[g].sum()), tuple(patterns[g]))):
        members = np.flatnonzero(group == g)
        heap = [((loads[p] + 1) / capacity[p], p) for p in np.flatnonzero(patterns[g]).tolist()]
        if not heap:
            continue
        heapq.heapify(heap)
        given = [0] * size
        for _ in range(len(members)):
            _, p = heap[0]
            given[p] += 1
            loads[p] += 1
            heapq.heapreplace(heap, ((loads[p] + 1) / capacity[p], p))
        target[members] = np.repeat(np.arange(size), given)
    taken = np.flatnonzero(target >= 0)
    order = taken[np.argsort(target[taken], kind="stable")]
    return _packed(rows[order], loads), rows[target < 0]


def _packed(rows: np.ndarray, counts: Sequence[int]) -> Shards:
    counts = np.asarray(counts, dtype=np.int64)
    displs = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)[:-1]])
    return Shards(counts, displs, np.ascontiguousarray(rows, dtype=np.int64))


def _checked(
    rows: np.ndarray, capacities: np.ndarray, eligible: np.ndarray, need_eligible: bool = True
) -> tuple[np.ndarray, list[Fraction], np.ndarray]:
    """The arguments in their types, with the weight of ranks that are not eligible set to 0."""
    rows = np.asarray(rows, dtype=np.int64)
    eligible = np.asarray(eligible, dtype=bool)
    exact = _fractions(capacities)
    if rows.ndim != 1 or eligible.shape != (len(exact),) or not exact:
        raise ValueError(
            f"rows {rows.shape}, capacities {(len(exact),)} and eligible {eligible.shape} found; "
            f"(n,), (P,) and (P,) with P at least 1 allowed"
        )
    if need_eligible and not eligible.any():
        raise JobError(
            "split: no rank computes; start at least 2 ranks or set cluster.aggregator_computes to true"
        )
    return rows, [w if e else Fraction(0) for w, e in zip(exact, eligible, strict=True)], eligible


def _able(weights: Sequence[Fraction], subject: str) -> int:
    able = sum(w > 0 for w in weights)
    if not able:
        raise JobError(
            f"{subject}: every rank that computes has capacity 0; "
            f"give at least one of cluster.ranks a memory_gb above 0"
        )
    return able


def _fractions(weights: Sequence[float] | np.ndarray) -> list[Fraction]:
    values = np.asarray(weights, dtype=np.float64).reshape(-1).tolist()
    for rank, value in enumerate(values):
        if not 0 <= value < float("inf"):
            raise ValueError(f"capacity of rank {rank}: {value} found; a finite number, 0 or more, allowed")
    return [Fraction(value) for value in values]


def _largest_remainder(n: int, weights: Sequence[Fraction]) -> list[int]:
    total = sum(weights)
    if not total:
        if n:
            raise ValueError(f"{n} rows to split: no weight above 0 found; at least one needed")
        return [0] * len(weights)
    shares = [n * w / total for w in weights]
    counts = [int(share) for share in shares]
    # A share without a fractional part is never rounded up: the rows left are fewer than the shares with one.
    by_remainder = sorted(range(len(shares)), key=lambda p: (counts[p] - shares[p], p))
    for p in by_remainder[: n - sum(counts)]:
        counts[p] += 1
    return counts


def _capped(n: int, replicas: int, weights: Sequence[Fraction]) -> list[int]:
    """n * replicas places in proportion to ``weights``, none above n. At least ``replicas`` are > 0."""
    counts = [0] * len(weights)
    left, free = n * replicas, [p for p, w in enumerate(weights) if w > 0]
    while left:
        total = sum(weights[p] for p in free)
        full = [p for p in free if left * weights[p] >= n * total]
        if not full:
            break
        for p in full:
            counts[p] = n
        left -= n * len(full)
        free = [p for p in free if p not in full]
    for p, count in zip(free, _largest_remainder(left, [weights[p] for p in free]), strict=True):
        counts[p] = count
    return counts
