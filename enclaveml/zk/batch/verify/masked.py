"""The proof of a batch's rows with committed inputs ("The masked proof" in ``PROTOCOL.md``)."""

from __future__ import annotations

from math import prod

import numpy as np

from ..format import INPUT_SALT, PADS, ROUND_MASKS, SALT, VerificationKey, bits, table_shape
from .element import ONE, ZERO, Element, power, total
from .extension import array, inner, scale
from .known_inputs import InputRows, KnownInputs, input_digest
from .layers import (
    Claim,
    check_activations,
    check_products,
    combined,
    draw_zerocheck,
    open_weights,
    product_claims,
    read_parts,
)
from .lookups import rows_value
from .merkle import HASH
from .multilinear import eq, eq_table, evaluate
from .opening import Tree, check_masked_opening, masked_opening_bytes, opening_bytes
from .reader import ELEMENT, Reader
from .rejection import demand
from .sumcheck import rounds
from .transcript import Transcript
from .wiring import Features

#: An equation about the coefficients of the rounds' masks: what each is multiplied with, and the sum.
_Equation = tuple[list[Element], Element]


def masked_bytes(key: VerificationKey) -> int:
    """Length of a masked proof of ``key.rows`` rows."""
    n, v, units = bits(key.rows), table_bits(key), key.units
    rows, columns = table_shape(key.entries)
    elements = 2 + 4 * n + 2 * v + 1 + 1  # the sums, the rounds, a multiplicity, the outputs
    elements += sum(1 + 4 * layer.variables + 4 for layer in key.hidden)
    elements += sum(2 * bits(layer.length) + product_claims(key, number, True) for number, layer in enumerate(key.layers, 1))
    size = INPUT_SALT + 6 * HASH + sum(opening_bytes(layer.length, [layer.outputs]) for layer in key.layers)
    size += masked_opening_bytes(key.rows, [key.width + 2 * units, 5 * units])
    size += masked_opening_bytes(2 * key.masks, [key.outputs])
    size += masked_opening_bytes(2 * rows, [columns]) + masked_opening_bytes(ROUND_MASKS, [5])
    return size + ELEMENT * elements


def check_masked(key: VerificationKey, nonce: bytes, y: np.ndarray, proof: bytes, known: KnownInputs | None) -> None:
    """Hold the statement for y [N - m, D] int32, and for the known inputs, in their ranges; ``Rejected`` otherwise."""
    reader, transcript = Reader(proof), Transcript()
    salt = check_statement(b"rows masked", key, nonce, y, known, reader, transcript)

    # 1. to 4. Commitments and challenges.
    units = key.units
    table_columns = table_shape(key.entries)[1]
    columns = commitment(reader, transcript, "columns", key.width + 2 * units)
    multiplicities = commitment(reader, transcript, "multiplicities", table_columns + PADS)
    outputs = commitment(reader, transcript, "outputs", key.outputs + PADS)
    masks = commitment(reader, transcript, "masks", 5 + PADS)
    lookup = transcript.elements("lookup", 2)
    helpers = commitment(reader, transcript, "helpers", 5 * units + PADS)
    drawn = draw_zerocheck(key, transcript, lookup)

    # 5. All rows at once, and the table.
    n, v = bits(key.rows), table_bits(key)
    raw, (rows_sum, table_sum) = reader.elements(2, "sums")
    transcript.absorb("sums", raw)
    rho, rows_claim = rounds(reader, transcript, rows_sum, n, 4, "rows", "row")
    entry, table_claim = rounds(reader, transcript, table_sum, v, 2, "table", "entry")
    raw, (multiplicity,) = reader.elements(1, "multiplicity")
    transcript.absorb("multiplicity", raw)

    # 6. Each layer's features.
    parts = read_parts(key, reader, transcript)
    weight, real = real_rows(key, drawn.tau, rho)
    activations = check_activations(key, reader, transcript, drawn, parts, weight, drawn.mu * real)

    # 7. The outputs of all rows.
    last = Features.at(key.layers[-1], transcript.elements("output", key.layers[-1].variables))
    raw, (output,) = reader.elements(1, "output")
    transcript.absorb("output", raw)
    sums = [*((layer.at, layer.z) for layer in activations), (last, output)]

    # 8. The layers' products, last to first.
    products = check_products(key, reader, transcript, sums, None)
    row_table = eq_table(rho)
    if known is not None:
        check_inputs(key, nonce, salt, known, row_table, [claim for done in products.values() for claim in done.claims])

    # 9. Everything that is committed.
    delta = transcript.element("combine")
    claim, theta = combined(key, activations, products, delta, masked=True)
    check_masked_opening(reader, transcript, [columns, helpers], row_table, claim, theta, "columns")
    weights, shown = open_outputs(key, rho, row_table, y, last)
    check_masked_opening(reader, transcript, [outputs], weights, output - shown, last.table, "outputs")
    table_rows = bits(2 * table_shape(key.entries)[0])
    check_masked_opening(reader, transcript, [multiplicities], eq_table(entry[:table_rows]), multiplicity,
                         eq_table(entry[table_rows:]), "multiplicities")
    # The table is zero on the rows of masks: those whose first bit is 1.
    reciprocal = (1 - entry[0]) * rows_value(key, entry[1:], *lookup)
    equations = [_sums(n, v, drawn.mu, rows_sum - drawn.mu * table_sum),
                 ([*[ZERO] * (4 * n + 1), *_terms(entry, 2)], table_claim - multiplicity * reciprocal),
                 (_terms(rho, 4), rows_claim - total(parts))]
    _open_round_masks(reader, transcript, masks, equations, delta)

    # 10. The weights.
    open_weights(key, reader, transcript, sums, products)


def check_statement(kind: bytes, key: VerificationKey, nonce: bytes, y: np.ndarray, known: KnownInputs | None, reader: Reader,
                    transcript: Transcript) -> bytes:
    """Step 0; the input salt."""
    transcript.absorb("kind", kind)
    transcript.absorb("key", key.to_bytes())
    transcript.absorb("nonce", nonce)
    transcript.absorb("outputs", np.ascontiguousarray(y, "<i4"))
    salt = reader.take(INPUT_SALT)
    transcript.absorb("input salt", salt)
    digest = reader.take(HASH)
    transcript.absorb("inputs", digest)
    if known is not None:
        demand(input_digest(salt, known) == digest, "inputs: the proof is not of these, or not under this input key")
    return salt


def check_inputs(key: VerificationKey, nonce: bytes, salt: bytes, known: KnownInputs, row_table: np.ndarray, claims: list[Claim]) -> None:
    """Hold that what is claimed of committed inputs is these."""
    given = InputRows(key, nonce, salt, known).at(row_table)
    for claim in claims:
        of_inputs = [theta for source, theta in claim.places if not source]
        demand(not of_inputs or total(inner(given, theta) for theta in of_inputs) == claim.value,
               "inputs: they are not what the proof commits to")


def commitment(reader: Reader, transcript: Transcript, label: str, columns: int) -> Tree:
    tree = Tree(reader.take(HASH), columns, SALT)
    transcript.absorb(label, tree.root)
    return tree


def table_bits(key: VerificationKey) -> int:
    """v: variables of the matrix of multiplicities, its rows of masks included."""
    return bits(2 * prod(table_shape(key.entries)))


def real_rows(key: VerificationKey, tau: list[Element], rho: list[Element]) -> tuple[Element, Element]:
    """E(tau, rho) and I(rho): the extensions of eq(tau, i) on real rows, and of 1 there; 0 on mask rows."""
    high = bits(key.rows) - bits(key.masks)
    top_tau, top_rho = _product(tau[:high]), _product(rho[:high])
    return eq(tau[high:], rho[high:]) * (eq(tau[:high], rho[:high]) - top_tau * top_rho), 1 - top_rho


def _product(factors: list[Element]) -> Element:
    return prod(factors, start=ONE)


def open_outputs(key: VerificationKey, rho: list[Element], row_table: np.ndarray, y: np.ndarray,
                 last: Features) -> tuple[np.ndarray, Element]:
    """w of the opening of the outputs' mask rows, and what the real rows' are at (rho, phi): what is opened is the rest of all rows'."""
    high = bits(key.rows) - bits(key.masks)
    weights = np.zeros((5, 2 * key.masks), np.int64)
    weights[:, :key.masks] = scale(eq_table(rho[high:]), _product(rho[:high]))
    return weights, evaluate(y, row_table[:, :key.real_rows], last.table)


def _sums(n: int, v: int, mu: Element, value: Element) -> _Equation:
    """(1): the sum over the cube of the rows' masks, less mu times that of the table's: S is in neither."""
    rows = [Element.of(2**n)] + [Element.of(2 ** (n - 1))] * (4 * n)
    table = [Element.of(2**v)] + [Element.of(2 ** (v - 1))] * (2 * v)
    return rows + [(-1) * mu * weight for weight in table], value


def _terms(point: list[Element], degree: int) -> list[Element]:
    """What c_0 and the c_{k, i} are multiplied with for the value at a point: 1 and point_k^i."""
    return [ONE] + [power(coordinate, i) for coordinate in point for i in range(1, degree + 1)]


def _open_round_masks(reader: Reader, transcript: Transcript, tree: Tree, equations: list[_Equation],
                      delta: Element) -> None:
    """The equations, with powers of delta added up."""
    weights, claim = [ZERO] * ROUND_MASKS, ZERO
    for number, (factors, value) in enumerate(equations):
        factor = power(delta, number)
        for i, one in enumerate(factors):
            weights[i] = weights[i] + factor * one
        claim = claim + factor * value
    check_masked_opening(reader, transcript, [tree], array(weights), claim, np.eye(5, dtype=np.int64), "round masks")
