"""The sum-checks within a layer, over its features and over its matrix product (PROTOCOL.md, "The proof", 6 and 8).

Their vectors are as long as a layer is wide, whatever the number of rows: numpy is quick enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from enclaveml.zk.batch.prove import extension, multilinear
from enclaveml.zk.batch.prove.extension import Element, Extended, minus
from enclaveml.zk.batch.prove.polynomial import interpolated
from enclaveml.zk.batch.prove.transcript import Transcript


@dataclass(frozen=True)
class Folded:
    """Where a sum-check ended: its point, and the vectors' values there."""

    point: list[Element]
    values: list[Element]


def sum_check(transcript: Transcript, labels: tuple[str, str], vectors: Sequence[Extended], claim: Element, degree: int,
              summand: Callable[..., Extended]) -> Folded:
    """Prove that the sum of ``summand(*vectors)``, of this degree, is ``claim``: a round sends g(0), g(2), ..., g(degree).

    The vectors are five uint32 [2^m] each; the summand works on them entry by entry.
    """
    point: list[Element] = []
    while len(vectors[0][0]) > 1:
        at = [multilinear.at_points(vector, degree) for vector in vectors]
        values = [multilinear.total(summand(*(points[c] for points in at))) for c in range(degree)]
        transcript.message(labels[0], extension.to_bytes(*values))
        r = transcript.elements(labels[1])[0]
        claim = interpolated([values[0], minus(claim, values[0]), *values[1:]], r)
        vectors = [multilinear.fold(vector, r) for vector in vectors]
        point.append(r)
    return Folded(point, [extension.element(vector) for vector in vectors])
