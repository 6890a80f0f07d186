"""The sum-checks within a layer, over its features and over its matrix product (PROTOCOL.md, "The proof", 6 and 8).

Their vectors are as long as a layer is wide, whatever the number of rows: numpy is quick enough, but for the cells
of all weights, which the weights proof goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.prove import extension, field, kernels
from enclaveml.zk.batch.prove.extension import ZERO, Element, Extended, minus, plus
from enclaveml.zk.batch.prove.polynomial import interpolated
from enclaveml.zk.batch.prove.round_masks import RoundMask
from enclaveml.zk.batch.prove.transcript import Transcript


@dataclass(frozen=True)
class Folded:
    """Where a sum-check ended: its point, and the vectors' values there."""

    point: list[Element]
    values: list[Element]


#: Entries of the chunks that long vectors are worked on in, jitted; shorter ones are numpy's.
CHUNK = 1 << 14


def sum_check(transcript: Transcript, labels: tuple[str, str], vectors: Sequence[Extended], claim: Element, degree: int,
              summand: Callable[..., Extended], others: Sequence[Extended] = (), added: RoundMask | None = None,
              chunk: int = CHUNK) -> Folded:
    """Prove that the sum of ``summand(operations, *vectors)``, of this degree, is ``claim``.

    A round sends g(0), g(2), ..., g(degree). The vectors are five uint32 [2^m] each; the summand works on them entry by entry, by
    the operations add, subtract and multiply of what it is given. ``others`` are only folded with them, and come after them.
    ``added`` is a random polynomial that is added to what is summed: then neither claim nor summand are with it, messages are.
    Vectors longer than a ``chunk``, a power of two, are worked on in such.
    """
    rounds = _Rounds(transcript, labels, claim, [], added)
    if len(vectors[0][0]) > chunk:  # the cells of weights, and tables: there are no others there
        vectors = _long_rounds(rounds, vectors, degree, summand, chunk)
    summed = len(vectors)
    state = np.stack([np.stack(vector) for vector in (*vectors, *others)], axis=1)  # [5, vectors, entries]
    while state.shape[-1] > 1:
        low, high = np.split(state, 2, axis=-1)
        step = field.subtract(high, low)
        points = [low[:, :summed], field.add(high, step)[:, :summed]]
        while len(points) < degree:
            points.append(field.add(points[-1], step[:, :summed]))
        at = np.stack(points, axis=2)  # [5, vectors, points, entries]
        sums = np.stack(extension.sum_last(summand(extension, *np.moveaxis(at, 1, 0))))
        r = rounds.next([extension.element(sums[:, c, None]) for c in range(degree)])
        state = field.add(low, extension.multiply(step, extension.constant(r)[:, None, None]))
    return Folded(rounds.point, [extension.element(state[:, v]) for v in range(state.shape[1])])


@dataclass
class _Rounds:
    """Sends rounds' values and keeps the claim and the point."""

    transcript: Transcript
    labels: tuple[str, str]
    claim: Element
    point: list[Element]
    added: RoundMask | None

    def next(self, values: list[Element]) -> Element:
        """Send g(0), g(2), ...; the challenge."""
        r = send_round(self.transcript, self.labels, values, self.added)
        self.claim = interpolated([values[0], minus(self.claim, values[0]), *values[1:]], r)
        self.point.append(r)
        return r


def send_round(transcript: Transcript, labels: tuple[str, str], values: list[Element], added: RoundMask | None) -> Element:
    """Send a round's g(0), g(2), ..., with the random polynomial where there is one; the challenge."""
    if added:
        values = [plus(a, b) for a, b in zip(values, added.values(), strict=True)]
    transcript.message(labels[0], extension.to_bytes(*values))
    r = transcript.elements(labels[1])[0]
    if added:
        added.bind(r)
    return r


def _long_rounds(rounds: _Rounds, vectors: Sequence[Extended], degree: int,
                 summand: Callable[..., Extended], chunk: int) -> Sequence[Extended]:
    """The rounds until the vectors are a chunk long; returns them."""
    chunks = [tuple(tuple(v[start : start + chunk] for v in vector) for vector in vectors)
              for start in range(0, len(vectors[0][0]), chunk)]
    while len(chunks) > 1:
        pairs = list(zip(chunks[: len(chunks) // 2], chunks[len(chunks) // 2 :], strict=True))
        values = [ZERO] * degree
        for low, high in pairs:
            step, at = kernels.steps(low, high)
            for c in range(degree):
                if c > 1:
                    at = tuple(kernels.add(a, s) for a, s in zip(at, step, strict=True))
                part = kernels.total(summand(kernels, *(at if c else low)))
                values[c] = plus(values[c], extension.element(np.asarray(part)[:, None]))
        constant = extension.constant(rounds.next(values))
        chunks = [kernels.fold(low, high, constant) for low, high in pairs]
    return [tuple(np.asarray(v) for v in vector) for vector in chunks[0]]
