"""The proof that hidden weights are int8 (``PROTOCOL.md``, "Hidden weights"), of which it shows nothing else."""

from __future__ import annotations

from math import prod

from ..format import PADS, WEIGHT_HIGH, WEIGHT_LOW, VerificationKey, bits, table_shape
from .element import ONE, ZERO
from .equations import Equations, HiddenOpening, Layout, first_rows, weight_trees, weights_opening_bytes
from .extension import scale
from .layers import coordinates
from .lookups import weights_value
from .masked import commitment
from .merkle import HASH
from .multilinear import eq, eq_table, ones
from .opening import check_masked_opening, masked_opening_bytes
from .reader import ELEMENT, Reader
from .sumcheck import rounds
from .transcript import Transcript

_ENTRIES = WEIGHT_HIGH - WEIGHT_LOW + 1


def hidden_weights_bytes(key: VerificationKey) -> int:
    """Length of a weights proof that hides them."""
    cells, table = _variables(key)
    rows, columns = table_shape(_ENTRIES)
    size = 4 * HASH + _layout(key).opening_bytes + weights_opening_bytes(key)
    size += masked_opening_bytes(2 * rows, [columns]) + masked_opening_bytes(key.helper_rows, [5 * key.weight_columns])
    return size + ELEMENT * (2 + 3 * cells + 2 * table + 2)


def check_hidden_weights(key: VerificationKey, proof: bytes) -> None:
    """Hold that every cell behind the key's root is within int8; ``Rejected`` otherwise."""
    reader, transcript, layout = Reader(proof), Transcript(), _layout(key)
    range_mask, table_mask = layout.polynomials
    transcript.absorb("kind", b"weights hidden")
    transcript.absorb("key", key.to_bytes())

    # 0. and 1. Commitments.
    multiplicities = commitment(reader, transcript, "multiplicities", table_shape(_ENTRIES)[1] + PADS)
    masks = commitment(reader, transcript, "masks", 5 + PADS)
    pads = commitment(reader, transcript, "weight pads", PADS)
    alpha = transcript.element("lookup")
    helpers = commitment(reader, transcript, "helpers", 5 * key.weight_columns + PADS)

    # 2. All cells, and the table.
    *drawn, mu = transcript.elements("zerocheck", bits(key.cell_rows) + bits(key.weight_columns) + 1)
    raw, (range_sum, table_sum) = reader.elements(2, "sums")
    transcript.absorb("sums", raw)
    cells, table = _variables(key)
    point, range_claim = rounds(reader, transcript, range_sum, cells, 3, "range", "range")
    entry, table_claim = rounds(reader, transcript, table_sum, table, 2, "table", "entry")
    raw, (multiplicity,) = reader.elements(1, "multiplicity")
    transcript.absorb("multiplicity", raw)
    raw, (g,) = reader.elements(1, "claims")
    transcript.absorb("claims", raw)

    # 3. Openings.
    split, above = bits(key.helper_rows), bits(key.helper_rows) - bits(key.cell_rows)
    rows, columns = eq_table(point[:split]), eq_table(point[split:])
    theta, one = columns[:, :key.weight_columns], ones(columns, key.weight_columns)
    check_masked_opening(reader, transcript, [helpers], rows, g, coordinates(theta), "helpers")
    table_rows = bits(2 * table_shape(_ENTRIES)[0])
    check_masked_opening(reader, transcript, [multiplicities], eq_table(entry[:table_rows]), multiplicity,
                         eq_table(entry[table_rows:]), "multiplicities")
    # Both factors are for the rows of cells alone: those whose first bits are 0.
    zero, inside = eq([ZERO] * above + drawn, point), prod((1 - coordinate for coordinate in point[:above]), start=ONE)
    opened = HiddenOpening.read(reader, transcript, weight_trees(key, pads), first_rows(rows, key.weight_rows),
                                scale(theta, (-1) * (zero * g)), "weights")
    equations = Equations()
    equations.add(range_sum - mu * table_sum, range_mask.total(ONE), table_mask.total((-1) * mu))
    reciprocal = (1 - entry[0]) * weights_value(entry[1:], alpha)
    equations.add(table_claim - multiplicity * reciprocal, table_mask.at(entry, ONE))
    known = range_claim - zero * (alpha * g * one - one) - mu * inside * g
    opened.add_to(equations, layout.singles, known, range_mask.at(point, ONE))
    equations.check(reader, transcript, masks, layout)


def _variables(key: VerificationKey) -> tuple[int, int]:
    """Of the cells and the rows of masks below them, and of the multiplicities' matrix with its rows of masks."""
    return bits(key.helper_rows) + bits(key.weight_columns), bits(2 * prod(table_shape(_ENTRIES)))


def _layout(key: VerificationKey) -> Layout:
    cells, table = _variables(key)
    return Layout.of([(cells, 3), (table, 2)], 1)
