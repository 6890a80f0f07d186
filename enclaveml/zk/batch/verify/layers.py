"""Steps 4, 6, 8, 9 and 10 of the rows' proof (``PROTOCOL.md``, "The proof"), as they are with mask rows and without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..format import BIAS_CONSTANTS, VerificationKey, bits
from .element import ONE, ZERO, Element, total
from .extension import add, by_x, element, inner, scale
from .lookups import left_base
from .multilinear import eq, eq_table
from .opening import Tree, check_opening
from .reader import Reader
from .rejection import demand
from .sumcheck import rounds
from .transcript import Transcript
from .wiring import Features, reads


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
class Activation:
    """A hidden layer after step 6: phi, the claims at (rho, phi), and z, which follows."""

    at: Features
    q: Element
    a: Element
    h: Element
    z: Element


@dataclass(frozen=True)
class Claim:
    """That the sum over ``places``, arrays m and thetas [5, features], of theta a_m(rho) is ``value``."""

    value: Element
    places: list[tuple[int, np.ndarray]]


@dataclass(frozen=True)
class Product:
    """A layer after step 8: kappa's table, the claim about its weights, and what it claims of committed arrays."""

    table: np.ndarray
    weight: Element
    claims: list[Claim]


def product_claims(key: VerificationKey, number: int, masked: bool) -> int:
    """How many elements step 8 of a layer sends beside its rounds: what it reads of the inputs, where these are committed, and of
    hidden layers, its weights, and what it adds."""
    layer, sources = key.layers[number - 1], {wiring.source > 0 for wiring in key.wirings(number)}
    added = layer.residual is not None and (masked or layer.residual[0] > 0)
    return 1 + (True in sources) + (masked and False in sources) + added


def draw_zerocheck(key: VerificationKey, transcript: Transcript, lookup: list[Element]) -> Challenges:
    """Step 4, after ``lookup``, alpha and beta."""
    n = bits(key.rows)
    drawn = transcript.elements("zerocheck", n + sum(layer.variables for layer in key.hidden) + 2)
    tau, rest, (lam, mu) = drawn[:n], drawn[n:-2], drawn[-2:]
    sigmas = []
    for layer in key.hidden:
        sigmas.append(rest[:layer.variables])
        rest = rest[layer.variables:]
    return Challenges(*lookup, tau, sigmas, lam, mu)


def read_parts(key: VerificationKey, reader: Reader, transcript: Transcript) -> list[Element]:
    """The beginning of step 6: each hidden layer's part of what the rows' rounds lead to."""
    raw, parts = reader.elements(len(key.hidden), "layers' parts")
    transcript.absorb("layers", raw)
    return parts


def check_activations(key: VerificationKey, reader: Reader, transcript: Transcript, drawn: Challenges,
                      parts: list[Element], weight: Element, mu: Element) -> list[Activation]:
    """The rest of step 6; ``weight`` and ``mu`` are what the two sums over rows are multiplied with at rho."""
    alpha, beta = drawn.alpha, drawn.beta
    activations = []
    for number, (layer, part) in enumerate(zip(key.hidden, parts, strict=True), 1):
        phi, claim = rounds(reader, transcript, part, layer.variables, 4, "features", "feature")
        raw, (q, a, h, r) = reader.elements(4, "claims")
        transcript.absorb("claims", raw)
        at = Features.at(layer, phi)
        one = at.one
        left = left_base(layer.table, alpha, beta) * one - q - beta * a
        right = (alpha - beta * beta * layer.shift) * one - r
        sigma = drawn.sigmas[number - 1]
        demand(weight * eq(sigma, phi) * (h * left * right - left - right) + mu * h == claim,
               f"activation of layer {number}: the claims are not what the rounds lead to")
        z = r + q * 2**layer.shift - one * 2 ** (layer.shift - 1)
        activations.append(Activation(at, q, a, h, z))
        weight = weight * drawn.lam
    return activations


def check_products(key: VerificationKey, reader: Reader, transcript: Transcript, sums: list[tuple[Features, Element]],
                   given: np.ndarray | None) -> dict[int, Product]:
    """Step 8, last layer to first; sums: each layer's point and z. given: the inputs at rho [5, K]; None: they are committed."""
    return {number: _check_product(key, number, *sums[number - 1], given, reader, transcript)
            for number in range(len(key.layers), 0, -1)}


def _check_product(key: VerificationKey, number: int, at: Features, z: Element, given: np.ndarray | None, reader: Reader,
                   transcript: Transcript) -> Product:
    """Step 8 for one layer: z at its point ``at`` against what it reads."""
    layer, masked = key.layers[number - 1], given is None
    added, residuals = read_residual(key, number, at, given, reader, transcript)
    kappa, claim = rounds(reader, transcript, z - added, bits(layer.length), 2, "product", "inner")
    raw, said = reader.elements(product_claims(key, number, masked) - len(residuals), "product claims")
    transcript.absorb("product claims", raw)
    table = eq_table(kappa)
    *values, weight = said
    value, claims = read_arrays(key, number, at, table, values, given)
    demand(value * weight == claim, f"product of layer {number}: the claims are not what the rounds lead to")
    return Product(table, weight, claims + residuals)


def read_residual(key: VerificationKey, number: int, at: Features, given: np.ndarray | None, reader: Reader,
                  transcript: Transcript) -> tuple[Element, list[Claim]]:
    """What a layer adds to its sums at its point, 2^e included, and the claim of it where the array is committed."""
    layer = key.layers[number - 1]
    if layer.residual is None:
        return ZERO, []
    source, exponent = layer.residual
    if not source and given is not None:
        return inner(given, at.table) * 2**exponent, []
    raw, (added,) = reader.elements(1, "residual")
    transcript.absorb("residual", raw)
    return added * 2**exponent, [Claim(added, [(source, at.table)])]


def read_arrays(key: VerificationKey, number: int, at: Features, table: np.ndarray, values: list[Element],
                given: np.ndarray | None) -> tuple[Element, list[Claim]]:
    """A_l(kappa) of kappa's table: what the layer reads, by P's ``values`` where it is committed, and its bias's constants; the claims."""
    layer = key.layers[number - 1]
    value = at.inside * total(element(table[:, layer.inputs + i]) * c for i, c in enumerate(BIAS_CONSTANTS))
    of_inputs: list[tuple[int, np.ndarray]] = []
    of_layers: list[tuple[int, np.ndarray]] = []
    start = 0
    for wiring in key.wirings(number):
        theta = reads(wiring, at.positions, table[:, start:start + wiring.inputs])
        start += wiring.inputs
        if wiring.source or given is None:
            (of_layers if wiring.source else of_inputs).append((wiring.source, theta))
        else:
            value = value + inner(given, theta)
    claims = [Claim(one, places) for one, places in zip(values, [part for part in (of_inputs, of_layers) if part], strict=True)]
    return total([value, *values]), claims


def combined(key: VerificationKey, activations: list[Activation], products: dict[int, Product], delta: Element,
             masked: bool) -> tuple[Element, np.ndarray]:
    """Step 9: all claims with powers of delta added up, and theta [5, c] of the columns, the inputs' among them where they are
    committed, and of the helpers."""
    claim, power = ZERO, ONE
    quotients, helpers = [], []
    values = [np.zeros((5, key.features(array)), np.int64) for array in range(len(key.layers))]

    def include(number: int) -> None:
        nonlocal claim, power
        for later in products[number].claims:
            claim = claim + power * later.value
            for source, theta in later.places:
                values[source] = add(values[source], scale(theta, power))
            power = power * delta

    include(1)  # of hidden layers the first reads none
    for number, layer in enumerate(activations, 1):
        quotients.append(scale(layer.at.table, power))
        values[number] = add(values[number], scale(layer.at.table, power * delta))
        helpers.append(coordinates(scale(layer.at.table, power * delta * delta)))
        claim = claim + power * (layer.q + delta * (layer.a + delta * layer.h))
        power = power * delta * delta * delta
        include(number + 1)
    columns = [theta for pair in zip(quotients, values[1:], strict=True) for theta in pair]
    return claim, np.concatenate([*values[:masked], *columns, *helpers], axis=1)


def open_weights(key: VerificationKey, reader: Reader, transcript: Transcript, sums: list[tuple[Features, Element]],
                 products: dict[int, Product]) -> None:
    """Step 10."""
    for number, layer in enumerate(key.layers, 1):
        tree, done = Tree(key.roots[number - 1], layer.outputs), products[number]
        check_opening(reader, transcript, [tree], done.table, done.weight, sums[number - 1][0].outputs,
                      f"weights of layer {number}")


def coordinates(theta: np.ndarray) -> np.ndarray:
    """[5, 5 M]: X^d theta_j for coordinate d of j, of theta [5, M]: an element is five columns."""
    result = [theta]
    for _ in range(4):
        result.append(by_x(result[-1]))
    return np.stack(result, axis=-1).reshape(5, -1)
