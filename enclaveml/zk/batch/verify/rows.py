"""The proof of a batch's rows, step by step as ``PROTOCOL.md`` numbers them ("The proof")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..format import BIAS_CONSTANTS, VerificationKey, bits
from .element import ONE, ZERO, Element, total
from .extension import add, by_x, element, inner, scale
from .field import product
from .lookups import entries, rows_sum
from .merkle import HASH
from .multilinear import eq, eq_table, evaluate
from .opening import Tree, check_opening, opening_bytes
from .reader import ELEMENT, Reader, numbers
from .rejection import demand
from .sumcheck import rounds
from .transcript import Transcript
from .wiring import Features, reads


@dataclass(frozen=True)
class _Activation:
    """A hidden layer after step 6: phi, the claims at (rho, phi), and z, which follows."""

    at: Features
    q: Element
    a: Element
    h: Element
    z: Element


@dataclass(frozen=True)
class _Claim:
    """That the sum over ``places``, arrays m and thetas [5, features], of theta a_m(rho) is ``value``."""

    value: Element
    places: list[tuple[int, np.ndarray]]


@dataclass(frozen=True)
class _Product:
    """A layer after step 8: kappa, the claim about its weights, and what it claims of activations."""

    point: list[Element]
    weight: Element
    claims: list[_Claim]


def rows_bytes(key: VerificationKey) -> int:
    """Length of a proof of ``key.rows`` rows."""
    n, units = bits(key.rows), key.units
    elements = sum(2 * bits(layer.length) + _claims_of_product(key, number) for number, layer in enumerate(key.layers, 1))
    elements += sum(layer.residual is not None and layer.residual[0] > 0 for layer in key.layers)
    size = sum(opening_bytes(layer.length, [layer.outputs]) for layer in key.layers)
    if key.hidden:
        elements += 4 * n + sum(1 + 4 * layer.variables + 4 for layer in key.hidden)
        size += 2 * HASH + 4 * entries(key) + opening_bytes(key.rows, [2 * units, 5 * units])
    return size + ELEMENT * elements


def check_rows(key: VerificationKey, nonce: bytes, x: np.ndarray, y: np.ndarray, proof: bytes) -> None:
    """Hold the statement for x [N, K] int16 and y [N, D] int32 in their ranges; ``Rejected`` otherwise."""
    reader, transcript = Reader(proof), Transcript()
    transcript.absorb("kind", b"rows")
    transcript.absorb("key", key.to_bytes())
    transcript.absorb("nonce", nonce)
    transcript.absorb("inputs", np.ascontiguousarray(x, "<i2"))
    transcript.absorb("outputs", np.ascontiguousarray(y, "<i4"))

    trees: list[Tree] = []
    activations: list[_Activation] = []
    if key.hidden:
        trees, rho, activations = _check_activations(key, reader, transcript)
    else:
        rho = transcript.elements("row", bits(key.rows))
    row_table = eq_table(rho)

    # 7. The outputs.
    last = Features.at(key.layers[-1], transcript.elements("output", key.layers[-1].variables))
    sums = [*((layer.at, layer.z) for layer in activations), (last, evaluate(y, row_table, last.table))]

    # 8. The layers' products, last to first.
    given = product(row_table, x)
    products = {number: _check_product(key, number, *sums[number - 1], given, reader, transcript)
                for number in range(len(key.layers), 0, -1)}

    # 9. The committed columns, every claim about them at once.
    if activations:
        claim, theta = _combined(transcript.element("combine"), activations, products)
        check_opening(reader, transcript, trees, rho, claim, theta, "columns")

    # 10. The weights.
    for number, layer in enumerate(key.layers, 1):
        tree, done = Tree(key.roots[number - 1], layer.outputs), products[number]
        check_opening(reader, transcript, [tree], done.point, done.weight, sums[number - 1][0].outputs, f"weights of layer {number}")


def _check_product(key: VerificationKey, number: int, at: Features, z: Element, given: np.ndarray, reader: Reader,
                   transcript: Transcript) -> _Product:
    """Step 8 for one layer: z at its point ``at`` against what it reads; ``given`` [5, K]: the inputs at rho."""
    layer = key.layers[number - 1]
    claims: list[_Claim] = []
    if layer.residual is not None:
        source, exponent = layer.residual
        if source:
            raw, (added,) = reader.elements(1, "residual")
            transcript.absorb("residual", raw)
            claims.append(_Claim(added, [(source, at.table)]))
        else:
            added = inner(given, at.table)
        z = z - added * 2**exponent
    kappa, claim = rounds(reader, transcript, z, bits(layer.length), 2, "product", "inner")
    raw, said = reader.elements(_claims_of_product(key, number), "product claims")
    transcript.absorb("product claims", raw)
    table = eq_table(kappa)
    value = at.inside * total(element(table[:, layer.inputs + i]) * c for i, c in enumerate(BIAS_CONSTANTS))
    places, start = [], 0
    for wiring in key.wirings(number):
        theta = reads(wiring, at.positions, table[:, start:start + wiring.inputs])
        start += wiring.inputs
        if wiring.source:
            places.append((wiring.source, theta))
        else:
            value = value + inner(given, theta)
    if places:
        value = value + said[0]
        claims.insert(0, _Claim(said[0], places))
    demand(value * said[-1] == claim, f"product of layer {number}: the claims are not what the rounds lead to")
    return _Product(kappa, said[-1], claims)


def _claims_of_product(key: VerificationKey, number: int) -> int:
    """How many elements a layer's product ends with: what it reads of hidden layers, if it reads any, and its weights."""
    return 1 + any(wiring.source for wiring in key.wirings(number))


def _combined(delta: Element, activations: list[_Activation], products: dict[int, _Product]) -> tuple[Element, np.ndarray]:
    """Step 9: all claims with powers of delta added up, and theta [5, c] of the columns and helpers."""
    claim, power = ZERO, ONE
    quotients, helpers = [], []
    values = [np.zeros_like(layer.at.table) for layer in activations]
    for number, layer in enumerate(activations, 1):
        quotients.append(scale(layer.at.table, power))
        values[number - 1] = add(values[number - 1], scale(layer.at.table, power * delta))
        helpers.append(coordinates(scale(layer.at.table, power * delta * delta)))
        claim = claim + power * (layer.q + delta * (layer.a + delta * layer.h))
        power = power * delta * delta * delta
        for later in products[number + 1].claims:
            claim = claim + power * later.value
            for source, theta in later.places:
                values[source - 1] = add(values[source - 1], scale(theta, power))
            power = power * delta
    columns = [theta for pair in zip(quotients, values, strict=True) for theta in pair]
    return claim, np.concatenate([*columns, *helpers], axis=1)


def _check_activations(key: VerificationKey, reader: Reader,
                       transcript: Transcript) -> tuple[list[Tree], list[Element], list[_Activation]]:
    """Steps 1 to 6: the trees, rho, and the hidden layers' claims."""
    n, units = bits(key.rows), key.units
    # 1. to 3. Columns, multiplicities, helpers.
    trees = [Tree(reader.take(HASH), 2 * units)]
    transcript.absorb("columns", trees[0].root)
    raw = reader.take(4 * entries(key))
    transcript.absorb("multiplicities", raw)
    multiplicities = numbers(raw, "multiplicities")
    alpha, beta = transcript.elements("lookup", 2)
    trees.append(Tree(reader.take(HASH), 5 * units))
    transcript.absorb("helpers", trees[1].root)
    found = rows_sum(key, multiplicities, alpha, beta)

    # 4. and 5. All rows at once.
    drawn = transcript.elements("zerocheck", n + sum(layer.variables for layer in key.hidden) + 2)
    tau, sigmas, (lam, mu) = drawn[:n], drawn[n:-2], drawn[-2:]
    rho, claim = rounds(reader, transcript, mu * found, n, 4, "rows", "row")

    # 6. Each layer's features.
    raw, parts = reader.elements(len(key.hidden), "layers' parts")
    transcript.absorb("layers", raw)
    demand(total(parts) == claim, "layers: their parts are not the rows' last claim")
    activations = []
    weight = eq(tau, rho)
    for number, (layer, part) in enumerate(zip(key.hidden, parts, strict=True), 1):
        m = layer.variables
        sigma, sigmas = sigmas[:m], sigmas[m:]
        phi, claim = rounds(reader, transcript, part, m, 4, "features", "feature")
        raw, (q, a, h, r) = reader.elements(4, "claims")
        transcript.absorb("claims", raw)
        at = Features.at(layer, phi)
        one = at.one
        left = alpha * one - q - beta * a
        right = (alpha - beta * beta * layer.shift) * one - r
        demand(weight * eq(sigma, phi) * (h * left * right - left - right) + mu * h == claim,
               f"activation of layer {number}: the claims are not what the rounds lead to")
        z = r + q * 2**layer.shift - one * 2 ** (layer.shift - 1)
        activations.append(_Activation(at, q, a, h, z))
        weight = weight * lam
    return trees, rho, activations


def coordinates(theta: np.ndarray) -> np.ndarray:
    """[5, 5 M]: X^d theta_j for coordinate d of j, of theta [5, M]: an element is five columns."""
    result = [theta]
    for _ in range(4):
        result.append(by_x(result[-1]))
    return np.stack(result, axis=-1).reshape(5, -1)
