"""What a sample says of the rest: the exact hypergeometric bound, how many to draw for it, and its words.

A rank's rows are drawn from round by round: each draw is a *stratum* of rows of which so many were
drawn without replacement after all of its outputs were in. Of N rows m may be wrong, k are drawn, and of
the drawn ones u did not end proved (a failed prover, say): each of these counts as wrong, so what was
seen happens with the probability that at most u of the m wrong ones are among the k.

Reference: the hypergeometric distribution; with u = 0 it is C(N - m, k) / C(N, k).
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.99

# Rounding of the sums below is smaller than this, relatively; a bound is taken rather too large than too small.
_CARE = 1e-9


@dataclass(frozen=True)
class Stratum:
    """One draw: ``drawn`` rows of ``population``, of which ``unseen`` did not end proved."""

    population: int
    drawn: int
    unseen: int = 0


def bad_at_most(population: int, drawn: int, confidence: float = CONFIDENCE, unseen: int = 0) -> int:
    """How many of ``population`` can be wrong at most, when of ``drawn`` all but ``unseen`` were right.

    The largest m for which a draw shows no more wrong ones than that with a probability above
    1 - ``confidence``; with more wrong ones, more would have been seen.

    Raises ValueError unless 0 <= unseen <= drawn <= population and 0 < confidence < 1.
    """
    if not (0 <= unseen <= drawn <= population and 0 < confidence < 1):
        raise ValueError(f"{drawn} of {population} drawn, {unseen} unseen, confidence {confidence}")
    low, high = unseen, population - (drawn - unseen)  # low can hide for certain; more than high cannot be
    while low < high:
        middle = (low + high + 1) // 2
        if _can_hide(_hidden(population, drawn, middle, unseen), population, confidence):
            low = middle
        else:
            high = middle - 1
    return low


def _can_hide(probability: float, population: int, confidence: float) -> bool:
    care = _CARE + 4e-16 * math.lgamma(population + 1)
    return probability > (1 - confidence) * (1 - care)


def _hidden(population: int, drawn: int, bad: int, unseen: int = 0) -> float:
    """The probability that at most ``unseen`` of ``bad`` are drawn."""
    if not unseen:
        fewer, more = sorted((bad, drawn))
        if fewer + more > population:
            return 0.0
        return math.exp(np.log1p(-more / (population - np.arange(fewer, dtype=np.float64))).sum())
    least = max(0, drawn - (population - bad))
    total = _log_choose(population, drawn)
    return sum(math.exp(_log_choose(bad, x) + _log_choose(population - bad, drawn - x) - total)
               for x in range(least, min(unseen, bad) + 1))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def strata_bad_at_most(strata: Sequence[Stratum], confidence: float = CONFIDENCE) -> int:
    """The same for several draws together, however the wrong rows are spread over them.

    Where all drawn rows ended proved it is exact for the worst spread: the probability is a product
    over strata of factors (N - k - j) / (N - j), j = 0, 1, ..., which fall within each stratum, so m
    wrong rows hide best where the next factor is the largest. It holds as well for a rank that
    chooses what to falsify in a round by what became of earlier ones: as long as it is not caught,
    it has learnt nothing but that. Else it is the sum of each stratum's own bound at a confidence
    raised so that all hold together (Bonferroni): conservative.
    """
    if len(strata) == 1:
        return bad_at_most(strata[0].population, strata[0].drawn, confidence, strata[0].unseen)
    if any(s.unseen for s in strata):
        each = 1 - (1 - confidence) / len(strata)
        return sum(bad_at_most(s.population, s.drawn, each, s.unseen) for s in strata)
    bad = sum(s.population for s in strata if not s.drawn)
    factors = [(-(s.population - s.drawn) / s.population, 0, i) for i, s in enumerate(strata) if s.drawn]
    heapq.heapify(factors)
    hidden, largest = 1.0, max(s.population for s in strata)
    while factors:
        factor, j, i = heapq.heappop(factors)
        hidden *= -factor
        if not _can_hide(hidden, largest, confidence):
            break
        bad += 1
        s = strata[i]
        heapq.heappush(factors, (-(s.population - s.drawn - j - 1) / (s.population - j - 1), j + 1, i))
    return bad


def enough(population: int, undetected: int, confidence: float) -> int:
    """The fewest rows to draw so that at most ``undetected`` of ``population`` can be wrong unseen."""
    low, high = 0, population if undetected < population else 0
    while low < high:
        middle = (low + high) // 2
        if not _can_hide(_hidden(population, middle, undetected + 1), population, confidence):
            high = middle
        else:
            low = middle + 1
    return low


def fraction(undetected: int, confidence: float) -> float:
    """The part of each round to draw so that the bound holds over all rounds, however many there are.

    Each factor above is at most 1 - k / N, so ``undetected`` + 1 wrong rows hide with at most
    (1 - fraction)^(undetected + 1) = 1 - ``confidence`` (a millionth less, for rounding).
    """
    return float(1 - ((1 - confidence) * (1 - 1e-6)) ** (1 / (undetected + 1)))


def to_draw(population: int, undetected: int, confidence: float, only_round: bool) -> int:
    """How many of a rank's rows in a round to draw for ``proof.audit``.

    Never fewer than ``undetected``, or all where there are no more than that: a bound that
    leaves every row of a small worker open would hold without any proof.
    """
    share = fraction(undetected, confidence)
    need = enough(population, undetected, confidence) if only_round else math.ceil(share * population)
    return max(need, min(undetected, population))


def pick(rows: np.ndarray, count: int, seed: str) -> np.ndarray:
    """Which ``count`` of these rows (n,) are drawn by a seed (hex): indices, ascending.

    Those with the smallest ``marks``: a draw without replacement that anybody can make again, in any
    language.
    """
    order = np.argsort(marks(rows, seed), kind="stable")
    return np.sort(order[:count])


def marks(rows: np.ndarray, seed: str) -> np.ndarray:
    """Each row's mark (n,) uint64 under a seed: the first 8 bytes, big-endian, of the SHA-256 of the seed's
    bytes and the row's number (u64, little-endian). Raises ValueError for a seed that is no hex."""
    before = bytes.fromhex(seed)
    digests = b"".join(hashlib.sha256(before + row.to_bytes(8, "little")).digest()[:8] for row in rows.tolist())
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def words(population: int, most: int, whose: str, what: str = "rows", confidence: float = CONFIDENCE) -> str:
    """For instance "at 99 % confidence, fewer than 11 of worker-2's 4,000 rows can be wrong"."""
    if most >= population:
        return f"nothing: all of {whose} {population:,} {what} can be wrong"
    return f"at {100 * confidence:g} % confidence, fewer than {most + 1:,} of {whose} {population:,} {what} can be wrong"
