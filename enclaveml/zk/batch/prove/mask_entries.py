"""Where masks of rounds are in their columns where weights are hidden, and equations about them (PROTOCOL.md, "Hidden weights")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import round_masks
from enclaveml.zk.batch.prove import multilinear
from enclaveml.zk.batch.prove.extension import ONE, ZERO, Element, Extended, plus, times
from enclaveml.zk.batch.prove.round_masks import RoundMask, sum_weights, value_weights


@dataclass(frozen=True)
class Entries:
    """Those of one polynomial: its first, its variables and its degree in each."""

    start: int
    variables: int
    degree: int

    @property
    def end(self) -> int:
        """The entry after them."""
        return self.start + 1 + self.variables * self.degree

    def mask(self, entries: Sequence[Element]) -> RoundMask:
        """The polynomial."""
        return RoundMask(entries[self.start : self.end], self.variables, self.degree)


@dataclass(frozen=True)
class MaskEntries:
    """Polynomials one after the other, single entries from ``singles`` on, the columns' length."""

    polynomials: tuple[Entries, ...]
    singles: int
    length: int

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, int]], singles: int) -> MaskEntries:
        """For so many variables and degrees, and so many single entries."""
        found, end = [], 0
        for variables, degree in shapes:
            found.append(Entries(end, variables, degree))
            end = found[-1].end
        return cls(tuple(found), end, round_masks(end + singles))


class Combination:
    """What the entries are combined with for all equations, the next one's factor being ``epsilon`` times that of the last."""

    def __init__(self, length: int, epsilon: Element) -> None:
        self._weights, self._epsilon, self._factor = [ZERO] * length, epsilon, ONE

    def next(self) -> None:
        """What follows belongs to the next equation."""
        self._factor = times(self._factor, self._epsilon)

    def add(self, start: int, weights: Sequence[Element], factor: Element = ONE) -> None:
        """So many entries from ``start`` on, times ``factor``."""
        factor = times(factor, self._factor)
        for number, weight in enumerate(weights, start):
            self._weights[number] = plus(self._weights[number], times(factor, weight))

    def add_sum(self, entries: Entries, factor: Element = ONE) -> None:
        """A polynomial's sum over the cube."""
        weights = sum_weights(entries.variables, entries.degree) if entries.variables else [ONE]
        self.add(entries.start, weights, factor)

    def add_value(self, entries: Entries, point: Sequence[Element], factor: Element = ONE) -> None:
        """Its value at a point."""
        self.add(entries.start, value_weights(point, entries.degree), factor)

    @property
    def weights(self) -> Extended:
        """Five uint32 [length]."""
        return multilinear.from_plain(np.array(self._weights, np.uint32))
