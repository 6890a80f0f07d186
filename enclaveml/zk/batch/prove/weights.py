"""Committed weights, and the proof that they are int8 (PROTOCOL.md, "The weights proof")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaveml.zk.batch.format import BIAS_CONSTANTS, WEIGHT_HIGH, WEIGHT_LOW, Layer, P, VerificationKey
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, field, multilinear
from enclaveml.zk.batch.prove.commitment import Committed, open_columns
from enclaveml.zk.batch.prove.extension import Element, Extended, times
from enclaveml.zk.batch.prove.layers import sum_check
from enclaveml.zk.batch.prove.transcript import Transcript


def checked_weights(layers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The layers' weights as int32; ValueError where they are not int8 values of shape (K + 3, M)."""
    checked = []
    for number, given in enumerate(layers, 1):
        weights = np.asarray(given)
        if weights.ndim != 2 or weights.shape[0] <= len(BIAS_CONSTANTS) or weights.shape[1] < 1:
            raise ValueError(f"layer {number}: weights have the shape {weights.shape}; (K + 3, M) is expected: the bias's three limbs "
                             "are the last rows")
        if weights.dtype.kind not in "iu":
            raise ValueError(f"layer {number}: weights are {weights.dtype}; integers are expected")
        if weights.min() < WEIGHT_LOW or weights.max() > WEIGHT_HIGH:
            raise ValueError(f"layer {number}: weights are between {weights.min()} and {weights.max()}; "
                             f"{WEIGHT_LOW} to {WEIGHT_HIGH} is expected")
        checked.append(weights.astype(np.int32))
    return checked


def committed_weights(weights: np.ndarray) -> Committed:
    """Commit to one layer's weights int32 (K + 3, M): columns extended by zeros."""
    length = Layer(weights.shape[0] - len(BIAS_CONSTANTS), weights.shape[1], 0).length
    cells = np.zeros((length, weights.shape[1]), np.uint32)
    cells[: len(weights)] = field.from_signed(weights)
    return Committed(cells)


def prove_range(key: VerificationKey, committed: Sequence[Committed]) -> bytes:
    """The weights proof of the committed layers."""
    transcript = Transcript()
    transcript.absorb("kind", b"weights")
    transcript.absorb("key", key.to_bytes())
    cells = [layer.columns for layer in committed]
    counts = np.zeros(WEIGHT_HIGH - WEIGHT_LOW + 1, np.int64)
    for layer in committed:
        counts += np.bincount(_offset(layer.columns).reshape(-1), minlength=len(counts))
    transcript.message("multiplicities", counts.astype("<u4").tobytes())
    alpha = transcript.elements("lookup")[0]
    table = multilinear.from_plain(np.array([
        [v - (t if k == 0 else 0) for k, v in enumerate(alpha)] for t in range(WEIGHT_LOW, WEIGHT_HIGH + 1)]) % P)
    inverses = extension.inverse(table)
    helpers = [tuple(v[_offset(layer.columns)] for v in inverses) for layer in committed]
    commitments = []
    for helper in helpers:
        commitments.append(Committed(columns.interleaved(helper)))
        transcript.message("helpers", commitments[-1].root)
    sums = [multilinear.total(tuple(v.reshape(-1) for v in helper)) for helper in helpers]
    transcript.message("sums", extension.to_bytes(*sums))
    mu = transcript.elements("mu")[0]
    for *parts, total in zip(key.layers, cells, committed, helpers, commitments, sums, strict=True):
        _prove_layer(transcript, *parts, alpha, mu, times(mu, total))
    return transcript.proof


def _prove_layer(transcript: Transcript, layer: Layer, cells: np.ndarray, committed: Committed, helpers: Extended,
                 helper_commitment: Committed, alpha: Element, mu: Element, claim: Element) -> None:
    """One layer's sum-check over its cells, k first, and the opening at the point found."""
    m = bits_of(layer.outputs)
    drawn = transcript.elements("zerocheck", bits_of(layer.length) + m)
    split = bits_of(layer.length)
    along_rows, along_columns = multilinear.eq_table(drawn[:split]), multilinear.eq_table(drawn[split:])
    eq = extension.multiply(tuple(v[:, None] for v in along_rows), tuple(v[None, :] for v in along_columns))
    inside = multilinear.embedded(np.ones_like(cells))
    vectors = [eq] + [tuple(np.pad(v, ((0, 0), (0, (1 << m) - layer.outputs))) for v in vector)
                      for vector in (helpers, multilinear.embedded(cells), inside)]
    flat = [tuple(v.reshape(-1) for v in vector) for vector in vectors]
    alphas, mus = (extension.broadcast(extension.constant(c), 1) for c in (alpha, mu))

    def summand(eq: Extended, g: Extended, w: Extended, one: Extended) -> Extended:
        product = extension.multiply(g, extension.subtract(extension.multiply(alphas, one), w))
        return extension.add(extension.multiply(eq, extension.subtract(product, one)), extension.multiply(mus, g))

    folded = sum_check(transcript, ("range", "range"), flat, claim, 3, summand)
    _, g_value, w_value, _ = folded.values
    transcript.message("claims", extension.to_bytes(w_value, g_value))
    delta = transcript.elements("combine")[0]
    theta = tuple(v[: layer.outputs] for v in multilinear.eq_table(folded.point[split:]))
    open_columns(transcript, (committed, helper_commitment),
                 columns.joined([theta, columns.coordinate_coefficients(columns.times_element(theta, delta))]))


def _offset(cells: np.ndarray) -> np.ndarray:
    """Of weights as elements of the field their places in the table."""
    return ((cells.astype(np.int64) - WEIGHT_LOW) % P).astype(np.int64)
