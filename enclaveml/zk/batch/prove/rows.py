"""The sum-check over rows (PROTOCOL.md, "The proof", 5): all hidden features of all layers at once.

With B' = w_j B and w_j = lambda^(l-1) eq(sigma_l, j), what is summed is, for each row i,

    eq(tau, i) bracket(i) + mu H(i)      bracket(i) = sum_j (h A B')(i, j) - line(i)
                                         line(i) = sum_j (w_j A + B')(i, j)      H(i) = sum_j h(i, j)

``line`` and H are linear in what is folded, so that one number a row stands for each. eq(tau, .) is factored out of a round's
polynomial (Gruen, ePrint 2024/108): what is left, the bracket, has degree 3. It is computed at 0, at 2 and at infinity; its value at
1 follows from the claim. In the first round it is 0 at 0: those are rows themselves, of the statement.

What is summed over mask rows, the last m, is taken away: that times top(i), which is 1 on them. As long as a variable of top is not
bound, it is a sum over the last m rows of either half, from the same products (``row_parts.MaskRows``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from enclaveml.zk.batch.prove import extension, multilinear
from enclaveml.zk.batch.prove.extension import ZERO, Element, Extended, minus
from enclaveml.zk.batch.prove.layers import send_round
from enclaveml.zk.batch.prove.round_masks import RoundMask
from enclaveml.zk.batch.prove.row_parts import AllRows, MaskRows, RoundSums, product
from enclaveml.zk.batch.prove.transcript import Transcript


class SummedRows(Protocol):
    """A, B', h, the line and H of all rows, as rounds bind their variables: N rows, then N / 2 and so on."""

    def helpers_sum(self, without: int = 0) -> Element:
        """The sum of H over all rows but the last so many, before any round."""

    def last(self, eq: Extended) -> tuple[Element, Element]:
        """Over the last rows, as many as eq has, five uint32 [m]: the sums of eq times the bracket, and of H; before any round."""

    def sums(self, eq: Extended, eq_masks: Extended | None, first: bool) -> list[RoundSums]:
        """A round's sums with eq, five uint32 [half of the rows]; then those over the last of them, as many as ``eq_masks`` has.

        first: the bracket is 0 at 0.
        """

    def fold(self, r: Element) -> None:
        """Bind the variable of the round whose sums were taken last."""

    def helpers(self) -> Extended:
        """h of the one row that is left: five uint32 [F]."""


@dataclass(frozen=True)
class RowClaim:
    """The row point rho; the bracket's and H's factors there, eq(tau, rho) and mu but for mask rows; h(rho, j): five uint32 [F]."""

    point: list[Element]
    eq: Element
    mu: Element
    helpers: Extended


@dataclass(frozen=True)
class Hiding:
    """How many of the last rows are mask rows, and the random polynomial that is added to what is summed."""

    rows: int
    added: RoundMask


def prove_rows(transcript: Transcript, summed: SummedRows, tau: Sequence[Element], mu: Element, hiding: Hiding | None = None) -> RowClaim:
    """Run all rounds."""
    suffixes = multilinear.eq_suffixes(tau)
    sum_h = summed.helpers_sum()
    eq_masks, block, brackets = None, None, ZERO
    if hiding:
        eq_masks = suffixes[-hiding.rows.bit_length()]
        top_tau = product(tau[: len(tau) + 1 - hiding.rows.bit_length()])
        at_masks = summed.last(eq_masks)
        block, brackets = MaskRows(*at_masks, top_tau, mu), extension.times(top_tau, at_masks[0])
    rows = AllRows(sum_h, mu, brackets)
    point: list[Element] = []
    for k, t in enumerate(tau):
        half = 1 << (len(tau) - k - 1)
        found = summed.sums(suffixes[k + 1], eq_masks if block else None, k == 0)
        values = rows.values(found[0], t)
        sent = [minus(a, b) for a, b in zip(values, block.values(found[1]), strict=True)] if block else values
        r = send_round(transcript, ("rows", "row"), [sent[0], *sent[2:]], hiding.added if hiding else None)
        point.append(r)
        rows.bind(values, found[0][-1], t, r)
        if block:
            block.bind(r)
            if half == hiding.rows:
                rows.take_away(block)
                block = None
        summed.fold(r)
    return RowClaim(point, rows.eq, rows.mu, summed.helpers())
