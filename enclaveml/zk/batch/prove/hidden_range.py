"""The proof that hidden weights are int8 (PROTOCOL.md, "Hidden weights"): once for a key, and it shows nothing else of them."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from enclaveml.zk.batch.format import DEGREE, WEIGHT_HIGH, WEIGHT_LOW, table_shape
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, field, kernels, multilinear, table
from enclaveml.zk.batch.prove.extension import ONE, ZERO, Element, Extended, minus, plus, times
from enclaveml.zk.batch.prove.layers import Folded, sum_check
from enclaveml.zk.batch.prove.linear import combination
from enclaveml.zk.batch.prove.mask_entries import Combination, MaskEntries
from enclaveml.zk.batch.prove.masked import BASIS
from enclaveml.zk.batch.prove.masked_opening import Dependent, Masked
from enclaveml.zk.batch.prove.masked_trees import MaskedTrees
from enclaveml.zk.batch.prove.masks import Masks
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.proof import Network
from enclaveml.zk.batch.prove.round_masks import RoundMask
from enclaveml.zk.batch.prove.transcript import Transcript
from enclaveml.zk.batch.prove.weights_range import helper_columns, inverses_of

_ENTRIES = WEIGHT_HIGH - WEIGHT_LOW + 1


def prove_hidden_range(network: Network, seed: bytes, threads: Pool) -> bytes:
    """The weights proof of hidden weights; its masks follow from a seed of 32 bytes."""
    masks = Masks(seed)
    while True:
        try:
            return _Prover(network, masks, threads).prove()
        except Dependent:
            masks = masks.next()


class _Prover:
    """One proof, with masks that are its own."""

    def __init__(self, network: Network, masks: Masks, threads: Pool) -> None:
        self._network, self._key, self._masks, self._threads = network, network.key, masks, threads
        self._transcript = Transcript()
        self._trees = MaskedTrees(self._transcript, masks, threads)
        #: The columns' rows that a proof goes through: cells, and uniform rows as many as hide its helpers.
        self._columns = network.columns[: self._key.helper_rows]

    def prove(self) -> bytes:
        """The proof."""
        key, transcript, trees = self._key, self._transcript, self._trees
        transcript.absorb("kind", b"weights hidden")
        transcript.absorb("key", key.to_bytes())
        # 0. and 1. Commitments.
        places = field.add(self._columns[: key.cell_rows], np.uint32(-WEIGHT_LOW))
        counts = np.bincount(places.reshape(-1), minlength=_ENTRIES)
        counted = trees.commit("multiplicities", table.matrix(counts, self._masks.elements("multiplicities", table_shape(_ENTRIES))))
        cells, entries = bits_of(key.helper_rows) + bits_of(key.weight_columns), bits_of(counted.columns.size)
        layout = MaskEntries.of([(cells, 3), (entries, 2)], 1)
        added = trees.commit("masks", self._masks.elements("masks", (layout.length, DEGREE)))
        masked = [tuple(row) for row in added.columns.tolist()]
        pads = trees.commit_weight_pads(key.weight_rows)
        alpha = transcript.elements("lookup")[0]
        inverses = inverses_of(alpha)
        g = self._helpers(places, inverses)
        helpers = trees.commit("helpers", helper_columns(g))

        # 2. All cells, and the table.
        *drawn, mu = transcript.elements("zerocheck", bits_of(key.cell_rows) + bits_of(key.weight_columns) + 1)
        of_range, of_table = (each.mask(masked) for each in layout.polynomials)
        total = extension.element(combination(counts.astype(np.int32)[:, None], inverses))
        transcript.message("sums", extension.to_bytes(plus(times(mu, total), of_range.total()), plus(total, of_table.total())))
        folded = self._range(g, alpha, drawn, mu, times(mu, total), of_range)
        half = counted.columns.size // 2
        entry = table.prove_table(transcript, multilinear.pad(inverses, half), counted.columns, total, of_table)
        factor, value, *_ = folded.values
        transcript.message("claims", extension.to_bytes(value))

        # 3. Openings.
        split = bits_of(key.helper_rows)
        rows, theta = multilinear.eq_table(folded.point[:split]), self._across(folded.point[split:])
        trees.open(helpers, rows, _interleaved(columns.by_coordinate(theta)), slice(key.cell_rows, None))
        trees.open(counted, multilinear.eq_table(entry.rows), multilinear.eq_table(entry.columns), slice(len(counted.columns) // 2, None))
        opened = Masked((self._network.committed[0], pads.committed), pads.pads, rows)
        scaled = columns.times_element(theta, minus(ZERO, times(factor, value)))
        xi = trees.open_columns(opened, self._network.columns, scaled, masked[layout.singles])
        found = Combination(layout.length, transcript.elements("equations")[0])
        found.add_sum(layout.polynomials[0])
        found.add_sum(layout.polynomials[1], minus(ZERO, mu))
        found.next()
        found.add_value(layout.polynomials[1], entry.rows + entry.columns)
        found.next()
        found.add(layout.singles, [ONE])
        found.add_value(layout.polynomials[0], folded.point, xi)
        trees.open(added, found.weights, BASIS)
        return transcript.proof

    def _helpers(self, places: np.ndarray, inverses: Extended) -> Extended:
        """g of all cells, uniform below: five uint32 [n_g, C]. places: of the cells' weights in the table."""
        key = self._key
        drawn = self._masks.elements("helpers", (key.helper_rows - key.cell_rows, key.weight_columns, DEGREE))
        below = multilinear.from_plain(drawn)
        return tuple(np.concatenate([v[places], w]) for v, w in zip(inverses, below, strict=True))

    def _across(self, phi: list[Element]) -> Extended:
        """eq(phi, j) of the columns."""
        return tuple(v[: self._key.weight_columns] for v in multilinear.eq_table(phi))

    def _range(self, g: Extended, alpha: Element, drawn: list[Element], mu: Element, claim: Element, added: RoundMask) -> Folded:
        """The rounds over the rows, then the columns; of the cells alone are what is zero and what is added up."""
        key = self._key
        split, wide = bits_of(key.cell_rows), 1 << bits_of(key.weight_columns)
        along_rows = multilinear.pad(multilinear.eq_table(drawn[:split]), key.helper_rows)
        eq = kernels.multiply(tuple(v[:, None] for v in along_rows), tuple(v[None, :] for v in multilinear.eq_table(drawn[split:])))
        others = (g, *(multilinear.embedded(values) for values in (self._columns, np.ones_like(self._columns))))
        vectors = [tuple(np.asarray(v).reshape(-1) for v in eq)] + [
            tuple(np.pad(v, ((0, 0), (0, wide - key.weight_columns))).reshape(-1) for v in vector) for vector in others]
        inside = np.repeat(np.arange(key.helper_rows) < key.cell_rows, wide)  # whatever the column
        vectors.append(multilinear.embedded(inside.astype(np.uint32)))
        alphas, mus = (extension.broadcast(extension.constant(c), 1) for c in (alpha, mu))

        def summand(ops: ModuleType, eq: Extended, g: Extended, w: Extended, one: Extended, inside: Extended) -> Extended:
            product = ops.multiply(g, ops.subtract(ops.multiply(alphas, one), w))
            return ops.add(ops.multiply(eq, ops.subtract(product, one)), ops.multiply(mus, ops.multiply(inside, g)))

        return sum_check(self._transcript, ("range", "range"), vectors, claim, 3, summand, added=added)


def _interleaved(parts: list[Extended]) -> Extended:
    """Coefficients of coordinates, five uint32 [C] each, as the columns have them: five uint32 [5 C]."""
    return tuple(np.stack([part[k] for part in parts], axis=1).reshape(-1) for k in range(DEGREE))
