"""The proof of a batch that shows nothing of inputs and activations, step by step as PROTOCOL.md, "Masked proofs", numbers them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import BLOWUP, DEGREE, ROUND_MASKS, table_shape
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, field, kernels, lookup, multilinear, table
from enclaveml.zk.batch.prove.chunks import chunk_rows
from enclaveml.zk.batch.prove.commitment import Combinations, Committed
from enclaveml.zk.batch.prove.extension import ZERO, Element, Extended, minus, plus, powers, times
from enclaveml.zk.batch.prove.inference import Trace, infer, infer_masks
from enclaveml.zk.batch.prove.linear import combination_of_rows
from enclaveml.zk.batch.prove.masked_opening import Dependent, Masked, combined, open_masked
from enclaveml.zk.batch.prove.masks import Masks, input_masks
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.proof import (
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


class _Prover:
    def __init__(self, network: Network, nonce: bytes, masks: Masks, threads: Pool) -> None:
        self._network, self._key, self._masks, self._threads = network, network.key, masks, threads
        self._transcript, self._nonce = Transcript(), nonce

    def prove(self, x: np.ndarray, real: Trace, input_key: bytes) -> bytes:
        key, masks, transcript = self._key, self._masks, self._transcript
        for label, data in (("kind", b"rows masked"), ("key", key.to_bytes()), ("nonce", self._nonce),
                            ("outputs", real.outputs.astype("<i4").tobytes())):
            transcript.absorb(label, data)
        salt = masks.input_salt()
        transcript.message("input salt", salt)
        hidden_inputs = input_masks(input_key, salt, self._nonce, (key.masks, key.width)).astype(np.int32)
        hidden = self._mask_rows(hidden_inputs)
        inputs = np.concatenate([x, hidden_inputs])
        trace = Trace(*(np.concatenate(pair) for pair in zip(_arrays(real), _arrays(hidden), strict=True)))

        found = np.concatenate([inputs, *hidden_columns(key, trace)], axis=1)
        committed = Committed(field.from_signed(found), self._threads, masks.salts("columns", BLOWUP * key.rows))
        transcript.message("columns", committed.root)
        counts = lookup.multiplicities(key, real)
        shape = table_shape(len(counts))
        counted = self._commit("multiplicities", table.matrix(counts, masks.elements("multiplicities", shape)))
        outputs = self._commit("outputs", np.concatenate([hidden.outputs.astype(np.uint32),
                                                          masks.elements("outputs", (key.masks, key.outputs))]))
        added = self._commit("masks", masks.elements("masks", (ROUND_MASKS, DEGREE)))
        n, v = bits_of(key.rows), table.variables(len(counts))
        entries = [tuple(row) for row in added.columns.tolist()]
        of_rows, of_table = RoundMask(entries, n, 4), RoundMask(entries[4 * n + 1 :], v, 2)

        challenges = lookup.Challenges.of(key, *transcript.elements("lookup", 2))
        size = chunk_rows(key.rows, sum(layer.outputs for layer in key.hidden))
        lookups = lookup.helpers(trace, challenges, size, self._threads)
        helpers = lookups.helpers
        self._hide(helpers)
        committed_helpers = self._commit("helpers", helper_columns(helpers, self._threads), "columns")

        drawn = ZeroCheck.draw(transcript, key)
        chunks = weighted(key, lookups, drawn, self._threads)
        total = _sum_of_real(chunks, key.masks)
        gammas = [plus(times(drawn.mu, total), of_rows.total()), plus(total, of_table.total())]
        transcript.message("sums", extension.to_bytes(*gammas))
        rows = prove_rows(transcript, chunks, drawn.tau, drawn.mu, self._threads, Hiding(key.masks, of_rows))
        entry = table.prove_table(transcript, key, challenges, counted.columns, total, of_table)

        eq = multilinear.eq_suffixes(rows.point)[0]
        activations, x_values, y_values = (combination_of_rows(values, eq, key.masks)
                                           for values in (trace.activations, inputs, trace.outputs.astype(np.int32)))
        features = prove_features(transcript, key, trace, challenges, rows, eq, activations, drawn.weights)
        points, products = prove_products(transcript, self._network, [x_values, *(tuple(v[part] for v in activations) for part in slices(key))],
                                          y_values, features)

        delta = transcript.elements("combine")[0]
        theta = coefficients(key, features, points, powers(delta, 4 * len(features) + 1)[1:])
        theta_inputs = tuple(v[: key.width] for v in multilinear.eq_table(points[0]))
        combine_hidden, of_inputs = combine_rows(key, trace, helpers, self._threads), field.from_signed(inputs)

        def combine(gamma: Extended, xi: Element) -> Combinations:
            first, others = (tuple(v[part] for v in gamma) for part in (slice(0, key.width), slice(key.width, None)))
            parts = (combined(of_inputs, first, columns.times_element(theta_inputs, xi), self._threads),
                     combine_hidden(others, [columns.times_element(c, xi) for c in theta]))
            return tuple(field.add(a, b) for a, b in zip(*parts, strict=True))

        opened = Masked((committed, committed_helpers.committed), committed_helpers.pads, eq, slice(-key.masks, None))
        open_masked(transcript, opened, combine, self._threads)
        top = product(rows.point[: n - bits_of(key.masks)])
        self._open(outputs, columns.times_element(multilinear.eq_suffixes(rows.point)[n - bits_of(key.masks)], top), products[-1][1])
        self._open(counted, multilinear.eq_table(entry.rows), multilinear.eq_table(entry.columns), slice(shape[0], None))
        weights = _equations(rows.point, entry.rows + entry.columns, drawn.mu, delta)
        self._open(added, weights, multilinear.from_plain(np.eye(DEGREE, dtype=np.uint32)))
        open_weights(transcript, self._network, products)
        return transcript.proof

    def _mask_rows(self, x: np.ndarray) -> Trace:
        """The mask rows of all layers for those of the inputs, int32 [m, K]."""
        found = [[self._masks.elements(f"{name} {number}", (self._key.masks, layer.outputs)).astype(np.int32)
                  for number, layer in enumerate(self._key.hidden, 1)] for name in "qa"]
        return infer_masks(self._key, self._network.weights, x, *(np.concatenate(parts, axis=1) for parts in found))

    def _hide(self, helpers: list[Extended]) -> None:
        """Replace the helpers of mask rows, the last of the chunks, by uniform elements."""
        m = self._key.masks
        drawn = [self._masks.elements(f"h {number}", (m, layer.outputs, DEGREE)) for number, layer in enumerate(self._key.hidden, 1)]
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
