"""What a sample says of the rest: the exact hypergeometric bound, and its words."""

from __future__ import annotations

CONFIDENCE = 0.99


def bad_at_most(population: int, drawn: int, confidence: float = CONFIDENCE) -> int:
    """How many of ``population`` may be bad at most, when ``drawn`` of them, drawn at random, were all good.

    The largest m for which a draw misses all m bad ones with a probability C(N-m, k) / C(N, k) above
    1 - ``confidence``; more bad ones than that would have been seen.

    Raises ValueError unless 0 <= drawn <= population and 0 < confidence < 1.
    """
    if not (0 <= drawn <= population and 0 < confidence < 1):
        raise ValueError(f"{drawn} of {population} drawn, confidence {confidence}")
    missed, m = 1.0, 0
    while m < population - drawn:
        # P(m+1) = P(m) (N-k-m) / (N-m); some 1e-16 of rounding a step, on the careful side.
        missed *= (population - drawn - m) / (population - m)
        if missed <= (1 - confidence) * (1 - 1e-9):
            return m
        m += 1
    return m


def words(population: int, drawn: int, whose: str, what: str = "rows", confidence: float = CONFIDENCE) -> str:
    """For instance "at 99 % confidence, fewer than 11 of rank 2's 4,000 rows can be wrong"."""
    most = bad_at_most(population, drawn, confidence)
    return f"at {100 * confidence:g} % confidence, fewer than {most + 1:,} of {whose} {population:,} {what} can be wrong"
