"""Linear equations about the committed masks of rounds and openings (``PROTOCOL.md``, "Hidden weights"), opened all at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..format import SALT, VerificationKey, round_masks
from .element import ONE, ZERO, Element, power
from .extension import array
from .opening import Tree, check_masked_opening, masked_opening_bytes, read_masked_opening
from .reader import Reader
from .transcript import Transcript

#: Entries of the masks' columns, each with what it is multiplied with.
Terms = dict[int, Element]


@dataclass(frozen=True)
class RoundMask:
    """A polynomial c_0 + sum_k sum_i c_{k,i} X_k^i of a degree in so many variables, whose coefficients are entries from ``start`` on."""

    start: int
    variables: int
    degree: int

    @property
    def end(self) -> int:
        """The entry after its last."""
        return self.start + 1 + self.variables * self.degree

    def total(self, factor: Element) -> Terms:
        """``factor`` times its sum over the cube. Half of 2^v is no integer for v = 0, where there is c_0 alone."""
        terms = {self.start: factor * 2**self.variables}
        if self.variables:
            half = factor * 2 ** (self.variables - 1)
            terms |= {entry: half for entry in range(self.start + 1, self.end)}
        return terms

    def at(self, point: list[Element], factor: Element) -> Terms:
        """``factor`` times its value at a point."""
        values = [ONE] + [power(coordinate, i) for coordinate in point for i in range(1, self.degree + 1)]
        return {self.start + number: value * factor for number, value in enumerate(values)}


@dataclass(frozen=True)
class Layout:
    """The masks' columns: polynomials one after the other, single entries from ``singles`` on, the columns' length."""

    polynomials: tuple[RoundMask, ...]
    singles: int
    length: int

    @classmethod
    def of(cls, shapes: list[tuple[int, int]], singles: int) -> Layout:
        """For polynomials of so many variables and this degree each, and so many single entries."""
        found: list[RoundMask] = []
        for variables, degree in shapes:
            found.append(RoundMask(found[-1].end if found else 0, variables, degree))
        return cls(tuple(found), found[-1].end, round_masks(found[-1].end + singles))

    @property
    def opening_bytes(self) -> int:
        """Of the masks' opening."""
        return masked_opening_bytes(self.length, [5])


class Equations:
    """What is to hold of the entries, collected until all of it is known."""

    def __init__(self) -> None:
        self._equations: list[tuple[Terms, Element]] = []

    def add(self, value: Element, *parts: Terms) -> None:
        """The sum of all terms is ``value``."""
        terms: Terms = {}
        for part in parts:
            for entry, factor in part.items():
                terms[entry] = terms.get(entry, ZERO) + factor
        self._equations.append((terms, value))

    def check(self, reader: Reader, transcript: Transcript, tree: Tree, layout: Layout) -> None:
        """Open the masks for all equations, each with a power of one challenge."""
        epsilon = transcript.element("equations")
        weights, claim = [ZERO] * layout.length, ZERO
        for number, (terms, value) in enumerate(self._equations):
            factor = power(epsilon, number)
            for entry, weight in terms.items():
                weights[entry] = weights[entry] + factor * weight
            claim = claim + factor * value
        check_masked_opening(reader, transcript, [tree], array(weights), claim, np.eye(5, dtype=np.int64), "round masks")


@dataclass(frozen=True)
class HiddenOpening:
    """An opening without its claim: the pad, which has an entry of the masks added, xi, and <w, e>."""

    pad: Element
    xi: Element
    value: Element

    @classmethod
    def read(cls, reader: Reader, transcript: Transcript, trees: list[Tree], weights: np.ndarray, theta: np.ndarray,
             what: str) -> HiddenOpening:
        """Check all of it but the claim."""
        return cls(*read_masked_opening(reader, transcript, trees, weights, None, theta, what))

    def add_to(self, equations: Equations, single: int, known: Element, hidden: Terms) -> None:
        """That the claim is ``known`` less the sum of ``hidden``: with s for the single entry, <w, e> = pad - s + xi (known - hidden)."""
        terms = {entry: factor * self.xi for entry, factor in hidden.items()}
        equations.add(self.pad + self.xi * known - self.value, {single: ONE}, terms)


def weight_trees(key: VerificationKey, pads: Tree) -> list[Tree]:
    """Those that hidden weights are opened with: the key's, and the pads'."""
    return [Tree(key.roots[0], key.weight_columns, SALT), pads]


def weights_opening_bytes(key: VerificationKey) -> int:
    """Length of their opening."""
    return masked_opening_bytes(key.weight_rows, [key.weight_columns, 0])


def first_rows(table: np.ndarray, length: int) -> np.ndarray:
    """w of an opening of columns of ``length`` for the point whose ``table`` of eq is of their first rows: zeros beyond."""
    return np.pad(table, ((0, 0), (0, length - table.shape[1])))


def with_zeros(point: list[Element], variables: int) -> list[Element]:
    """The point with zeros before it, for the first rows of more."""
    return [ZERO] * (variables - len(point)) + point
