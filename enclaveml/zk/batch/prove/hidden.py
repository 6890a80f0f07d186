"""The proof of a batch that shows nothing of weights either, step by step as PROTOCOL.md, "Hidden weights", numbers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, multilinear
from enclaveml.zk.batch.prove.extension import ONE, ZERO, Element, Extended, minus, powers, times
from enclaveml.zk.batch.prove.helpers import Helpers
from enclaveml.zk.batch.prove.inference import Trace
from enclaveml.zk.batch.prove.layers import sum_check
from enclaveml.zk.batch.prove.mask_entries import Combination, Entries, MaskEntries
from enclaveml.zk.batch.prove.masked import BASIS, MaskedProver, Rows, SmallTrees, SumChecked
from enclaveml.zk.batch.prove.masked_opening import Masked
from enclaveml.zk.batch.prove.masked_trees import MaskedTree
from enclaveml.zk.batch.prove.proof import masked_sum
from enclaveml.zk.batch.prove.round_masks import RoundMask


@dataclass(frozen=True)
class _WeightClaim:
    """Where the rounds over all layers' weights ended: eta^(l-1), omicron, and what each layer's columns are opened with, [M'] each."""

    scales: list[Element]
    point: list[Element]
    thetas: list[Extended]


class HiddenProver(MaskedProver):
    """A masked proof in which the weights are masked too."""

    kind = b"rows hidden"

    def _commit_small(self, rows: Rows, real: Trace) -> SmallTrees:
        """Step 1, the other trees."""
        small = super()._commit_small(rows, real)
        self._pads = self._trees.commit_weight_pads(self._key.weight_rows)
        return small

    def _masks_length(self, counted: MaskedTree) -> int:
        key = self._key
        shapes = [(bits_of(key.rows), 4), (bits_of(counted.columns.size), 2), *((layer.variables, 4) for layer in key.hidden),
                  *((bits_of(layer.length), 2) for layer in key.layers), (bits_of(key.cell_rows), 2)]
        self._layout = MaskEntries.of(shapes, 2)
        return self._layout.length

    def _of_features(self) -> Sequence[Entries]:
        return self._layout.polynomials[2:][: len(self._key.hidden)]

    def _of_products(self) -> Sequence[Entries]:
        return self._layout.polynomials[2 + len(self._key.hidden) : -1]

    def _masks_of_features(self, small: SmallTrees) -> Sequence[RoundMask]:
        return [entries.mask(small.entries) for entries in self._of_features()]

    def _masks_of_products(self, small: SmallTrees) -> Sequence[RoundMask]:
        return [entries.mask(small.entries) for entries in self._of_products()]

    def _openings(self, rows: Rows, small: SmallTrees, committed: MaskedTree, found: Helpers, mu: Element, claims: SumChecked) -> None:
        """Steps 8 b and 9; the helpers, committed and as they are."""
        transcript, layout = self._transcript, self._layout
        weights = self._prove_weights(claims, layout.polynomials[-1].mask(small.entries))
        delta = transcript.elements("combine")[0]
        self._open_rows(rows, committed, found, claims, delta)
        of_outputs, of_weights = small.entries[layout.singles : layout.singles + 2]
        outputs_xi = self._trees.open(small.outputs, self._at_outputs(claims), claims.output_eq, hidden=of_outputs)
        self._open_counted(small, claims)
        opened = Masked((self._network.committed[0], self._pads.committed), self._pads.pads, multilinear.eq_table(weights.point))
        weights_xi = self._trees.open_columns(opened, self._network.columns, columns.joined(weights.thetas), of_weights)
        equations = self._equations(claims, mu, weights, outputs_xi, weights_xi, transcript.elements("equations")[0])
        self._trees.open(small.added, equations.weights, BASIS)

    def _prove_weights(self, claims: SumChecked, mask: RoundMask) -> _WeightClaim:
        """Step 8 b: what the layers' products leave of their weights, at one point."""
        transcript, size = self._transcript, self._key.cell_rows
        scales = powers(transcript.elements("weights")[0], len(claims.products))
        vectors = []
        for scale, product in zip(scales, claims.products, strict=True):
            factors = columns.times_element(multilinear.eq_table(product.kappa), times(scale, product.factor))
            vectors += [multilinear.pad(factors, size), multilinear.pad(product.weights, size)]

        def summand(ops: ModuleType, *vectors: Extended) -> Extended:
            found = ops.multiply(*vectors[:2])
            for start in range(2, len(vectors), 2):
                found = ops.add(found, ops.multiply(*vectors[start : start + 2]))
            return found

        total = multilinear.total(summand(extension, *vectors))
        transcript.message("weights sum", extension.to_bytes(masked_sum(total, mask)))
        folded = sum_check(transcript, ("weights", "weight"), vectors, total, 2, summand, added=mask)
        thetas = [columns.times_element(product.outputs, factor) for product, factor in zip(claims.products, folded.values[::2], strict=True)]
        return _WeightClaim(scales, folded.point, thetas)

    def _equations(self, claims: SumChecked, mu: Element, weights: _WeightClaim, outputs_xi: Element, weights_xi: Element,
                   epsilon: Element) -> Combination:
        """What the masks are combined with for equations (1) to (7)."""
        layout = self._layout
        of_rows, of_table, *_, of_weights = layout.polynomials
        of_features, of_products = self._of_features(), self._of_products()
        found, minus_one = Combination(layout.length, epsilon), minus(ZERO, ONE)
        found.add_sum(of_rows)
        found.add_sum(of_table, minus(ZERO, mu))
        found.next()
        found.add_value(of_table, claims.entry.rows + claims.entry.columns)
        found.next()
        found.add_value(of_rows, claims.rows)
        for entries in of_features:
            found.add_sum(entries, minus_one)
        for entries, of_product, feature in zip(of_features, of_products, claims.features, strict=False):
            found.next()
            found.add_value(entries, feature.point)
            found.add_sum(of_product, minus(ZERO, feature.slope))
        found.next()
        found.add_sum(of_weights)
        for entries, scale, product in zip(of_products, weights.scales, claims.products, strict=True):
            found.add_value(entries, product.kappa, minus(ZERO, scale))
        found.next()
        found.add(layout.singles, [ONE])
        found.add_sum(of_products[-1], outputs_xi)
        found.next()
        found.add(layout.singles + 1, [ONE])
        found.add_value(of_weights, weights.point, weights_xi)
        return found
