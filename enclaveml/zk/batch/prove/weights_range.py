"""The proof that committed weights are int8 (PROTOCOL.md, "The weights proof"): once for a model."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from enclaveml.zk.batch.format import DEGREE, WEIGHT_HIGH, WEIGHT_LOW, Layer, P, VerificationKey
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, field, kernels, multilinear
from enclaveml.zk.batch.prove.chunks import chunk_rows
from enclaveml.zk.batch.prove.commitment import Committed, open_columns
from enclaveml.zk.batch.prove.extension import Element, Extended, times
from enclaveml.zk.batch.prove.layers import sum_check
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.transcript import Transcript
from enclaveml.zk.batch.prove.weights import padded_cells


def prove_range(key: VerificationKey, weights: Sequence[np.ndarray], committed: Sequence[Committed],
                threads: Pool) -> bytes:
    """The weights proof of the layers' weights int32 (K + 3, M), committed to."""
    transcript = Transcript()
    transcript.absorb("kind", b"weights")
    transcript.absorb("key", key.to_bytes())
    cells = [padded_cells(layer) for layer in weights]
    counts = sum(np.bincount((layer - WEIGHT_LOW).reshape(-1), minlength=WEIGHT_HIGH - WEIGHT_LOW + 1) for layer in cells)
    transcript.message("multiplicities", counts.astype("<u4").tobytes())
    alpha = transcript.elements("lookup")[0]
    inverses = inverses_of(alpha)
    helpers = [tuple(v[layer - WEIGHT_LOW] for v in inverses) for layer in cells]
    commitments = []
    for helper in helpers:
        commitments.append(Committed(helper_columns(helper), threads))
        transcript.message("helpers", commitments[-1].root)
    sums = [multilinear.total(tuple(v.reshape(-1) for v in helper)) for helper in helpers]
    transcript.message("sums", extension.to_bytes(*sums))
    mu = transcript.elements("mu")[0]
    for *parts, trees, total in zip(key.layers, cells, helpers, zip(committed, commitments, strict=True), sums, strict=True):
        _prove_layer(transcript, *parts, trees, alpha, mu, times(mu, total), threads)
    return transcript.proof


def inverses_of(alpha: Element) -> Extended:
    """1 / (alpha - w) for every w of the table: five uint32 [256]."""
    table = np.array([[(v - w * (k == 0)) % P for k, v in enumerate(alpha)] for w in range(WEIGHT_LOW, WEIGHT_HIGH + 1)])
    return extension.inverse(multilinear.from_plain(table.astype(np.uint32)))


def helper_columns(helper: Extended) -> np.ndarray:
    """uint32 [n, 5 M]: the coordinates of g, plain."""
    n, width = helper[0].shape
    found = np.empty((n, DEGREE * width), np.uint32)
    columns.interleave(found, kernels.plain(helper))
    return found


def _prove_layer(transcript: Transcript, layer: Layer, cells: np.ndarray, helpers: Extended, trees: tuple[Committed, Committed],
                 alpha: Element, mu: Element, claim: Element, threads: Pool) -> None:
    """One layer's sum-check over its cells, k first, and the opening at the point found."""
    split, m = bits_of(layer.length), bits_of(layer.outputs)
    drawn = transcript.elements("zerocheck", split + m)
    along_rows, along_columns = multilinear.eq_table(drawn[:split]), multilinear.eq_table(drawn[split:])
    eq = kernels.multiply(tuple(v[:, None] for v in along_rows), tuple(v[None, :] for v in along_columns))
    in_field = field.from_signed(cells)
    vectors = [tuple(np.asarray(v).reshape(-1) for v in eq)] + [
        tuple(np.pad(v, ((0, 0), (0, (1 << m) - layer.outputs))).reshape(-1) for v in vector)
        for vector in (helpers, multilinear.embedded(in_field), multilinear.embedded(np.ones_like(in_field)))]
    alphas, mus = (extension.broadcast(extension.constant(c), 1) for c in (alpha, mu))

    def summand(ops: ModuleType, eq: Extended, g: Extended, w: Extended, one: Extended) -> Extended:
        product = ops.multiply(g, ops.subtract(ops.multiply(alphas, one), w))
        return ops.add(ops.multiply(eq, ops.subtract(product, one)), ops.multiply(mus, g))

    folded = sum_check(transcript, ("range", "range"), vectors, claim, 3, summand)
    _, g_value, w_value, _ = folded.values
    transcript.message("claims", extension.to_bytes(w_value, g_value))
    delta = transcript.elements("combine")[0]
    theta = tuple(v[: layer.outputs] for v in multilinear.eq_table(folded.point[split:]))
    thetas = [theta, *columns.by_coordinate(columns.times_element(theta, delta))]
    size = chunk_rows(layer.length, layer.outputs)
    planes = [[v[start : start + size] for v in (in_field, *helpers)] for start in range(0, layer.length, size)]

    def combine(gamma: Extended) -> tuple[np.ndarray, np.ndarray]:
        of_weights, of_helpers = (tuple(v[part] for v in gamma)
                                  for part in (slice(0, layer.outputs), slice(layer.outputs, None)))
        pairs = list(zip([of_weights, *columns.apart(of_helpers)], thetas, strict=True))
        return columns.combine(planes, columns.coefficients(pairs, [False] + [True] * DEGREE), threads)

    open_columns(transcript, trees, combine)
