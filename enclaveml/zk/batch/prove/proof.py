"""The proof of a batch, step by step as PROTOCOL.md, "The proof", numbers them."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from enclaveml.zk.batch.format import BIAS_CONSTANTS, BLOWUP, DEGREE, VerificationKey
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, field, kernels, lookup, multilinear, wiring
from enclaveml.zk.batch.prove.chunks import chunk_rows
from enclaveml.zk.batch.prove.commitment import Committed, open_columns
from enclaveml.zk.batch.prove.extension import ONE, Element, Extended, minus, plus, powers, times
from enclaveml.zk.batch.prove.inference import Trace, infer
from enclaveml.zk.batch.prove.layers import sum_check
from enclaveml.zk.batch.prove.linear import combination
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.rows import Chunk, RowClaim, prove_rows
from enclaveml.zk.batch.prove.transcript import Transcript


@dataclass(frozen=True)
class Network:
    """The key, the weights int32 (K + 3, M) of each layer, and their commitments."""

    key: VerificationKey
    weights: tuple[np.ndarray, ...]
    committed: tuple[Committed, ...]


#: Claims about arrays: for each the arrays' numbers and what their features are multiplied with, five uint32 [features].
Claims = list[list[tuple[int, Extended]]]


@dataclass(frozen=True)
class FeaturePoint:
    """A hidden layer's point phi over its features, and the claims q, a, h and z there."""

    at: wiring.Features
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
        _, products = _prove_products(transcript, network, [combination(x, eq)], combination(trace.outputs.astype(np.int32), eq), [])
        _open_weights(transcript, network, products)
    return trace.outputs, transcript.proof


def _prove_hidden(transcript: Transcript, network: Network, x: np.ndarray, trace: Trace, threads: Pool) -> None:
    key = network.key
    size = chunk_rows(key.rows, key.units)
    committed = Committed(_columns(key, trace), threads)
    transcript.message("columns", committed.root)
    transcript.message("multiplicities", lookup.multiplicities(key, trace).tobytes())
    challenges = lookup.Challenges.of(key, *transcript.elements("lookup", 2))
    found = lookup.helpers(trace, challenges, size, threads)
    helpers = found.helpers
    committed_helpers = Committed(_helper_columns(helpers, threads), threads)
    transcript.message("helpers", committed_helpers.root)

    sizes = [layer.variables for layer in key.hidden]
    n = bits_of(key.rows)
    drawn = transcript.elements("zerocheck", n + sum(sizes) + 2)
    tau, (lam, mu) = drawn[:n], drawn[-2:]
    scales, sigmas = powers(lam, len(sizes)), []
    for bits in sizes:
        sigmas.append(drawn[n + sum(map(len, sigmas)) :][:bits])
    weights = [columns.times_element(multilinear.eq_table(sigma), scale) for sigma, scale in zip(sigmas, scales, strict=True)]
    of_features = columns.joined([wiring.of_features(layer, table) for layer, table in zip(key.hidden, weights, strict=True)])
    rows = prove_rows(transcript, _weighted(found, np.stack(of_features), threads), tau, mu, threads)
    eq = multilinear.eq_suffixes(rows.point)[0]
    activations = combination(trace.activations, eq)
    features = _prove_features(transcript, key, trace, challenges, rows, eq, activations, weights, mu)
    inputs = [combination(x, eq)] + [tuple(v[part] for v in activations) for part in _slices(key)]
    later, products = _prove_products(transcript, network, inputs, combination(trace.outputs.astype(np.int32), eq), features)

    theta = _coefficients(key, features, later, transcript.elements("combine")[0])
    _open_rows(transcript, key, trace, (committed, committed_helpers), helpers, theta, threads)
    _open_weights(transcript, network, products)


def _weighted(found: lookup.Helpers, weights: np.ndarray, threads: Pool) -> list[Chunk]:
    """A, w B, h and the line of every chunk; ``found`` keeps the helpers alone."""
    def chunk(left: Extended, right: Extended, helpers: Extended) -> Chunk:
        right = kernels.weighted(right, weights)
        return left, right, helpers, kernels.linear_part(left, weights, right)

    chunks = threads.map(chunk, found.left, found.right, found.helpers)
    found.left.clear()
    found.right.clear()
    return chunks


def _helper_columns(helpers: list[Extended], threads: Pool) -> np.ndarray:
    """uint32 [N, 5 F]: the coordinates of h, plain."""
    size, features = helpers[0][0].shape
    found = np.empty((size * len(helpers), DEGREE * features), np.uint32)
    threads.map(lambda part, chunk: columns.interleave(part, kernels.plain(chunk)), np.split(found, len(helpers)), helpers)
    return found


def _open_rows(transcript: Transcript, key: VerificationKey, trace: Trace, trees: tuple[Committed, Committed],
               helpers: list[Extended], theta: list[Extended], threads: Pool) -> None:
    """Step 9; theta for q, a and the five coordinates of h, five uint32 [F] each."""
    features, size = trace.quotients.shape[1], helpers[0][0].shape[0]
    places = np.concatenate([np.arange(part.start, part.stop) + part.start for part in _slices(key)])
    widths = np.repeat([layer.features for layer in key.hidden], [layer.features for layer in key.hidden])
    planes = [[*kernels.elements(trace.quotients[start : start + size], trace.activations[start : start + size]), *chunk]
              for start, chunk in zip(range(0, key.rows, size), helpers, strict=True)]

    def combine(gamma: Extended) -> tuple[np.ndarray, np.ndarray]:
        of_columns, of_helpers = (tuple(v[part] for v in gamma)
                                  for part in (slice(0, 2 * features), slice(2 * features, None)))
        gammas = [tuple(v[where] for v in of_columns) for where in (places, places + widths)] + columns.apart(of_helpers)
        given = columns.coefficients(list(zip(gammas, theta, strict=True)), [False, False] + [True] * DEGREE)
        return columns.combine(planes, given, threads)

    open_columns(transcript, trees, combine)


def _slices(key: VerificationKey) -> list[slice]:
    """Where each hidden layer's features are among all."""
    ends = np.cumsum([layer.features for layer in key.hidden]).tolist()
    return [slice(end - layer.features, end) for end, layer in zip(ends, key.hidden, strict=True)]


def _columns(key: VerificationKey, trace: Trace) -> np.ndarray:
    """uint32 [N, 2 F]: q and a of each hidden layer in turn."""
    parts = [values[:, part] for part in _slices(key) for values in (trace.quotients, trace.activations)]
    return field.from_signed(np.concatenate(parts, axis=1))


def _prove_features(transcript: Transcript, key: VerificationKey, trace: Trace, challenges: lookup.Challenges,
                    rows: RowClaim, eq: Extended, a: Extended, weights: list[Extended], mu: Element) -> list[FeaturePoint]:
    """Step 6: every hidden layer's sum-check over its features at the row point; ``a`` is folded already."""
    q, r = (combination(values, eq) for values in (trace.quotients, trace.remainders))
    alpha, beta, mus, eq_rho = (extension.broadcast(extension.constant(c), 1)
                                for c in (challenges.alpha, challenges.beta, mu, rows.eq))
    offsets = multilinear.from_plain(np.array(challenges.offsets))
    one = tuple(np.full_like(v, c) for v, c in zip(q, extension.constant(ONE), strict=True))
    left = extension.subtract(extension.subtract(extension.multiply(alpha, one), q), extension.multiply(beta, a))
    right = extension.subtract(offsets, r)

    def summand(ops: ModuleType, w: Extended, h: Extended, left: Extended, right: Extended) -> Extended:
        product = ops.multiply(h, ops.multiply(left, right))
        zero = ops.subtract(product, ops.add(left, right))
        return ops.add(ops.multiply(w, zero), ops.multiply(mus, h))

    parts = []
    for layer, part, table in zip(key.hidden, _slices(key), weights, strict=True):
        parts.append([extension.multiply(table, eq_rho)] + [
            wiring.placed(layer, tuple(v[part] for v in vector))
            for vector in (rows.helpers, left, right, q, a, r)])
    shares = [multilinear.total(summand(extension, *vectors[:4])) for vectors in parts]
    transcript.message("layers", extension.to_bytes(*shares))
    found = []
    for layer, vectors, share in zip(key.hidden, parts, shares, strict=True):
        folded = sum_check(transcript, ("features", "feature"), vectors[:4], share, 4, summand, vectors[4:])
        _, h, _, _, q_value, a_value, r_value = folded.values
        transcript.message("claims", extension.to_bytes(q_value, a_value, h, r_value))
        at = wiring.Features(layer, folded.point)
        inside = multilinear.total(at.table)
        z = plus(r_value, minus(times(extension.lift(1 << layer.shift), q_value),
                                times(extension.lift(1 << (layer.shift - 1)), inside)))
        found.append(FeaturePoint(at, [q_value, a_value, h], z))
    return found


def _prove_products(transcript: Transcript, network: Network, inputs: list[Extended], outputs: Extended,
                    features: list[FeaturePoint]) -> tuple[list[Claims], list[tuple[list[Element], Extended]]]:
    """Steps 7 and 8, from the last layer to the first, of every array and the outputs at the row point.

    Returns for each layer, ascending, what it claims of hidden layers' activations, and what its weights are opened with: kappa and theta.
    """
    last = network.key.layers[-1]
    at = wiring.Features(last, transcript.elements("output", last.variables))
    points = [feature.at for feature in features] + [at]
    sums = [feature.z for feature in features] + [multilinear.inner(outputs, at.table)]
    found: list[Claims] = []
    openings: list[tuple[list[Element], Extended]] = []
    for number in range(len(network.key.layers), 0, -1):
        claims, kappa = _prove_product(transcript, network, number, points[number - 1], sums[number - 1], inputs)
        found.insert(0, claims)
        openings.insert(0, (kappa, points[number - 1].outputs))
    return found, openings


def _prove_product(transcript: Transcript, network: Network, number: int, at: wiring.Features, claim: Element,
                   inputs: list[Extended]) -> tuple[Claims, list[Element]]:
    """Step 8 for layer ``number``, whose sums at its point are ``claim``; its claims about activations, and kappa."""
    key, layer, residuals = network.key, network.key.layers[number - 1], []
    if layer.residual is not None:
        source, exponent = layer.residual
        added = multilinear.inner(inputs[source], at.table)
        claim = minus(claim, times(added, extension.lift(1 << exponent)))
        if source:
            transcript.message("residual", extension.to_bytes(added))
            residuals.append([(source, at.table)])
    parts = [wiring.read(each, at.positions, inputs[each.source]) for each in key.wirings(number)]
    hidden = [bool(each.source) for each in key.wirings(number)]
    constants = columns.times_element(multilinear.embedded(np.array(BIAS_CONSTANTS, np.uint32)), at.inside)
    extended = multilinear.pad(columns.joined([*parts, constants]), layer.length)
    committed = [part if is_hidden else tuple(map(np.zeros_like, part)) for part, is_hidden in zip(parts, hidden, strict=True)]
    folded_weights = multilinear.pad(combination(network.weights[number - 1].T, at.outputs), layer.length)
    result = sum_check(transcript, ("product", "inner"), [extended, folded_weights], claim, 2,
                       lambda ops, a, w: ops.multiply(a, w), [multilinear.pad(columns.joined(committed), layer.length)])
    _, w_value, a_value = result.values
    transcript.message("product claims", extension.to_bytes(*([a_value, w_value] if any(hidden) else [w_value])))
    eq, start, places = multilinear.eq_table(result.point), 0, []
    for each in key.wirings(number):
        if each.source:
            places.append((each.source, wiring.readers(each, at.positions, tuple(v[start : start + each.inputs] for v in eq))))
        start += each.inputs
    return ([places] if places else []) + residuals, result.point


def _coefficients(key: VerificationKey, features: list[FeaturePoint], later: list[Claims], delta: Element) -> list[Extended]:
    """theta of step 9 for q, a and the five coordinates of h: five uint32 [F] each."""
    quotients, helpers = [], []
    activations = [tuple(np.zeros_like(v) for v in feature.at.table) for feature in features]

    def add_to(number: int, table: Extended, power: Element) -> None:
        activations[number - 1] = extension.add(activations[number - 1], columns.times_element(table, power))

    power = ONE
    for number, feature in enumerate(features, 1):
        table = feature.at.table
        quotients.append(columns.times_element(table, power))
        add_to(number, table, times(power, delta))
        power = times(times(power, delta), delta)
        helpers.append(columns.times_element(table, power))
        for claim in later[number]:
            power = times(power, delta)
            for source, theta in claim:
                add_to(source, theta, power)
        power = times(power, delta)
    return [columns.joined(quotients), columns.joined(activations), *columns.by_coordinate(columns.joined(helpers))]


def _open_weights(transcript: Transcript, network: Network, openings: list[tuple[list[Element], Extended]]) -> None:
    """Step 10."""
    for committed, values, (_, theta) in zip(network.committed, network.weights, openings, strict=True):
        def combine(gamma: Extended, values: np.ndarray = values, theta: Extended = theta,
                    length: int = committed.shape[0] // BLOWUP) -> tuple[np.ndarray, np.ndarray]:
            return tuple(extension.plain(multilinear.pad(combination(values.T, c), length)) for c in (gamma, theta))
        open_columns(transcript, (committed,), combine)
