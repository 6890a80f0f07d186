"""The proof of a batch that shows nothing of inputs and activations, step by step as PROTOCOL.md, "The masked proof", numbers them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import BLOWUP, DEGREE, ROUND_MASKS, table_shape
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, field, kernels, lookup, multilinear, table
from enclaveml.zk.batch.prove.chunks import chunk_rows
from enclaveml.zk.batch.prove.commitment import Combinations, Committed
from enclaveml.zk.batch.prove.extension import ZERO, Element, Extended, minus, plus, times
from enclaveml.zk.batch.prove.inference import Trace, infer, infer_masks
from enclaveml.zk.batch.prove.linear import combination_of_rows
from enclaveml.zk.batch.prove.masked_opening import Dependent, Masked, combined, open_masked
from enclaveml.zk.batch.prove.masks import Masks, input_digest, input_masks
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.proof import (
    Claims,
    FeaturePoint,
    Network,
    ZeroCheck,
    coefficients,
    combine_rows,
    helper_columns,
    hidden_columns,
    open_weights,
    prove_features,
    prove_products,
    slices,
    weighted,
)
from enclaveml.zk.batch.prove.round_masks import RoundMask, sum_weights, value_weights
from enclaveml.zk.batch.prove.row_parts import product
from enclaveml.zk.batch.prove.rows import Chunk, Hiding, prove_rows
from enclaveml.zk.batch.prove.transcript import Transcript


def prove_masked(network: Network, x: np.ndarray, nonce: bytes, input_key: bytes, seed: bytes,
                 threads: Pool) -> tuple[np.ndarray, bytes]:
    """Outputs int64 (N - m, D) for x int32 (N - m, K), and the proof. All masks follow from the two keys, 32 bytes each."""
    key, masks = network.key, Masks(seed)
    trace = infer(key, network.weights, x)
    while True:
        try:
            return trace.outputs, _Prover(network, nonce, masks, threads).prove(x, trace, input_key)
        except Dependent:
            masks = masks.next()


@dataclass(frozen=True)
class _Tree:
    """A tree over columns uint32 [n, c], plain, with the pads after them."""

    columns: np.ndarray
    pads: np.ndarray
    committed: Committed


@dataclass(frozen=True)
class _Rows:
    """All rows, mask rows last: the inputs int32 [N, K], what the layers compute of them, and the tree over x, q and a."""

    inputs: np.ndarray
    trace: Trace
    committed: Committed


@dataclass(frozen=True)
class _Small:
    """The trees whose size does not depend on N: of multiplicities, of the mask rows' outputs, of the rounds' masks."""

    counted: _Tree
    outputs: _Tree
    added: _Tree


@dataclass(frozen=True)
class _Claims:
    """Where the sum-checks ended: the row point and its tables of eq, the table's, the hidden layers'; what layers claim of
    arrays, the weights' openings, and eq of the outputs."""

    rows: list[Element]
    suffixes: list[Extended]
    entry: table.TableClaim
    features: list[FeaturePoint]
    later: list[Claims]
    products: list[tuple[list[Element], Extended]]
    output_eq: Extended


class _Prover:
    """One proof, with masks that are its own."""

    def __init__(self, network: Network, nonce: bytes, masks: Masks, threads: Pool) -> None:
        self._network, self._key, self._masks, self._threads = network, network.key, masks, threads
        self._transcript, self._nonce = Transcript(), nonce

    def prove(self, x: np.ndarray, real: Trace, input_key: bytes) -> bytes:
        """The proof for x int32 (N - m, K), of which ``real`` is what the layers compute."""
        key, transcript = self._key, self._transcript
        for label, data in (("kind", b"rows masked"), ("key", key.to_bytes()), ("nonce", self._nonce),
                            ("outputs", real.outputs.astype("<i4").tobytes())):
            transcript.absorb(label, data)
        rows = self._commit_rows(x, real, input_key)
        small = self._commit_small(rows, real)
        challenges = lookup.Challenges.of(key, *transcript.elements("lookup", 2))
        found = lookup.helpers(rows.trace, challenges, chunk_rows(key.rows, key.units), self._threads)
        self._hide(found.helpers)
        helpers = self._commit("helpers", helper_columns(found.helpers, self._threads), "columns")
        drawn = ZeroCheck.draw(transcript, key)
        claims = self._sum_checks(rows, small, challenges, weighted(key, found, drawn, self._threads), drawn)
        self._openings(rows, small, helpers, found.helpers, drawn.mu, claims)
        return transcript.proof

    def _commit_rows(self, x: np.ndarray, real: Trace, input_key: bytes) -> _Rows:
        """Step 1, the columns."""
        key, salt = self._key, self._masks.input_salt()
        self._transcript.message("input salt", salt)
        self._transcript.message("inputs", input_digest(input_key, salt, x))
        hidden_inputs = input_masks(input_key, salt, self._nonce, (key.masks, key.width)).astype(np.int32)
        hidden = self._mask_rows(hidden_inputs)
        inputs = np.concatenate([x, hidden_inputs])
        trace = Trace(*(np.concatenate(pair) for pair in zip(_arrays(real), _arrays(hidden), strict=True)))
        found = field.from_signed(np.concatenate([inputs, *hidden_columns(key, trace)], axis=1))
        committed = Committed(found, self._threads, self._masks.salts("columns", BLOWUP * key.rows))
        self._transcript.message("columns", committed.root)
        return _Rows(inputs, trace, committed)

    def _commit_small(self, rows: _Rows, real: Trace) -> _Small:
        """Step 1, the other trees."""
        key, masks = self._key, self._masks
        counts = lookup.multiplicities(key, real)
        counted = self._commit("multiplicities", table.matrix(counts, masks.elements("multiplicities", table_shape(len(counts)))))
        shown = np.concatenate([rows.trace.outputs[-key.masks :].astype(np.uint32), masks.elements("outputs", (key.masks, key.outputs))])
        return _Small(counted, self._commit("outputs", shown), self._commit("masks", masks.elements("masks", (ROUND_MASKS, DEGREE))))

    def _sum_checks(self, rows: _Rows, small: _Small, challenges: lookup.Challenges, chunks: list[Chunk], drawn: ZeroCheck) -> _Claims:
        """Steps 4 to 8."""
        key, transcript = self._key, self._transcript
        n, v = bits_of(key.rows), bits_of(small.counted.columns.size)
        entries = [tuple(row) for row in small.added.columns.tolist()]
        of_rows, of_table = RoundMask(entries, n, 4), RoundMask(entries[4 * n + 1 :], v, 2)
        total = _sum_of_real(chunks, key.masks)
        transcript.message("sums", extension.to_bytes(plus(times(drawn.mu, total), of_rows.total()), plus(total, of_table.total())))
        claim = prove_rows(transcript, chunks, drawn.tau, drawn.mu, self._threads, Hiding(key.masks, of_rows))
        entry = table.prove_table(transcript, key, challenges, small.counted.columns, total, of_table)

        suffixes = multilinear.eq_suffixes(claim.point)
        eq = suffixes[0]
        activations, inputs, outputs = (combination_of_rows(values, eq, key.masks) for values in (
            rows.trace.activations, rows.inputs, rows.trace.outputs.astype(np.int32)))
        features = prove_features(transcript, key, rows.trace, challenges, claim, eq, activations, drawn.weights)
        given = [inputs] + [tuple(v[part] for v in activations) for part in slices(key)]
        later, products, output_eq = prove_products(transcript, self._network, given, outputs, features)
        return _Claims(claim.point, suffixes, entry, features, later, products, output_eq)

    def _openings(self, rows: _Rows, small: _Small, helpers: _Tree, chunks: list[Extended], mu: Element, claims: _Claims) -> None:
        """Steps 9 and 10; ``chunks`` of the helpers."""
        key = self._key
        delta = self._transcript.elements("combine")[0]
        self._open_rows(rows, helpers, chunks, claims, delta)
        high = bits_of(key.rows) - bits_of(key.masks)
        self._open(small.outputs, columns.times_element(claims.suffixes[high], product(claims.rows[:high])), claims.output_eq)
        entry = claims.entry
        self._open(small.counted, multilinear.eq_suffixes(entry.rows)[0], multilinear.eq_table(entry.columns),
                   slice(len(small.counted.columns) // 2, None))
        weights = _equations(claims.rows, entry.rows + entry.columns, mu, delta)
        self._open(small.added, weights, multilinear.from_plain(np.eye(DEGREE, dtype=np.uint32)))
        open_weights(self._transcript, self._network, claims.products)

    def _open_rows(self, rows: _Rows, helpers: _Tree, chunks: list[Extended], claims: _Claims, delta: Element) -> None:
        """Step 9 a."""
        key = self._key
        theta_inputs, *theta = coefficients(key, claims.features, claims.later, delta)
        hidden, inputs = combine_rows(key, rows.trace, chunks, self._threads), field.from_signed(rows.inputs)

        def combine(gamma: Extended, xi: Element) -> Combinations:
            first, others = (tuple(v[part] for v in gamma) for part in (slice(0, key.width), slice(key.width, None)))
            parts = (combined(inputs, first, columns.times_element(theta_inputs, xi), self._threads),
                     hidden(others, [columns.times_element(c, xi) for c in theta]))
            return tuple(field.add(a, b) for a, b in zip(*parts, strict=True))

        opened = Masked((rows.committed, helpers.committed), helpers.pads, claims.suffixes[0], slice(-key.masks, None))
        open_masked(self._transcript, opened, combine, self._threads)

    def _mask_rows(self, x: np.ndarray) -> Trace:
        """The mask rows of all layers for those of the inputs, int32 [m, K]."""
        found = [[self._masks.elements(f"{name} {number}", (self._key.masks, layer.features)).astype(np.int32)
                  for number, layer in enumerate(self._key.hidden, 1)] for name in "qa"]
        return infer_masks(self._key, self._network.weights, x, *(np.concatenate(parts, axis=1) for parts in found))

    def _hide(self, helpers: list[Extended]) -> None:
        """Replace the helpers of mask rows, the last of the chunks, by uniform elements."""
        m = self._key.masks
        drawn = [self._masks.elements(f"h {number}", (m, layer.features, DEGREE)) for number, layer in enumerate(self._key.hidden, 1)]
        rows = np.moveaxis(np.concatenate(drawn, axis=1), 2, 0)
        size = min(m, len(helpers[0][0]))
        for number, start in enumerate(range(0, m, size), len(helpers) - m // size):
            helpers[number] = kernels.with_last_rows(helpers[number], tuple(np.ascontiguousarray(v[start : start + size]) for v in rows))

    def _commit(self, label: str, values: np.ndarray, pads: str = "") -> _Tree:
        """Send the root of columns uint32 [n, c], plain; ``pads`` is the name of their opening, if that isn't the tree's."""
        drawn = self._masks.pads(pads or label, len(values))
        committed = Committed(np.concatenate([values, drawn], axis=1), self._threads, self._masks.salts(label, BLOWUP * len(values)))
        self._transcript.message(label, committed.root)
        return _Tree(values, drawn, committed)

    def _open(self, tree: _Tree, weights: Extended, theta: Extended, hidden: slice | None = None) -> None:
        """One tree's opening."""
        def combine(gamma: Extended, xi: Element) -> Combinations:
            return combined(tree.columns, gamma, columns.times_element(theta, xi), self._threads)
        open_masked(self._transcript, Masked((tree.committed,), tree.pads, weights, hidden), combine, self._threads)


def _arrays(trace: Trace) -> tuple[np.ndarray, ...]:
    return trace.quotients, trace.remainders, trace.activations, trace.outputs


def _sum_of_real(chunks: list[Chunk], masks: int) -> Element:
    """The sum of all helpers but those of mask rows."""
    sums = tuple(np.concatenate([np.asarray(chunk[4][k]) for chunk in chunks])[:-masks] for k in range(DEGREE))
    return multilinear.total(sums)


def _equations(rows: list[Element], entries: list[Element], mu: Element, delta: Element) -> Extended:
    """What the rounds' masks are weighted with for the three equations of step 9 d: five uint32 [512]."""
    of_rows = [sum_weights(len(rows), 4), value_weights(rows, 4)]
    of_table = [sum_weights(len(entries), 2), value_weights(entries, 2)]
    minus_mu, square = minus(ZERO, mu), times(delta, delta)
    found = [plus(a, times(square, b)) for a, b in zip(*of_rows, strict=True)]
    found += [plus(times(minus_mu, a), times(delta, b)) for a, b in zip(*of_table, strict=True)]
    return multilinear.from_plain(np.array(found, np.uint32))
