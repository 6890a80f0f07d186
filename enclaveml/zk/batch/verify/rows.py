"""The proof of a batch's rows, step by step as ``PROTOCOL.md`` numbers them ("The proof")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..format import BIAS_CONSTANTS, VerificationKey, bits
from .element import Element, power, total
from .extension import add, by_x, element, scale
from .lookups import entries, rows_sum
from .merkle import HASH
from .multilinear import eq, eq_table, evaluate, ones
from .opening import Tree, check_opening, opening_bytes
from .reader import ELEMENT, Reader, numbers
from .rejection import demand
from .sumcheck import rounds
from .transcript import Transcript


@dataclass(frozen=True)
class _Activation:
    """A hidden layer after step 6: phi, eq's table there, the claims at (rho, phi), and z, which follows."""

    point: list[Element]
    table: np.ndarray
    q: Element
    a: Element
    h: Element
    z: Element


def rows_bytes(key: VerificationKey) -> int:
    """Length of a proof of ``key.rows`` rows."""
    n, units = bits(key.rows), sum(layer.outputs for layer in key.hidden)
    elements = sum(2 * bits(layer.length) + 1 for layer in key.layers)
    size = sum(opening_bytes(layer.length, [layer.outputs]) for layer in key.layers)
    if key.hidden:
        elements += 4 * n + sum(1 + 4 * bits(layer.outputs) + 4 + 1 for layer in key.hidden)
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
    phi = transcript.elements("output", bits(key.outputs))
    table = eq_table(phi)
    features = [(layer.point, layer.table, layer.z) for layer in activations]
    features.append((phi, table, evaluate(y, row_table, table)))

    # 8. The layers' products, last to first.
    inner_tables: dict[int, np.ndarray] = {}
    weights: dict[int, tuple[list[Element], Element]] = {}
    inputs: dict[int, Element] = {}
    for number in range(len(key.layers), 0, -1):
        layer = key.layers[number - 1]
        z = features[number - 1][2]
        kappa, claim = rounds(reader, transcript, z, bits(layer.length), 2, "product", "inner")
        inner_table = eq_table(kappa)
        raw, claims = reader.elements(2 if number > 1 else 1, "product claims")
        transcript.absorb("product claims", raw)
        value = claims[0] if number > 1 else evaluate(x, row_table, inner_table)
        limbs = total(element(inner_table[:, layer.inputs + i]) * c for i, c in enumerate(BIAS_CONSTANTS))
        demand((value + limbs) * claims[-1] == claim,
               f"product of layer {number}: the claims are not what the rounds lead to")
        inner_tables[number], weights[number], inputs[number] = inner_table, (kappa, claims[-1]), value

    # 9. The committed columns, every claim about them at once.
    if activations:
        delta = transcript.element("combine")
        claims, columns, helpers = [], [], []
        for number, layer in enumerate(activations, 1):
            width = key.layers[number - 1].outputs
            first, second, third, fourth = (power(delta, len(claims) + i) for i in range(4))
            here = layer.table[:, :width]
            columns.append(scale(here, first))
            columns.append(add(scale(here, second), scale(inner_tables[number + 1][:, :width], fourth)))
            helpers.append(coordinates(scale(here, third)))
            claims += [layer.q, layer.a, layer.h, inputs[number + 1]]
        claim = total(power(delta, i) * value for i, value in enumerate(claims))
        thetas = np.concatenate(columns + helpers, axis=1)
        check_opening(reader, transcript, trees, rho, claim, thetas, "columns")

    # 10. The weights.
    for number, layer in enumerate(key.layers, 1):
        kappa, claim = weights[number]
        tree = Tree(key.roots[number - 1], layer.outputs)
        theta = features[number - 1][1][:, :layer.outputs]
        check_opening(reader, transcript, [tree], kappa, claim, theta, f"weights of layer {number}")


def _check_activations(key: VerificationKey, reader: Reader,
                       transcript: Transcript) -> tuple[list[Tree], list[Element], list[_Activation]]:
    """Steps 1 to 6: the trees, rho, and the hidden layers' claims."""
    n, units = bits(key.rows), sum(layer.outputs for layer in key.hidden)
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
    drawn = transcript.elements("zerocheck", n + sum(bits(layer.outputs) for layer in key.hidden) + 2)
    tau, sigmas, (lam, mu) = drawn[:n], drawn[n:-2], drawn[-2:]
    rho, claim = rounds(reader, transcript, mu * found, n, 4, "rows", "row")

    # 6. Each layer's features.
    raw, parts = reader.elements(len(key.hidden), "layers' parts")
    transcript.absorb("layers", raw)
    demand(total(parts) == claim, "layers: their parts are not the rows' last claim")
    activations = []
    weight = eq(tau, rho)
    for number, (layer, part) in enumerate(zip(key.hidden, parts, strict=True), 1):
        m = bits(layer.outputs)
        sigma, sigmas = sigmas[:m], sigmas[m:]
        phi, claim = rounds(reader, transcript, part, m, 4, "features", "feature")
        raw, (q, a, h, r) = reader.elements(4, "claims")
        transcript.absorb("claims", raw)
        table = eq_table(phi)
        one = ones(table, layer.outputs)
        left = alpha * one - q - beta * a
        right = (alpha - beta * beta * layer.shift) * one - r
        demand(weight * eq(sigma, phi) * (h * left * right - left - right) + mu * h == claim,
               f"activation of layer {number}: the claims are not what the rounds lead to")
        z = r + q * 2**layer.shift - one * 2 ** (layer.shift - 1)
        activations.append(_Activation(phi, table, q, a, h, z))
        weight = weight * lam
    return trees, rho, activations


def coordinates(theta: np.ndarray) -> np.ndarray:
    """[5, 5 M]: X^d theta_j for coordinate d of j, of theta [5, M]: an element is five columns."""
    result = [theta]
    for _ in range(4):
        result.append(by_x(result[-1]))
    return np.stack(result, axis=-1).reshape(5, -1)
