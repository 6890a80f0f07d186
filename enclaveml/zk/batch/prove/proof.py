"""The proof of a batch, step by step as PROTOCOL.md, "The proof", numbers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from enclaveml.zk.batch.format import BIAS_CONSTANTS, BLOWUP, DEGREE, VerificationKey
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import columns, extension, lookup, multilinear, wiring
from enclaveml.zk.batch.prove.commitment import Combinations, Committed, open_columns
from enclaveml.zk.batch.prove.extension import ONE, Element, Extended, minus, plus, powers, times
from enclaveml.zk.batch.prove.helpers import Helpers, helpers
from enclaveml.zk.batch.prove.inference import Trace, infer
from enclaveml.zk.batch.prove.layers import sum_check
from enclaveml.zk.batch.prove.linear import combination, combination_of_rows
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.round_masks import RoundMask
from enclaveml.zk.batch.prove.rows import RowClaim, prove_rows
from enclaveml.zk.batch.prove.transcript import Transcript


@dataclass(frozen=True)
class Network:
    """The key, the weights int32 (K + 3, M) of each layer, and their commitments.

    columns: where weights are hidden, the columns of the one commitment to them, uint32 [n_w, C].
    """

    key: VerificationKey
    weights: tuple[np.ndarray, ...]
    committed: tuple[Committed, ...]
    columns: np.ndarray | None = None


#: Claims about arrays: for each the arrays' numbers and what their features are multiplied with, five uint32 [features].
Claims = list[list[tuple[int, Extended]]]


@dataclass(frozen=True)
class FeaturePoint:
    """A hidden layer's point phi over its features, and the claims q, a, h and z there; what r is multiplied with in what is summed."""

    at: wiring.Features
    claims: list[Element]
    z: Element
    point: list[Element]
    slope: Element


@dataclass(frozen=True)
class ProductPoint:
    """Where a layer's product ended: kappa; eq over its outputs, five uint32 [M'], and its weights combined by that, [n_l]; what they are
    multiplied with there."""

    kappa: list[Element]
    outputs: Extended
    weights: Extended
    factor: Element


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
        _, products, _ = prove_products(transcript, network, [combination(x, eq)], combination(trace.outputs.astype(np.int32), eq), [])
        open_weights(transcript, network, products)
    return trace.outputs, transcript.proof


def _prove_hidden(transcript: Transcript, network: Network, x: np.ndarray, trace: Trace, threads: Pool) -> None:
    key = network.key
    committed = Committed(hidden_columns(key, trace), threads)
    transcript.message("columns", committed.root)
    transcript.message("multiplicities", lookup.multiplicities(key, trace).tobytes())
    challenges = lookup.Challenges.of(key, *transcript.elements("lookup", 2))
    found = helpers(trace, challenges, threads)
    committed_helpers = Committed(found.columns(), threads)
    transcript.message("helpers", committed_helpers.root)

    drawn = ZeroCheck.draw(transcript, key)
    rows = prove_rows(transcript, found.weighted(drawn.of_features(key)), drawn.tau, drawn.mu)
    eq = multilinear.eq_suffixes(rows.point)[0]
    activations = combination(trace.activations, eq)
    features = prove_features(transcript, key, trace, challenges, rows, eq, activations, drawn.weights)
    inputs = [combination(x, eq)] + [tuple(v[part] for v in activations) for part in slices(key)]
    later, products, _ = prove_products(transcript, network, inputs, combination(trace.outputs.astype(np.int32), eq), features)

    _, *theta = coefficients(key, features, later, transcript.elements("combine")[0])
    combine = combine_rows(key, found)
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
        sizes, n = [layer.variables for layer in key.hidden], bits_of(key.rows)
        drawn = transcript.elements("zerocheck", n + sum(sizes) + 2)
        tau, (lam, mu) = drawn[:n], drawn[-2:]
        scales, sigmas = powers(lam, len(sizes)), []
        for bits in sizes:
            sigmas.append(drawn[n + sum(map(len, sigmas)) :][:bits])
        weights = [columns.times_element(multilinear.eq_table(sigma), scale) for sigma, scale in zip(sigmas, scales, strict=True)]
        return cls(tau, mu, weights)

    def of_features(self, key: VerificationKey) -> np.ndarray:
        """The weights of all features, next to each other: uint32 [5, F]."""
        return np.stack(columns.joined([wiring.of_features(layer, table) for layer, table in zip(key.hidden, self.weights, strict=True)]))


def combine_rows(key: VerificationKey, found: Helpers) -> Callable[[Extended, list[Extended]], Combinations]:
    """u and e of step 9 for gamma, and theta for q, a and the five coordinates of h, five uint32 [F] each."""
    places = np.concatenate([np.arange(part.start, part.stop) + part.start for part in slices(key)])
    widths = np.repeat([layer.features for layer in key.hidden], [layer.features for layer in key.hidden])
    features = len(places)

    def combine(gamma: Extended, theta: list[Extended]) -> Combinations:
        of_columns, of_helpers = (tuple(v[part] for v in gamma)
                                  for part in (slice(0, 2 * features), slice(2 * features, None)))
        gammas = [tuple(v[where] for v in of_columns) for where in (places, places + widths)] + columns.apart(of_helpers)
        return found.combined(gammas, theta)

    return combine


def slices(key: VerificationKey) -> list[slice]:
    """Where each hidden layer's features are among all."""
    ends = np.cumsum([layer.features for layer in key.hidden]).tolist()
    return [slice(end - layer.features, end) for end, layer in zip(ends, key.hidden, strict=True)]


def hidden_columns(key: VerificationKey, trace: Trace) -> list[np.ndarray]:
    """int32 [N, features] each: q and a of each hidden layer in turn."""
    return [values[:, part] for part in slices(key) for values in (trace.quotients, trace.activations)]


def prove_features(transcript: Transcript, key: VerificationKey, trace: Trace, challenges: lookup.Challenges,
                   rows: RowClaim, eq: Extended, a: Extended, weights: list[Extended],
                   added: Sequence[RoundMask] = ()) -> list[FeaturePoint]:
    """Step 6: every hidden layer's sum-check over its features at the row point; ``a`` is folded already. ``added`` are what masks
    each layer's where weights are hidden: then r is not claimed."""
    q, r = (combination_of_rows(values, eq, key.masks) for values in (trace.quotients, trace.remainders))
    beta, mus, eq_rho = (extension.broadcast(extension.constant(c), 1) for c in (challenges.beta, rows.mu, rows.eq))
    bases, offsets = (multilinear.from_plain(np.array(each)) for each in (challenges.bases, challenges.offsets))
    left = extension.subtract(extension.subtract(bases, q), extension.multiply(beta, a))
    right = extension.subtract(offsets, r)

    def summand(ops: ModuleType, w: Extended, h: Extended, left: Extended, right: Extended) -> Extended:
        product = ops.multiply(h, ops.multiply(left, right))
        zero = ops.subtract(product, ops.add(left, right))
        return ops.add(ops.multiply(w, zero), ops.multiply(mus, h))

    parts = []
    for layer, part, table in zip(key.hidden, slices(key), weights, strict=True):
        parts.append([extension.multiply(table, eq_rho)] + [
            wiring.placed(layer, tuple(v[part] for v in vector))
            for vector in (rows.helpers, left, right, q, a, r)])
    shares = [multilinear.total(summand(extension, *vectors[:4])) for vectors in parts]
    masks = list(added) or [None] * len(shares)
    transcript.message("layers", extension.to_bytes(*map(masked_sum, shares, masks)))
    found = []
    for layer, vectors, share, mask in zip(key.hidden, parts, shares, masks, strict=True):
        folded = sum_check(transcript, ("features", "feature"), vectors[:4], share, 4, summand, vectors[4:], mask)
        factor, h, left_value, _, q_value, a_value, r_value = folded.values
        transcript.message("claims", extension.to_bytes(q_value, a_value, h, *([] if mask else [r_value])))
        at = wiring.Features(layer, folded.point)
        inside = multilinear.total(at.table)
        z = plus(r_value, minus(times(extension.lift(1 << layer.shift), q_value),
                                times(extension.lift(1 << (layer.shift - 1)), inside)))
        slope = times(factor, minus(ONE, times(h, left_value)))
        found.append(FeaturePoint(at, [q_value, a_value, h], z, folded.point, slope))
    return found


def masked_sum(truth: Element, mask: RoundMask | None) -> Element:
    """A sum as it is sent: with that of what masks its rounds."""
    return plus(truth, mask.total()) if mask else truth


def prove_products(transcript: Transcript, network: Network, inputs: list[Extended], outputs: Extended,
                   features: list[FeaturePoint], added: Sequence[RoundMask] = ()) -> tuple[list[Claims], list[ProductPoint], Extended]:
    """Steps 7 and 8, from the last layer to the first, of every array and the outputs at the row point. ``added`` are what masks each
    layer's rounds where weights are hidden: then neither sums nor weights are claimed.

    Returns for each layer, ascending, what it claims of committed arrays, and where its product ended; last eq of the outputs at
    their point.
    """
    last = network.key.layers[-1]
    at = wiring.Features(last, transcript.elements("output", last.variables))
    points = [feature.at for feature in features] + [at]
    sums = [feature.z for feature in features] + [multilinear.inner(outputs, at.table)]
    if network.key.masks and not added:
        transcript.message("output", extension.to_bytes(sums[-1]))
    found: list[Claims] = []
    ends: list[ProductPoint] = []
    for number in range(len(network.key.layers), 0, -1):
        claims, end = _prove_product(transcript, network, number, points[number - 1], sums[number - 1], inputs,
                                     added[number - 1] if added else None)
        found.insert(0, claims)
        ends.insert(0, end)
    return found, ends, at.table


def _prove_product(transcript: Transcript, network: Network, number: int, at: wiring.Features, claim: Element,
                   inputs: list[Extended], mask: RoundMask | None) -> tuple[Claims, ProductPoint]:
    """Step 8 for layer ``number``, whose sums at its point are ``claim``; its claims about committed arrays, and where it ended."""
    key, layer, residuals = network.key, network.key.layers[number - 1], []
    if layer.residual is not None:
        source, exponent = layer.residual
        added = multilinear.inner(inputs[source], at.table)
        claim = minus(claim, times(added, extension.lift(1 << exponent)))
        if source or key.masks:
            transcript.message("residual", extension.to_bytes(added))
            residuals.append([(source, at.table)])
    parts = [wiring.read(each, at.positions, inputs[each.source]) for each in key.wirings(number)]
    # With masks the inputs are committed too, and claimed apart.
    groups = [[bool(each.source) == hidden for each in key.wirings(number)] for hidden in ([False, True] if key.masks else [True])]
    groups = [group for group in groups if any(group)]
    constants = columns.times_element(multilinear.embedded(np.array(BIAS_CONSTANTS, np.uint32)), at.inside)
    extended = multilinear.pad(columns.joined([*parts, constants]), layer.length)
    committed = [columns.joined([part if inside else tuple(map(np.zeros_like, part)) for part, inside in zip(parts, group, strict=True)])
                 for group in groups]
    folded_weights = multilinear.pad(combination(network.weights[number - 1].T, at.outputs), layer.length)
    if mask:
        transcript.message("product sum", extension.to_bytes(masked_sum(claim, mask)))
    result = sum_check(transcript, ("product", "inner"), [extended, folded_weights], claim, 2,
                       lambda ops, a, w: ops.multiply(a, w), [multilinear.pad(each, layer.length) for each in committed], mask)
    factor, w_value, *values = result.values
    transcript.message("product claims", extension.to_bytes(*values, *([] if mask else [w_value])))
    eq, start, readers = multilinear.eq_table(result.point), 0, []
    for each in key.wirings(number):
        readers.append((each.source, wiring.readers(each, at.positions, tuple(v[start : start + each.inputs] for v in eq))))
        start += each.inputs
    claims = [[reader for reader, inside in zip(readers, group, strict=True) if inside] for group in groups]
    return claims + residuals, ProductPoint(result.point, at.outputs, folded_weights, factor)


def coefficients(key: VerificationKey, features: list[FeaturePoint], later: list[Claims], delta: Element) -> list[Extended]:
    """theta of step 9 for x, five uint32 [K], zeros without masks; for q, a and the five coordinates of h: five uint32 [F] each."""
    quotients, helpers, power = [], [], ONE
    arrays = [tuple(np.zeros(key.width, np.uint32) for _ in range(DEGREE))]
    arrays += [tuple(np.zeros_like(v) for v in feature.at.table) for feature in features]

    def take(claim: list[tuple[int, Extended]]) -> None:
        nonlocal power
        for number, table in claim:
            arrays[number] = extension.add(arrays[number], columns.times_element(table, power))
        power = times(power, delta)

    for claim in later[0]:
        take(claim)
    for number, feature in enumerate(features, 1):
        table = feature.at.table
        quotients.append(columns.times_element(table, power))
        power = times(power, delta)
        take([(number, table)])
        helpers.append(columns.times_element(table, power))
        power = times(power, delta)
        for claim in later[number]:
            take(claim)
    return [arrays[0], columns.joined(quotients), columns.joined(arrays[1:]), *columns.by_coordinate(columns.joined(helpers))]


def open_weights(transcript: Transcript, network: Network, products: list[ProductPoint]) -> None:
    """Step 10."""
    for committed, values, product in zip(network.committed, network.weights, products, strict=True):
        def combine(gamma: Extended, values: np.ndarray = values, theta: Extended = product.outputs,
                    length: int = committed.shape[0] // BLOWUP) -> tuple[np.ndarray, np.ndarray]:
            return tuple(extension.plain(multilinear.pad(combination(values.T, c), length)) for c in (gamma, theta))
        open_columns(transcript, (committed,), combine)
