"""Openings that show nothing of a column but the claim (PROTOCOL.md, "The masked proof")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import DEGREE, P
from enclaveml.zk.batch.prove import code, columns, extension, field, multilinear
from enclaveml.zk.batch.prove.commitment import Combinations, Committed, draw_positions, send_combinations, send_leaves
from enclaveml.zk.batch.prove.extension import ZERO, Element, Extended, plus, times
from enclaveml.zk.batch.prove.linear import combination
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.rank import independent
from enclaveml.zk.batch.prove.transcript import Transcript


class Dependent(Exception):
    """What an opening would show is not independent of what it must hide: the prover starts anew with other masks."""


@dataclass(frozen=True)
class Masked:
    """Trees whose last has the ten columns ``pads``, uint32 [n, 10], at its end, and w: five uint32 [n], or shorter where zeros follow.

    hidden: which entries of the other columns are uniform, where the same w shows a value of each column.
    """

    trees: tuple[Committed, ...]
    pads: np.ndarray
    weights: Extended
    hidden: slice | None = None


def open_masked(transcript: Transcript, opened: Masked, combine: Callable[[Extended, Element], Combinations], threads: Pool,
                hidden: Element | None = None) -> Element:
    """Send the opening: ``combine`` returns u and e of the columns but the pads for gamma, five uint32 [c], and xi, which is returned.

    ``hidden`` is what the pad is sent with where the claim is hidden. Raises Dependent where the positions drawn would show too much.
    """
    pads, length = opened.pads.astype(np.int32), len(opened.weights[0])
    omega = ZERO
    for d, value in enumerate(_elements(combination(pads[:length, DEGREE:], opened.weights))):
        omega = plus(omega, times(value, _power(d)))
    transcript.message("pad", extension.to_bytes(plus(omega, hidden or ZERO)))
    count = sum(tree.shape[1] for tree in opened.trees) - 2 * DEGREE
    drawn = transcript.vector("gamma", count + DEGREE + 1)
    gamma = multilinear.from_plain(drawn)
    xi = tuple(drawn[-1].tolist())
    found = combine(tuple(v[:count] for v in gamma), xi)
    powers = multilinear.from_plain(np.eye(DEGREE, dtype=np.uint32))
    of_pads = columns.joined([powers, tuple(v[count : count + DEGREE] for v in gamma)])
    theta = columns.joined([tuple(np.zeros_like(v) for v in powers), powers])
    added = columns.combined(opened.pads, of_pads, theta, threads)
    send_combinations(transcript, tuple(field.add(a, b) for a, b in zip(found, added, strict=True)))
    positions = draw_positions(transcript, opened.trees)
    if opened.hidden is not None:
        _check_rank(opened, positions)
    send_leaves(transcript, opened.trees, positions)
    return xi


def _check_rank(opened: Masked, positions: np.ndarray) -> None:
    length = opened.trees[0].shape[0]
    points = np.array([pow(code.root_of_unity(length), i, P) for i in np.unique(positions).tolist()], np.int64)
    if not independent(points, extension.plain(tuple(v[opened.hidden] for v in opened.weights))):
        raise Dependent("the leaves drawn and a column's value are dependent")


def _power(d: int) -> Element:
    """X^d."""
    return tuple(int(k == d) for k in range(DEGREE))


def _elements(x: Extended) -> list[Element]:
    """Single elements of five uint32 [c]."""
    return [tuple(row) for row in extension.plain(x).tolist()]
