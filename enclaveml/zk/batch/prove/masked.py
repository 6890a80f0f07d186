"""The proof of a batch that shows nothing of inputs and activations, step by step as PROTOCOL.md, "The masked proof", numbers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import BLOWUP, DEGREE, ROUND_MASKS, table_shape
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, field, lookup, multilinear, table
from enclaveml.zk.batch.prove.commitment import Combinations, Committed
from enclaveml.zk.batch.prove.extension import ZERO, Element, Extended, minus, plus, times
from enclaveml.zk.batch.prove.helpers import Helpers, helpers
from enclaveml.zk.batch.prove.inference import Trace, infer, infer_masks
from enclaveml.zk.batch.prove.linear import combination_of_rows
from enclaveml.zk.batch.prove.masked_opening import Dependent, Masked, open_masked
from enclaveml.zk.batch.prove.masked_trees import MaskedTree, MaskedTrees
from enclaveml.zk.batch.prove.masks import Masks, input_digest, input_masks
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.proof import (
    Claims,
    FeaturePoint,
    Network,
    ProductPoint,
    ZeroCheck,
    coefficients,
    combine_rows,
    hidden_columns,
    open_weights,
    prove_features,
    prove_products,
    slices,
)
from enclaveml.zk.batch.prove.round_masks import RoundMask, sum_weights, value_weights
from enclaveml.zk.batch.prove.row_parts import product
from enclaveml.zk.batch.prove.rows import Hiding, SummedRows, prove_rows
from enclaveml.zk.batch.prove.transcript import Transcript


def prove_masked(network: Network, x: np.ndarray, nonce: bytes, input_key: bytes, seed: bytes, threads: Pool,
                 prover: type[MaskedProver]) -> tuple[np.ndarray, bytes]:
    """Outputs int64 (N - m, D) for x int32 (N - m, K), and the proof. All masks follow from the two keys, 32 bytes each."""
    key, masks = network.key, Masks(seed)
    trace = infer(key, network.weights, x)
    while True:
        try:
            return trace.outputs, prover(network, nonce, masks, threads).prove(x, trace, input_key)
        except Dependent:
            masks = masks.next()


#: X^d, with which coordinates are an element of F.
BASIS = multilinear.from_plain(np.eye(DEGREE, dtype=np.uint32))


@dataclass(frozen=True)
class Rows:
    """All rows, mask rows last: the inputs int32 [N, K], what the layers compute of them, and the tree over x, q and a."""

    inputs: np.ndarray
    trace: Trace
    committed: Committed


@dataclass(frozen=True)
class SmallTrees:
    """The trees whose size does not depend on N: of multiplicities, of the mask rows' outputs, of the rounds' masks."""

    counted: MaskedTree
    outputs: MaskedTree
    added: MaskedTree

    @property
    def entries(self) -> list[Element]:
        """The masks of the rounds."""
        return [tuple(row) for row in self.added.columns.tolist()]


@dataclass(frozen=True)
class SumChecked:
    """Where the sum-checks ended: the row point and its tables of eq, the table's, the hidden layers'; what layers claim of
    arrays, where their products ended, and eq of the outputs."""

    rows: list[Element]
    suffixes: list[Extended]
    entry: table.TableClaim
    features: list[FeaturePoint]
    later: list[Claims]
    products: list[ProductPoint]
    output_eq: Extended


class MaskedProver:
    """One proof, with masks that are its own."""

    kind = b"rows masked"

    def __init__(self, network: Network, nonce: bytes, masks: Masks, threads: Pool) -> None:
        self._network, self._key, self._masks, self._threads = network, network.key, masks, threads
        self._transcript, self._nonce = Transcript(), nonce
        self._trees = MaskedTrees(self._transcript, masks, threads)

    def prove(self, x: np.ndarray, real: Trace, input_key: bytes) -> bytes:
        """The proof for x int32 (N - m, K), of which ``real`` is what the layers compute."""
        key, transcript = self._key, self._transcript
        for label, data in (("kind", self.kind), ("key", key.to_bytes()), ("nonce", self._nonce),
                            ("outputs", real.outputs.astype("<i4").tobytes())):
            transcript.absorb(label, data)
        rows = self._commit_rows(x, real, input_key)
        small = self._commit_small(rows, real)
        challenges = lookup.Challenges.of(key, *transcript.elements("lookup", 2))
        found = helpers(rows.trace, challenges, self._threads)
        found.hide(self._helper_masks())
        committed = self._trees.commit("helpers", found.columns(), "columns")
        drawn = ZeroCheck.draw(transcript, key)
        claims = self._sum_checks(rows, small, challenges, found.weighted(drawn.of_features(key)), drawn)
        self._openings(rows, small, committed, found, drawn.mu, claims)
        return transcript.proof

    def _commit_rows(self, x: np.ndarray, real: Trace, input_key: bytes) -> Rows:
        """Step 1, the columns."""
        key, salt = self._key, self._masks.input_salt()
        self._transcript.message("input salt", salt)
        self._transcript.message("inputs", input_digest(input_key, salt, x))
        hidden_inputs = input_masks(input_key, salt, self._nonce, (key.masks, key.width)).astype(np.int32)
        hidden = self._mask_rows(hidden_inputs)
        inputs = np.concatenate([x, hidden_inputs])
        trace = Trace(*(np.concatenate(pair) for pair in zip(_arrays(real), _arrays(hidden), strict=True)))
        committed = Committed([inputs, *hidden_columns(key, trace)], self._threads, self._masks.salts("columns", BLOWUP * key.rows))
        self._transcript.message("columns", committed.root)
        return Rows(inputs, trace, committed)

    def _commit_small(self, rows: Rows, real: Trace) -> SmallTrees:
        """Step 1, the other trees."""
        key, masks = self._key, self._masks
        counts = lookup.multiplicities(key, real)
        counted = self._trees.commit("multiplicities", table.matrix(counts, masks.elements("multiplicities", table_shape(len(counts)))))
        shown = np.concatenate([rows.trace.outputs[-key.masks :].astype(np.uint32), masks.elements("outputs", (key.masks, key.outputs))])
        return SmallTrees(counted, self._trees.commit("outputs", shown),
                          self._trees.commit("masks", masks.elements("masks", (self._masks_length(counted), DEGREE))))

    def _masks_length(self, counted: MaskedTree) -> int:
        """Of the columns that mask rounds, those of the multiplicities among them."""
        return ROUND_MASKS

    def _sum_checks(self, rows: Rows, small: SmallTrees, challenges: lookup.Challenges, summed: SummedRows, drawn: ZeroCheck) -> SumChecked:
        """Steps 4 to 8."""
        key, transcript = self._key, self._transcript
        of_rows, of_table = self._round_masks(small)[:2]
        total = summed.helpers_sum(key.masks)
        transcript.message("sums", extension.to_bytes(plus(times(drawn.mu, total), of_rows.total()), plus(total, of_table.total())))
        claim = prove_rows(transcript, summed, drawn.tau, drawn.mu, Hiding(key.masks, of_rows))
        inverses = table.inverses_of(key, challenges, small.counted.columns.size // 2)
        entry = table.prove_table(transcript, inverses, small.counted.columns, total, of_table)

        suffixes = multilinear.eq_suffixes(claim.point)
        eq = suffixes[0]
        activations, inputs, outputs = (combination_of_rows(values, eq, key.masks) for values in (
            rows.trace.activations, rows.inputs, rows.trace.outputs.astype(np.int32)))
        features = prove_features(transcript, key, rows.trace, challenges, claim, eq, activations, drawn.weights, self._masks_of_features(small))
        given = [inputs] + [tuple(v[part] for v in activations) for part in slices(key)]
        later, products, output_eq = prove_products(transcript, self._network, given, outputs, features, self._masks_of_products(small))
        return SumChecked(claim.point, suffixes, entry, features, later, products, output_eq)

    def _round_masks(self, small: SmallTrees) -> list[RoundMask]:
        """What masks the rounds of the rows and of the table."""
        n, v = bits_of(self._key.rows), bits_of(small.counted.columns.size)
        entries = small.entries
        return [RoundMask(entries, n, 4), RoundMask(entries[4 * n + 1 :], v, 2)]

    def _masks_of_features(self, small: SmallTrees) -> Sequence[RoundMask]:
        """What masks the rounds of hidden layers' features; without, they show the weights."""
        return ()

    def _masks_of_products(self, small: SmallTrees) -> Sequence[RoundMask]:
        """The same of layers' products."""
        return ()

    def _openings(self, rows: Rows, small: SmallTrees, committed: MaskedTree, found: Helpers, mu: Element, claims: SumChecked) -> None:
        """Steps 9 and 10; the helpers, committed and as they are."""
        delta = self._transcript.elements("combine")[0]
        self._open_rows(rows, committed, found, claims, delta)
        self._trees.open(small.outputs, self._at_outputs(claims), claims.output_eq)
        self._open_counted(small, claims)
        weights = _equations(claims.rows, claims.entry.rows + claims.entry.columns, mu, delta)
        self._trees.open(small.added, weights, BASIS)
        open_weights(self._transcript, self._network, claims.products)

    def _at_outputs(self, claims: SumChecked) -> Extended:
        """w of the opening of the outputs' mask rows: five uint32 [m]."""
        high = bits_of(self._key.rows) - bits_of(self._key.masks)
        return columns.times_element(claims.suffixes[high], product(claims.rows[:high]))

    def _open_counted(self, small: SmallTrees, claims: SumChecked) -> None:
        """Step 9 c."""
        entry = claims.entry
        self._trees.open(small.counted, multilinear.eq_suffixes(entry.rows)[0], multilinear.eq_table(entry.columns),
                         slice(len(small.counted.columns) // 2, None))

    def _open_rows(self, rows: Rows, committed: MaskedTree, found: Helpers, claims: SumChecked, delta: Element) -> None:
        """Step 9 a."""
        key = self._key
        theta_inputs, *theta = coefficients(key, claims.features, claims.later, delta)
        hidden = combine_rows(key, found)

        def combine(gamma: Extended, xi: Element) -> Combinations:
            first, others = (tuple(v[part] for v in gamma) for part in (slice(0, key.width), slice(key.width, None)))
            parts = (columns.combined(rows.inputs, first, columns.times_element(theta_inputs, xi), self._threads),
                     hidden(others, [columns.times_element(c, xi) for c in theta]))
            return tuple(field.add(a, b) for a, b in zip(*parts, strict=True))

        opened = Masked((rows.committed, committed.committed), committed.pads, claims.suffixes[0], slice(-key.masks, None))
        open_masked(self._transcript, opened, combine, self._threads)

    def _mask_rows(self, x: np.ndarray) -> Trace:
        """The mask rows of all layers for those of the inputs, int32 [m, K]."""
        found = [[self._masks.elements(f"{name} {number}", (self._key.masks, layer.features)).astype(np.int32)
                  for number, layer in enumerate(self._key.hidden, 1)] for name in "qa"]
        return infer_masks(self._key, self._network.weights, x, *(np.concatenate(parts, axis=1) for parts in found))

    def _helper_masks(self) -> np.ndarray:
        """What the helpers of mask rows, the last, are: uniform, uint32 [5, m, F]."""
        m = self._key.masks
        drawn = [self._masks.elements(f"h {number}", (m, layer.features, DEGREE)) for number, layer in enumerate(self._key.hidden, 1)]
        return np.moveaxis(np.concatenate(drawn, axis=1), 2, 0)


def _arrays(trace: Trace) -> tuple[np.ndarray, ...]:
    return trace.quotients, trace.remainders, trace.activations, trace.outputs


def _equations(rows: list[Element], entries: list[Element], mu: Element, delta: Element) -> Extended:
    """What the rounds' masks are weighted with for the three equations of step 9 d: five uint32 [512]."""
    of_rows = [sum_weights(len(rows), 4), value_weights(rows, 4)]
    of_table = [sum_weights(len(entries), 2), value_weights(entries, 2)]
    minus_mu, square = minus(ZERO, mu), times(delta, delta)
    found = [plus(a, times(square, b)) for a, b in zip(*of_rows, strict=True)]
    found += [plus(times(minus_mu, a), times(delta, b)) for a, b in zip(*of_table, strict=True)]
    return multilinear.from_plain(np.array(found, np.uint32))
