"""The proof of a batch's rows with public inputs, as ``PROTOCOL.md`` numbers its steps ("The proof")."""

from __future__ import annotations

import numpy as np

from ..format import VerificationKey, bits
from .element import Element, total
from .field import product
from .layers import (
    Activation,
    check_activations,
    check_products,
    combined,
    draw_zerocheck,
    open_weights,
    product_claims,
    read_parts,
)
from .lookups import rows_sum
from .merkle import HASH
from .multilinear import eq, eq_table, evaluate
from .opening import Tree, check_opening, opening_bytes
from .reader import ELEMENT, Reader, numbers
from .rejection import demand
from .sumcheck import rounds
from .transcript import Transcript
from .wiring import Features


def rows_bytes(key: VerificationKey) -> int:
    """Length of a proof of ``key.rows`` rows."""
    n, units = bits(key.rows), key.units
    elements = sum(2 * bits(layer.length) + product_claims(key, number, False) for number, layer in enumerate(key.layers, 1))
    size = sum(opening_bytes(layer.length, [layer.outputs]) for layer in key.layers)
    if key.hidden:
        elements += 4 * n + sum(1 + 4 * layer.variables + 4 for layer in key.hidden)
        size += 2 * HASH + 4 * key.entries + opening_bytes(key.rows, [2 * units, 5 * units])
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
    activations: list[Activation] = []
    if key.hidden:
        trees, rho, activations = _check_activations(key, reader, transcript)
    else:
        rho = transcript.elements("row", bits(key.rows))
    row_table = eq_table(rho)

    # 7. The outputs.
    last = Features.at(key.layers[-1], transcript.elements("output", key.layers[-1].variables))
    sums = [*((layer.at, layer.z) for layer in activations), (last, evaluate(y, row_table, last.table))]

    # 8. The layers' products, last to first.
    products = check_products(key, reader, transcript, sums, product(row_table, x))

    # 9. The committed columns, every claim about them at once.
    if activations:
        claim, theta = combined(key, activations, products, transcript.element("combine"), masked=False)
        check_opening(reader, transcript, trees, row_table, claim, theta, "columns")

    # 10. The weights.
    open_weights(key, reader, transcript, sums, products)


def _check_activations(key: VerificationKey, reader: Reader,
                       transcript: Transcript) -> tuple[list[Tree], list[Element], list[Activation]]:
    """Steps 1 to 6: the trees, rho, and the hidden layers' claims."""
    n, units = bits(key.rows), key.units
    # 1. to 3. Columns, multiplicities, helpers.
    trees = [Tree(reader.take(HASH), 2 * units)]
    transcript.absorb("columns", trees[0].root)
    raw = reader.take(4 * key.entries)
    transcript.absorb("multiplicities", raw)
    multiplicities = numbers(raw, "multiplicities")
    lookup = transcript.elements("lookup", 2)
    trees.append(Tree(reader.take(HASH), 5 * units))
    transcript.absorb("helpers", trees[1].root)
    found = rows_sum(key, multiplicities, *lookup)

    # 4. and 5. All rows at once.
    drawn = draw_zerocheck(key, transcript, lookup)
    rho, claim = rounds(reader, transcript, drawn.mu * found, n, 4, "rows", "row")

    # 6. Each layer's features.
    parts = read_parts(key, reader, transcript)
    demand(total(parts) == claim, "layers: their parts are not the rows' last claim")
    return trees, rho, check_activations(key, reader, transcript, drawn, parts, eq(drawn.tau, rho), drawn.mu)
