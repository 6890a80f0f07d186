"""The proof of a batch's rows whose weights are hidden ("Hidden weights" in ``PROTOCOL.md``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..format import INPUT_SALT, PADS, VerificationKey, bits, table_shape
from .element import ONE, Element, power, total
from .equations import (
    Equations,
    HiddenOpening,
    Layout,
    RoundMask,
    first_rows,
    weight_trees,
    weights_opening_bytes,
    with_zeros,
)
from .extension import scale
from .known_inputs import KnownInputs
from .layers import Activation, Challenges, Claim, combined, draw_zerocheck, product_claims, read_arrays, read_parts, read_residual
from .lookups import left_base, rows_value
from .masked import check_inputs, check_statement, commitment, open_outputs, real_rows, table_bits
from .merkle import HASH
from .multilinear import eq, eq_table
from .opening import check_masked_opening, masked_opening_bytes
from .reader import ELEMENT, Reader
from .sumcheck import rounds
from .transcript import Transcript
from .wiring import Features


def hidden_bytes(key: VerificationKey) -> int:
    """Length of a proof of ``key.rows`` rows whose weights are hidden."""
    n, v, units = bits(key.rows), table_bits(key), key.units
    rows, columns = table_shape(key.entries)
    elements = 2 + 4 * n + 2 * v + 1  # the sums, the rounds, a multiplicity
    elements += sum(1 + 4 * layer.variables + 3 for layer in key.hidden)
    # The product's sum takes the place of the weights' claim.
    elements += sum(2 * bits(layer.length) + product_claims(key, number, True) for number, layer in enumerate(key.layers, 1))
    elements += 1 + 2 * bits(key.cell_rows)
    size = INPUT_SALT + 7 * HASH + _Masks.of(key).layout.opening_bytes + weights_opening_bytes(key)
    size += masked_opening_bytes(key.rows, [key.width + 2 * units, 5 * units])
    size += masked_opening_bytes(2 * key.masks, [key.outputs]) + masked_opening_bytes(2 * rows, [columns])
    return size + ELEMENT * elements


@dataclass(frozen=True)
class _Masks:
    """Where the masks are: of the rows' rounds, the table's, hidden layers' features, layers' products, the weights' rounds; the pads'
    of the outputs' and the weights' openings are the two single entries."""

    layout: Layout
    rows: RoundMask
    table: RoundMask
    features: tuple[RoundMask, ...]
    products: tuple[RoundMask, ...]
    weights: RoundMask

    @classmethod
    def of(cls, key: VerificationKey) -> _Masks:
        shapes = [(bits(key.rows), 4), (table_bits(key), 2), *((layer.variables, 4) for layer in key.hidden),
                  *((bits(layer.length), 2) for layer in key.layers), (bits(key.cell_rows), 2)]
        layout = Layout.of(shapes, 2)
        rows, table, *others, weights = layout.polynomials
        return cls(layout, rows, table, tuple(others[:len(key.hidden)]), tuple(others[len(key.hidden):]), weights)


@dataclass(frozen=True)
class _Feature:
    """A hidden layer after step 6: ``claims`` have in the place of z what is to be added to r; phi; what the rounds lead to; f = rest +
    slope r there."""

    claims: Activation
    phi: list[Element]
    end: Element
    rest: Element
    slope: Element


@dataclass(frozen=True)
class _Product:
    """A layer after step 8: its point; the sum with its mask, and what the layer adds beside it; kappa; what the rounds lead to, which is
    ``factor`` times the weights there and the mask; what it claims of committed arrays."""

    at: Features
    total: Element
    added: Element
    kappa: list[Element]
    end: Element
    factor: Element
    claims: list[Claim]


def check_hidden(key: VerificationKey, nonce: bytes, y: np.ndarray, proof: bytes, known: KnownInputs | None) -> None:
    """Hold the statement for y [N - m, D] int32, and for the known inputs, in their ranges; ``Rejected`` otherwise."""
    reader, transcript, masks = Reader(proof), Transcript(), _Masks.of(key)
    salt = check_statement(b"rows hidden", key, nonce, y, known, reader, transcript)

    # 1. to 4. Commitments and challenges.
    units = key.units
    columns = commitment(reader, transcript, "columns", key.width + 2 * units)
    multiplicities = commitment(reader, transcript, "multiplicities", table_shape(key.entries)[1] + PADS)
    outputs = commitment(reader, transcript, "outputs", key.outputs + PADS)
    added = commitment(reader, transcript, "masks", 5 + PADS)
    pads = commitment(reader, transcript, "weight pads", PADS)
    lookup = transcript.elements("lookup", 2)
    helpers = commitment(reader, transcript, "helpers", 5 * units + PADS)
    drawn = draw_zerocheck(key, transcript, lookup)

    # 5. All rows at once, and the table.
    raw, (rows_sum, table_sum) = reader.elements(2, "sums")
    transcript.absorb("sums", raw)
    rho, rows_claim = rounds(reader, transcript, rows_sum, bits(key.rows), 4, "rows", "row")
    entry, table_claim = rounds(reader, transcript, table_sum, table_bits(key), 2, "table", "entry")
    raw, (multiplicity,) = reader.elements(1, "multiplicity")
    transcript.absorb("multiplicity", raw)

    # 6. to 8. Each layer's features and product, and the weights of all.
    parts = read_parts(key, reader, transcript)
    weight, real = real_rows(key, drawn.tau, rho)
    features = _read_features(key, reader, transcript, drawn, parts, weight, drawn.mu * real)
    points = [*(feature.claims.at for feature in features),
              Features.at(key.layers[-1], transcript.elements("output", key.layers[-1].variables))]
    products = {number: _read_product(key, number, points[number - 1], reader, transcript) for number in range(len(key.layers), 0, -1)}
    eta = transcript.element("weights")
    raw, (weights_sum,) = reader.elements(1, "weights' sum")
    transcript.absorb("weights sum", raw)
    omicron, weights_end = rounds(reader, transcript, weights_sum, bits(key.cell_rows), 2, "weights", "weight")

    row_table = eq_table(rho)
    if known is not None:
        check_inputs(key, nonce, salt, known, row_table, [claim for done in products.values() for claim in done.claims])

    # 9. Everything that is committed.
    delta = transcript.element("combine")
    claim, theta = combined(key, [feature.claims for feature in features], products, delta, masked=True)
    check_masked_opening(reader, transcript, [columns, helpers], row_table, claim, theta, "columns")
    last, equations = products[len(key.layers)], Equations()
    weights, shown = open_outputs(key, rho, row_table, y, last.at)
    opened_outputs = HiddenOpening.read(reader, transcript, [outputs], weights, last.at.table, "outputs")
    table_rows = bits(2 * table_shape(key.entries)[0])
    check_masked_opening(reader, transcript, [multiplicities], eq_table(entry[:table_rows]), multiplicity,
                         eq_table(entry[table_rows:]), "multiplicities")
    theta = np.concatenate([
        scale(done.at.outputs, power(eta, number - 1) * done.factor * eq(with_zeros(done.kappa, len(omicron)), omicron))
        for number, done in sorted(products.items())], axis=1)
    opened_weights = HiddenOpening.read(reader, transcript, weight_trees(key, pads), first_rows(eq_table(omicron), key.weight_rows),
                                        theta, "weights")

    # (1) and (2), as in masked proofs: the table is zero on the rows of masks, those whose first bit is 1.
    equations.add(rows_sum - drawn.mu * table_sum, masks.rows.total(ONE), masks.table.total((-1) * drawn.mu))
    reciprocal = (1 - entry[0]) * rows_value(key, entry[1:], *lookup)
    equations.add(table_claim - multiplicity * reciprocal, masks.table.at(entry, ONE))
    # (3) The rows' claim is the layers' parts.
    equations.add(rows_claim - total(parts), masks.rows.at(rho, ONE), *(mask.total(Element.of(-1)) for mask in masks.features))
    # (4) Each hidden layer's activations, of the r that its product leads to.
    for feature, mask, product_mask, (_, done) in zip(features, masks.features, masks.products[:-1], sorted(products.items())[:-1], strict=True):
        r = done.total + done.added - feature.claims.z  # but for the product's mask
        equations.add(feature.end - feature.rest - feature.slope * r, mask.at(feature.phi, ONE), product_mask.total((-1) * feature.slope))
    # (5) The weights' claims.
    powers = {number: power(eta, number - 1) for number in products}
    equations.add(weights_sum - total(powers[number] * done.end for number, done in products.items()), masks.weights.total(ONE),
                  *(masks.products[number - 1].at(done.kappa, (-1) * powers[number]) for number, done in products.items()))
    # (6) and (7) The hidden openings.
    opened_outputs.add_to(equations, masks.layout.singles, last.total + last.added - shown, masks.products[-1].total(ONE))
    opened_weights.add_to(equations, masks.layout.singles + 1, weights_end, masks.weights.at(omicron, ONE))
    equations.check(reader, transcript, added, masks.layout)


def _read_features(key: VerificationKey, reader: Reader, transcript: Transcript, drawn: Challenges, parts: list[Element],
                   weight: Element, mu: Element) -> list[_Feature]:
    """The rest of step 6; ``weight`` and ``mu`` are what the two sums over rows are multiplied with at rho."""
    alpha, beta = drawn.alpha, drawn.beta
    found = []
    for layer, sigma, part in zip(key.hidden, drawn.sigmas, parts, strict=True):
        phi, end = rounds(reader, transcript, part, layer.variables, 4, "features", "feature")
        raw, (q, a, h) = reader.elements(3, "claims")
        transcript.absorb("claims", raw)
        at = Features.at(layer, phi)
        left = left_base(layer.table, alpha, beta) * at.one - q - beta * a
        right = (alpha - beta * beta * layer.shift) * at.one  # less r
        factor = weight * eq(sigma, phi)
        rest = factor * (h * left * right - left - right) + mu * h
        beside = q * 2**layer.shift - at.one * 2 ** (layer.shift - 1)
        found.append(_Feature(Activation(at, q, a, h, beside), phi, end, rest, factor * (1 - h * left)))
        weight = weight * drawn.lam
    return found


def _read_product(key: VerificationKey, number: int, at: Features, reader: Reader, transcript: Transcript) -> _Product:
    """Step 8 for one layer."""
    added, residuals = read_residual(key, number, at, None, reader, transcript)
    raw, (said,) = reader.elements(1, "product sum")
    transcript.absorb("product sum", raw)
    kappa, end = rounds(reader, transcript, said, bits(key.layers[number - 1].length), 2, "product", "inner")
    raw, values = reader.elements(product_claims(key, number, True) - len(residuals) - 1, "product claims")
    transcript.absorb("product claims", raw)
    factor, claims = read_arrays(key, number, at, eq_table(kappa), values, None)
    return _Product(at, said, added, kappa, end, factor, claims + residuals)
