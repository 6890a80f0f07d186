"""Openings: columns behind Merkle roots against a claim at a point (``PROTOCOL.md``, "Commitment")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..format import BLOWUP, QUERIES, bits
from .codeword import symbols
from .element import Element
from .extension import inner
from .field import canonical, product, small
from .merkle import HASH, root_of
from .multilinear import eq_table
from .reader import ELEMENT, Reader, numbers
from .rejection import demand
from .transcript import Transcript

#: Bytes of leaves that are worked on at once.
_PORTION = 2**25


@dataclass(frozen=True)
class Tree:
    """A committed tree: its root and how many columns a leaf has."""

    root: bytes
    columns: int

    def record(self, length: int) -> int:
        """Bytes of one opened leaf with its siblings, of columns of ``length``."""
        return 4 * self.columns + HASH * bits(BLOWUP * length)


def opening_bytes(length: int, columns: list[int]) -> int:
    """Length of an opening of trees with so many columns each, of ``length``."""
    return 2 * ELEMENT * length + QUERIES * sum(Tree(b"", count).record(length) for count in columns)


def check_opening(reader: Reader, transcript: Transcript, trees: list[Tree], point: list[Element],
                  claim: Element, theta: np.ndarray, what: str) -> None:
    """Hold sum_j theta_j C_j(point) = claim for the trees' columns, theta [5, c].

    Raises:
        Rejected: naming ``what``.
    """
    length = 2 ** len(point)
    gamma = transcript.array("gamma", sum(tree.columns for tree in trees))
    raw, proximity = reader.array(length, f"{what}'s opening")
    transcript.absorb("proximity", raw)
    raw, evaluation = reader.array(length, f"{what}'s opening")
    transcript.absorb("evaluation", raw)
    demand(inner(eq_table(point), evaluation) == claim, f"{what}'s opening: the evaluation is not the claim")

    positions = transcript.positions("positions", QUERIES, BLOWUP * length)
    records = reader.take(QUERIES * sum(tree.record(length) for tree in trees))
    transcript.absorb("leaves", records)
    expected = canonical(symbols(np.concatenate([proximity, evaluation]), positions))
    coefficients = np.concatenate([gamma, theta]).T
    portion = max(1, _PORTION * QUERIES // len(records))
    for start in range(0, QUERIES, portion):
        some = positions[start:start + portion]
        size = len(records) // QUERIES
        leaves = _leaves(records[start * size:(start + len(some)) * size], trees, length, some, what)
        found = canonical(product(leaves, coefficients)).T
        here = expected[:, start:start + len(some)]
        for rows, combination in ((slice(0, 5), "proximity"), (slice(5, 10), "evaluation")):
            demand(np.array_equal(found[rows], here[rows]),
                   f"{what}'s opening: a leaf is not on the {combination} combination")


def _leaves(records: bytes, trees: list[Tree], length: int, positions: list[int], what: str) -> np.ndarray:
    """[len(positions), c] small: the trees' leaves side by side, every path checked."""
    table = np.frombuffer(records, np.uint8).reshape(len(positions), -1)
    parts, at = [], 0
    for tree in trees:
        wide = 4 * tree.columns
        leaves = np.ascontiguousarray(table[:, at:at + wide])
        ways = table[:, at + wide:at + tree.record(length)]
        for leaf, siblings, position in zip(leaves, ways, positions, strict=True):
            demand(root_of(leaf.tobytes(), position, siblings.tobytes()) == tree.root,
                   f"{what}'s opening: the path of leaf {position} does not lead to the root")
        parts.append(small(numbers(leaves.tobytes(), f"{what}'s leaves").reshape(len(positions), -1)))
        at += tree.record(length)
    return np.concatenate(parts, axis=1)
