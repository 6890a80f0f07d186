"""The proof of a batch, step by step as PROTOCOL.md, "The proof", numbers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from enclaveml.zk.batch.format import BIAS_CONSTANTS, BLOWUP, DEGREE, VerificationKey
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, field, kernels, lookup, multilinear
from enclaveml.zk.batch.prove.chunks import chunk_rows
from enclaveml.zk.batch.prove.commitment import Combinations, Committed, open_columns
from enclaveml.zk.batch.prove.extension import ONE, Element, Extended, minus, plus, powers, times
from enclaveml.zk.batch.prove.inference import Trace, infer
from enclaveml.zk.batch.prove.layers import sum_check
from enclaveml.zk.batch.prove.linear import combination, combination_of_rows
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.rows import Chunk, RowClaim, prove_rows
from enclaveml.zk.batch.prove.transcript import Transcript


@dataclass(frozen=True)
class Network:
    """The key, the weights int32 (K + 3, M) of each layer, and their commitments."""

    key: VerificationKey
    weights: tuple[np.ndarray, ...]
    committed: tuple[Committed, ...]


@dataclass(frozen=True)
class FeaturePoint:
    """A hidden layer's point phi over its features, and the claims q, a, h and z there."""

    point: list[Element]
    claims: list[Element]
    z: Element


def prove(network: Network, x: np.ndarray, nonce: bytes, threads: Pool) -> tuple[np.ndarray, bytes]:
    """Outputs int64 (N, D) for x int32 (N, K), and the proof."""
    key = network.key
    trace = infer(key, network.weights, x)
    transcript = Transcript()
    for label, data in (("kind", b"rows"), ("key", key.to_bytes()), ("nonce", nonce), ("inputs", x.astype("<i2").tobytes()),
                        ("outputs", trace.outputs.astype("<i4").tobytes())):
        transcript.absorb(label, data)
    if key.hidden:
        _prove_hidden(transcript, network, x, trace, threads)
    else:
        rho = transcript.elements("row", bits_of(key.rows))
        eq = multilinear.eq_suffixes(rho)[0]
        _, products = prove_products(transcript, network, [combination(x, eq)], combination(trace.outputs.astype(np.int32), eq), [])
        open_weights(transcript, network, products)
    return trace.outputs, transcript.proof


def _prove_hidden(transcript: Transcript, network: Network, x: np.ndarray, trace: Trace, threads: Pool) -> None:
    key = network.key
    size = chunk_rows(key.rows, sum(layer.outputs for layer in key.hidden))
    committed = Committed(field.from_signed(np.concatenate(hidden_columns(key, trace), axis=1)), threads)
    transcript.message("columns", committed.root)
    transcript.message("multiplicities", lookup.multiplicities(key, trace).tobytes())
    challenges = lookup.Challenges.of(key, *transcript.elements("lookup", 2))
    found = lookup.helpers(trace, challenges, size, threads)
    helpers = found.helpers
    committed_helpers = Committed(helper_columns(helpers, threads), threads)
    transcript.message("helpers", committed_helpers.root)

    drawn = ZeroCheck.draw(transcript, key)
    rows = prove_rows(transcript, weighted(key, found, drawn, threads), drawn.tau, drawn.mu, threads)
    eq = multilinear.eq_suffixes(rows.point)[0]
    activations = combination(trace.activations, eq)
    features = prove_features(transcript, key, trace, challenges, rows, eq, activations, drawn.weights)
    inputs = [combination(x, eq)] + [tuple(v[part] for v in activations) for part in slices(key)]
    points, products = prove_products(transcript, network, inputs, combination(trace.outputs.astype(np.int32), eq), features)

    delta = transcript.elements("combine")[0]
    theta = coefficients(key, features, points, powers(delta, 4 * len(features)))
    combine = combine_rows(key, trace, helpers, threads)
    open_columns(transcript, (committed, committed_helpers), lambda gamma: combine(gamma, theta))
    open_weights(transcript, network, products)


@dataclass(frozen=True)
class ZeroCheck:
    """The challenges of step 4: tau, mu, and for each hidden layer lambda^(l-1) eq(sigma_l, j): five uint32 [2^m]."""

    tau: list[Element]
    mu: Element
    weights: list[Extended]

    @classmethod
    def draw(cls, transcript: Transcript, key: VerificationKey) -> ZeroCheck:
        sizes, n = [bits_of(layer.outputs) for layer in key.hidden], bits_of(key.rows)
        drawn = transcript.elements("zerocheck", n + sum(sizes) + 2)
        tau, (lam, mu) = drawn[:n], drawn[-2:]
        scales, sigmas = powers(lam, len(sizes)), []
        for bits in sizes:
            sigmas.append(drawn[n + sum(map(len, sigmas)) :][:bits])
        weights = [columns.times_element(multilinear.eq_table(sigma), scale) for sigma, scale in zip(sigmas, scales, strict=True)]
        return cls(tau, mu, weights)


def weighted(key: VerificationKey, found: lookup.Helpers, drawn: ZeroCheck, threads: Pool) -> list[Chunk]:
    """A, w B, h, the line and H of every chunk; ``found`` keeps the helpers alone."""
    weights = np.stack(columns.joined([tuple(v[: layer.outputs] for v in table)
                                       for layer, table in zip(key.hidden, drawn.weights, strict=True)]))

    def chunk(left: Extended, right: Extended, helpers: Extended) -> Chunk:
        right = kernels.weighted(right, weights)
        return left, right, helpers, kernels.linear_part(left, weights, right), kernels.row_sums(helpers)

    chunks = threads.map(chunk, found.left, found.right, found.helpers)
    found.left.clear()
    found.right.clear()
    return chunks


def helper_columns(helpers: list[Extended], threads: Pool) -> np.ndarray:
    """uint32 [N, 5 F]: the coordinates of h, plain."""
    size, features = helpers[0][0].shape
    found = np.empty((size * len(helpers), DEGREE * features), np.uint32)
    threads.map(lambda part, chunk: columns.interleave(part, kernels.plain(chunk)), np.split(found, len(helpers)), helpers)
    return found


def combine_rows(key: VerificationKey, trace: Trace, helpers: list[Extended],
                 threads: Pool) -> Callable[[Extended, list[Extended]], Combinations]:
    """u and e of step 9 for gamma, and theta for q, a and the five coordinates of h, five uint32 [F] each."""
    features, size = trace.quotients.shape[1], helpers[0][0].shape[0]
    places = np.concatenate([np.arange(part.start, part.stop) + part.start for part in slices(key)])
    widths = np.repeat([layer.outputs for layer in key.hidden], [layer.outputs for layer in key.hidden])
    planes = [[*kernels.elements(trace.quotients[start : start + size], trace.activations[start : start + size]), *chunk]
              for start, chunk in zip(range(0, key.rows, size), helpers, strict=True)]

    def combine(gamma: Extended, theta: list[Extended]) -> Combinations:
        of_columns, of_helpers = (tuple(v[part] for v in gamma)
                                  for part in (slice(0, 2 * features), slice(2 * features, None)))
        gammas = [tuple(v[where] for v in of_columns) for where in (places, places + widths)] + columns.apart(of_helpers)
        given = columns.coefficients(list(zip(gammas, theta, strict=True)), [False, False] + [True] * DEGREE)
        return columns.combine(planes, given, threads)

    return combine


def slices(key: VerificationKey) -> list[slice]:
    """Where each hidden layer's features are among all."""
    ends = np.cumsum([layer.outputs for layer in key.hidden]).tolist()
    return [slice(end - layer.outputs, end) for end, layer in zip(ends, key.hidden, strict=True)]


def hidden_columns(key: VerificationKey, trace: Trace) -> list[np.ndarray]:
    """int32 [N, M_l] each: q and a of each hidden layer in turn."""
    return [values[:, part] for part in slices(key) for values in (trace.quotients, trace.activations)]


def prove_features(transcript: Transcript, key: VerificationKey, trace: Trace, challenges: lookup.Challenges,
                   rows: RowClaim, eq: Extended, a: Extended, weights: list[Extended]) -> list[FeaturePoint]:
    """Step 6: every hidden layer's sum-check over its features at the row point; ``a`` is folded already."""
    q, r = (combination_of_rows(values, eq, key.masks) for values in (trace.quotients, trace.remainders))
    alpha, beta, mus, eq_rho = (extension.broadcast(extension.constant(c), 1)
                                for c in (challenges.alpha, challenges.beta, rows.mu, rows.eq))
    offsets = multilinear.from_plain(np.array(challenges.offsets))
    one = tuple(np.full_like(v, c) for v, c in zip(q, extension.constant(ONE), strict=True))
    left = extension.subtract(extension.subtract(extension.multiply(alpha, one), q), extension.multiply(beta, a))
    right = extension.subtract(offsets, r)

    def summand(ops: ModuleType, w: Extended, h: Extended, left: Extended, right: Extended) -> Extended:
        product = ops.multiply(h, ops.multiply(left, right))
        zero = ops.subtract(product, ops.add(left, right))
        return ops.add(ops.multiply(w, zero), ops.multiply(mus, h))

    parts = []
    for part, table in zip(slices(key), weights, strict=True):
        parts.append([extension.multiply(table, eq_rho)] + [
            multilinear.pad(tuple(v[part] for v in vector), len(table[0]))
            for vector in (rows.helpers, left, right, q, a, r)])
    shares = [multilinear.total(summand(extension, *vectors[:4])) for vectors in parts]
    transcript.message("layers", extension.to_bytes(*shares))
    found = []
    for layer, vectors, share in zip(key.hidden, parts, shares, strict=True):
        folded = sum_check(transcript, ("features", "feature"), vectors[:4], share, 4, summand, vectors[4:])
        _, h, _, _, q_value, a_value, r_value = folded.values
        transcript.message("claims", extension.to_bytes(q_value, a_value, h, r_value))
        inside = multilinear.total(tuple(v[: layer.outputs] for v in multilinear.eq_table(folded.point)))
        z = plus(r_value, minus(times(extension.lift(1 << layer.shift), q_value),
                                times(extension.lift(1 << (layer.shift - 1)), inside)))
        found.append(FeaturePoint(folded.point, [q_value, a_value, h], z))
    return found


def prove_products(transcript: Transcript, network: Network, inputs: list[Extended], outputs: Extended,
                   features: list[FeaturePoint]) -> tuple[list[list[Element]], list[tuple[list[Element], Extended]]]:
    """Steps 7 and 8, from the last layer to the first, of every layer's inputs and the outputs at the row point.

    Returns for each layer, ascending, its point kappa, and what its weights are opened with: kappa and theta.
    """
    key = network.key
    output_point = transcript.elements("output", bits_of(key.outputs))
    output_eq = tuple(v[: key.outputs] for v in multilinear.eq_table(output_point))
    points = [feature.point for feature in features] + [output_point]
    claims = [feature.z for feature in features] + [multilinear.inner(outputs, output_eq)]
    if key.masks:
        transcript.message("output", extension.to_bytes(claims[-1]))
    found: list[list[Element]] = []
    openings: list[tuple[list[Element], Extended]] = []
    for number in reversed(range(len(key.layers))):
        layer = key.layers[number]
        theta = tuple(v[: layer.outputs] for v in multilinear.eq_table(points[number]))
        constants = multilinear.embedded(np.array(BIAS_CONSTANTS, np.uint32))
        extended = multilinear.pad(columns.joined([inputs[number], constants]), layer.length)
        alone = multilinear.pad(inputs[number], layer.length)
        folded_weights = multilinear.pad(combination(network.weights[number].T, theta), layer.length)
        result = sum_check(transcript, ("product", "inner"), [extended, folded_weights], claims[number], 2,
                           lambda ops, a, w: ops.multiply(a, w), [alone])
        _, w_value, a_value = result.values
        values = [a_value, w_value] if number or key.masks else [w_value]
        transcript.message("product claims", extension.to_bytes(*values))
        found.insert(0, result.point)
        openings.insert(0, (result.point, theta))
    return found, openings


def coefficients(key: VerificationKey, features: list[FeaturePoint], points: list[list[Element]],
                 deltas: list[Element]) -> list[Extended]:
    """theta of step 9 for q, a and the five coordinates of h: five uint32 [F] each."""
    quotients, activations, helpers = [], [], []
    for i, (layer, feature) in enumerate(zip(key.hidden, features, strict=True)):
        eq = tuple(v[: layer.outputs] for v in multilinear.eq_table(feature.point))
        next_eq = tuple(v[: layer.outputs] for v in multilinear.eq_table(points[i + 1]))
        q, a, h, later = (columns.times_element(table, delta)
                          for table, delta in zip((eq, eq, eq, next_eq), deltas[4 * i : 4 * i + 4], strict=True))
        quotients.append(q)
        activations.append(extension.add(a, later))
        helpers.append(h)
    return [columns.joined(quotients), columns.joined(activations), *columns.by_coordinate(columns.joined(helpers))]


def open_weights(transcript: Transcript, network: Network, openings: list[tuple[list[Element], Extended]]) -> None:
    """Step 10."""
    for committed, values, (_, theta) in zip(network.committed, network.weights, openings, strict=True):
        def combine(gamma: Extended, values: np.ndarray = values, theta: Extended = theta,
                    length: int = committed.shape[0] // BLOWUP) -> tuple[np.ndarray, np.ndarray]:
            return tuple(extension.plain(multilinear.pad(combination(values.T, c), length)) for c in (gamma, theta))
        open_columns(transcript, (committed,), combine)
