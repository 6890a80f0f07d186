"""The sum-checks within a layer, over its features and over its matrix product (PROTOCOL.md, "The proof", 6 and 8).

Their vectors are as long as a layer is wide, whatever the number of rows: numpy is quick enough, but for the cells
of all weights, which the weights proof goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.prove import extension, kernels, multilinear
from enclaveml.zk.batch.prove.extension import ZERO, Element, Extended, minus, plus
from enclaveml.zk.batch.prove.polynomial import interpolated
from enclaveml.zk.batch.prove.transcript import Transcript


@dataclass(frozen=True)
class Folded:
    """Where a sum-check ended: its point, and the vectors' values there."""

    point: list[Element]
    values: list[Element]


#: Entries of the chunks that long vectors are worked on in, jitted; shorter ones are numpy's.
_CHUNK = 1 << 14


def sum_check(transcript: Transcript, labels: tuple[str, str], vectors: Sequence[Extended], claim: Element, degree: int,
              summand: Callable[..., Extended]) -> Folded:
    """Prove that the sum of ``summand(operations, *vectors)``, of this degree, is ``claim``.

    A round sends g(0), g(2), ..., g(degree). The vectors are five uint32 [2^m] each; the summand works on them entry by entry, by
    the operations add, subtract and multiply of what it is given.
    """
    point: list[Element] = []
    length = len(vectors[0][0])
    chunks = [tuple(tuple(v[start : start + _CHUNK] for v in vector) for vector in vectors)
              for start in range(0, length, _CHUNK)]
    while length > 1:
        length //= 2
        ops = kernels if length >= _CHUNK else extension
        middle = len(chunks) // 2
        pairs = (list(zip(chunks[:middle], chunks[middle:], strict=True)) if middle else
                 [tuple(zip(*map(multilinear.halves, chunks[0]), strict=True))])
        values = [ZERO] * degree
        for low, high in pairs:
            steps = [ops.subtract(b, a) for a, b in zip(low, high, strict=True)]
            at = high
            for c in range(degree):
                if c:
                    at = [ops.add(a, step) for a, step in zip(at, steps, strict=True)]
                part = summand(ops, *(at if c else low))
                values[c] = plus(values[c], multilinear.total(tuple(np.asarray(v) for v in part)))
        transcript.message(labels[0], extension.to_bytes(*values))
        r = transcript.elements(labels[1])[0]
        claim = interpolated([values[0], minus(claim, values[0]), *values[1:]], r)
        point.append(r)
        constant = extension.broadcast(extension.constant(r), 1)
        chunks = [tuple(ops.add(a, ops.multiply(ops.subtract(b, a), constant)) for a, b in zip(low, high, strict=True))
                  for low, high in pairs]
        if length == _CHUNK:
            chunks = [tuple(tuple(np.asarray(v) for v in vector) for vector in chunks[0])]
    return Folded(point, [extension.element(vector) for vector in chunks[0]])
