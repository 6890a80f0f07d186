"""Openings: columns behind Merkle roots against a claim at a point (``PROTOCOL.md``, "Commitment")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..format import BLOWUP, DEGREE, PADS, QUERIES, SALT, bits
from .codeword import symbols
from .element import Element
from .extension import element, inner, scale
from .field import canonical, product, small
from .merkle import HASH, root_of
from .reader import ELEMENT, Reader, numbers
from .rejection import demand
from .transcript import Transcript

#: Bytes of leaves that are worked on at once.
_PORTION = 2**25


@dataclass(frozen=True)
class Tree:
    """A committed tree: its root, how many columns a leaf has, and the bytes of a leaf's salt."""

    root: bytes
    columns: int
    salt: int = 0

    def record(self, length: int) -> int:
        """Bytes of one opened leaf with its salt and siblings, of columns of ``length``."""
        return 4 * self.columns + self.salt + HASH * bits(BLOWUP * length)


def opening_bytes(length: int, columns: list[int]) -> int:
    """Length of an opening of trees with so many columns each, of ``length``."""
    return 2 * ELEMENT * length + QUERIES * sum(Tree(b"", count).record(length) for count in columns)


def masked_opening_bytes(length: int, columns: list[int]) -> int:
    """The same of a masked opening; ``columns`` without the last tree's ten that mask it."""
    return opening_bytes(length, columns) + ELEMENT + QUERIES * (4 * PADS + SALT * len(columns))


def check_opening(reader: Reader, transcript: Transcript, trees: list[Tree], weights: np.ndarray,
                  claim: Element, theta: np.ndarray, what: str) -> None:
    """Hold sum_j theta_j <w, C_j> = claim for the trees' columns, theta [5, c] and w, the ``weights`` [5, n]: eq's
    table at the point for which the columns are opened.

    Raises:
        Rejected: naming ``what``.
    """
    gamma = transcript.array("gamma", theta.shape[1])
    _read(reader, transcript, trees, weights, claim, gamma, theta, what)


def check_masked_opening(reader: Reader, transcript: Transcript, trees: list[Tree], weights: np.ndarray,
                         claim: Element, theta: np.ndarray, what: str) -> None:
    """The same where the last tree has U and E behind its columns, which theta leaves out ("Masked opening")."""
    read_masked_opening(reader, transcript, trees, weights, claim, theta, what)


def read_masked_opening(reader: Reader, transcript: Transcript, trees: list[Tree], weights: np.ndarray, claim: Element | None,
                        theta: np.ndarray, what: str) -> tuple[Element, Element, Element]:
    """The same, and what P sent as pad, xi, and <w, e>, which is <w, E> + xi sum_j theta_j <w, C_j>: where the claim is hidden (None)
    this is left to the caller."""
    count = theta.shape[1]
    raw, (pad,) = reader.elements(1, f"{what}'s opening")
    transcript.absorb("pad", raw)
    drawn = transcript.array("gamma", count + DEGREE + 1)
    xi = element(drawn[:, -1])
    basis, none = np.eye(DEGREE, dtype=np.int64), np.zeros((DEGREE, DEGREE), np.int64)
    gamma = np.concatenate([drawn[:, :count], basis, drawn[:, count:-1]], axis=1)
    theta = np.concatenate([scale(theta, xi), none, basis], axis=1)
    goal = None if claim is None else pad + xi * claim
    return pad, xi, _read(reader, transcript, trees, weights, goal, gamma, theta, what)


def _read(reader: Reader, transcript: Transcript, trees: list[Tree], weights: np.ndarray, claim: Element | None,
          gamma: np.ndarray, theta: np.ndarray, what: str) -> Element:
    """The opening from "proximity" on; gamma and theta [5, c] of all the trees' columns. Returns <w, e>, the claim if there is one."""
    length = weights.shape[1]
    raw, proximity = reader.array(length, f"{what}'s opening")
    transcript.absorb("proximity", raw)
    raw, evaluation = reader.array(length, f"{what}'s opening")
    transcript.absorb("evaluation", raw)
    value = inner(weights, evaluation)
    demand(claim is None or value == claim, f"{what}'s opening: the evaluation is not the claim")

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
    return value


def _leaves(records: bytes, trees: list[Tree], length: int, positions: list[int], what: str) -> np.ndarray:
    """[len(positions), c] small: the trees' leaves side by side, every path checked."""
    table = np.frombuffer(records, np.uint8).reshape(len(positions), -1)
    parts, at = [], 0
    for tree in trees:
        wide = 4 * tree.columns
        salted = table[:, at:at + wide + tree.salt]
        ways = table[:, at + wide + tree.salt:at + tree.record(length)]
        for leaf, siblings, position in zip(salted, ways, positions, strict=True):
            demand(root_of(leaf.tobytes(), position, siblings.tobytes()) == tree.root,
                   f"{what}'s opening: the path of leaf {position} does not lead to the root")
        leaves = table[:, at:at + wide].tobytes()
        parts.append(small(numbers(leaves, f"{what}'s leaves").reshape(len(positions), -1)))
        at += tree.record(length)
    return np.concatenate(parts, axis=1)
