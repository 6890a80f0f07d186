"""The rounds of a sum-check."""

from __future__ import annotations

from .element import Element, interpolate
from .reader import Reader
from .transcript import Transcript


def rounds(reader: Reader, transcript: Transcript, claim: Element, count: int, degree: int,
           message: str, challenge: str) -> tuple[list[Element], Element]:
    """Follow ``count`` rounds from ``claim``: the point, and what the summand must be there.

    A round's message is g(0), g(2), ..., g(degree); g(1) is what makes g(0) + g(1) the claim, so a round
    can't be wrong by itself: what it leads to is checked by the caller.
    """
    point = []
    for _ in range(count):
        raw, (first, *others) = reader.elements(degree, f"{message} sum-check")
        transcript.absorb(message, raw)
        point.append(transcript.element(challenge))
        claim = interpolate([first, claim - first, *others], point[-1])
    return point, claim
