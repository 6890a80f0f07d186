"""Steps 4, 6, 8 and 10 of the rows' proof (``PROTOCOL.md``, "The proof"): they are the same with mask rows and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..format import BIAS_CONSTANTS, VerificationKey, bits
from .element import Element, power, total
from .extension import add, by_x, element, scale
from .multilinear import eq, eq_table, ones
from .opening import Tree, check_opening
from .reader import Reader
from .rejection import demand
from .sumcheck import rounds
from .transcript import Transcript


@dataclass(frozen=True)
class Challenges:
    """What steps 2 and 4 draw: alpha, beta; tau, a sigma for each hidden layer, lambda (``lam``), mu."""

    alpha: Element
    beta: Element
    tau: list[Element]
    sigmas: list[list[Element]]
    lam: Element
    mu: Element


@dataclass(frozen=True)
class Feature:
    """A layer at (rho, phi): phi, eq's table there, and z; of a hidden layer the claims q, a, h too."""

    point: list[Element]
    table: np.ndarray
    z: Element
    q: Element | None = None
    a: Element | None = None
    h: Element | None = None


@dataclass(frozen=True)
class Product:
    """A layer after step 8: kappa, eq's table there, what it is given at (rho, kappa), and W(kappa, phi)."""

    point: list[Element]
    table: np.ndarray
    given: Element
    weight: Element


def draw_zerocheck(key: VerificationKey, transcript: Transcript, lookup: list[Element]) -> Challenges:
    """Step 4, after ``lookup``, alpha and beta."""
    n = bits(key.rows)
    drawn = transcript.elements("zerocheck", n + sum(bits(layer.outputs) for layer in key.hidden) + 2)
    tau, rest, (lam, mu) = drawn[:n], drawn[n:-2], drawn[-2:]
    sigmas = []
    for layer in key.hidden:
        sigmas.append(rest[:bits(layer.outputs)])
        rest = rest[bits(layer.outputs):]
    return Challenges(*lookup, tau, sigmas, lam, mu)


def read_parts(key: VerificationKey, reader: Reader, transcript: Transcript) -> list[Element]:
    """The beginning of step 6: each hidden layer's part of what the rows' rounds lead to."""
    raw, parts = reader.elements(len(key.hidden), "layers' parts")
    transcript.absorb("layers", raw)
    return parts


def check_features(key: VerificationKey, reader: Reader, transcript: Transcript, drawn: Challenges,
                   parts: list[Element], weight: Element, mu: Element) -> list[Feature]:
    """The rest of step 6; ``weight`` and ``mu`` are what the two sums over rows are multiplied with at rho."""
    alpha, beta = drawn.alpha, drawn.beta
    features = []
    for number, (layer, part) in enumerate(zip(key.hidden, parts, strict=True), 1):
        phi, claim = rounds(reader, transcript, part, bits(layer.outputs), 4, "features", "feature")
        raw, (q, a, h, r) = reader.elements(4, "claims")
        transcript.absorb("claims", raw)
        table = eq_table(phi)
        one = ones(table, layer.outputs)
        left = alpha * one - q - beta * a
        right = (alpha - beta * beta * layer.shift) * one - r
        sigma = drawn.sigmas[number - 1]
        demand(weight * eq(sigma, phi) * (h * left * right - left - right) + mu * h == claim,
               f"activation of layer {number}: the claims are not what the rounds lead to")
        z = r + q * 2**layer.shift - one * 2 ** (layer.shift - 1)
        features.append(Feature(phi, table, z, q, a, h))
        weight = weight * drawn.lam
    return features


def check_products(key: VerificationKey, reader: Reader, transcript: Transcript, features: list[Feature],
                   inputs: Callable[[np.ndarray], Element] | None) -> list[Product]:
    """Step 8. ``inputs`` evaluates the batch's at (rho, kappa_1), given kappa_1's table; None: the proof claims it."""
    products = []
    for number in range(len(key.layers), 0, -1):
        layer = key.layers[number - 1]
        z = features[number - 1].z
        kappa, claim = rounds(reader, transcript, z, bits(layer.length), 2, "product", "inner")
        table = eq_table(kappa)
        claimed = number > 1 or inputs is None
        raw, claims = reader.elements(2 if claimed else 1, "product claims")
        transcript.absorb("product claims", raw)
        given = claims[0] if claimed else inputs(table)
        limbs = total(element(table[:, layer.inputs + i]) * c for i, c in enumerate(BIAS_CONSTANTS))
        demand((given + limbs) * claims[-1] == claim,
               f"product of layer {number}: the claims are not what the rounds lead to")
        products.insert(0, Product(kappa, table, given, claims[-1]))
    return products


def combined(key: VerificationKey, features: list[Feature], products: list[Product], delta: Element,
             inputs: bool) -> tuple[Element, np.ndarray]:
    """What step 9 opens columns and helpers for: the claim, theta [5, c]; with the inputs' columns before them or not."""
    claims = [products[0].given] if inputs else []
    columns = [products[0].table[:, :key.width]] if inputs else []
    helpers = []
    for number, layer in enumerate(key.hidden, 1):
        feature, below = features[number - 1], products[number]
        first, second, third, fourth = (power(delta, len(claims) + i) for i in range(4))
        here = feature.table[:, :layer.outputs]
        columns.append(scale(here, first))
        columns.append(add(scale(here, second), scale(below.table[:, :layer.outputs], fourth)))
        helpers.append(coordinates(scale(here, third)))
        claims += [feature.q, feature.a, feature.h, below.given]
    claim = total(power(delta, i) * value for i, value in enumerate(claims))
    return claim, np.concatenate(columns + helpers, axis=1)


def open_weights(key: VerificationKey, reader: Reader, transcript: Transcript, features: list[Feature],
                 products: list[Product]) -> None:
    """Step 10."""
    for number, (layer, feature, product) in enumerate(zip(key.layers, features, products, strict=True), 1):
        tree = Tree(key.roots[number - 1], layer.outputs)
        check_opening(reader, transcript, [tree], product.table, product.weight, feature.table[:, :layer.outputs],
                      f"weights of layer {number}")


def coordinates(theta: np.ndarray) -> np.ndarray:
    """[5, 5 M]: X^d theta_j for coordinate d of j, of theta [5, M]: an element is five columns."""
    result = [theta]
    for _ in range(4):
        result.append(by_x(result[-1]))
    return np.stack(result, axis=-1).reshape(5, -1)
