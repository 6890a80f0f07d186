"""The proof that committed weights are int8 (``PROTOCOL.md``, "The weights proof")."""

from __future__ import annotations

import numpy as np

from ..format import WEIGHT_HIGH, WEIGHT_LOW, VerificationKey, bits
from .element import total
from .extension import scale
from .layers import coordinates
from .lookups import weights_sum
from .merkle import HASH
from .multilinear import eq, eq_table, ones
from .opening import Tree, check_opening, opening_bytes
from .reader import ELEMENT, Reader, numbers
from .rejection import demand
from .sumcheck import rounds
from .transcript import Transcript

_ENTRIES = WEIGHT_HIGH - WEIGHT_LOW + 1


def weights_bytes(key: VerificationKey) -> int:
    """Length of a weights proof."""
    elements = sum(1 + 3 * (bits(layer.length) + bits(layer.outputs)) + 2 for layer in key.layers)
    openings = sum(opening_bytes(layer.length, [layer.outputs, 5 * layer.outputs]) for layer in key.layers)
    return 4 * _ENTRIES + HASH * len(key.layers) + ELEMENT * elements + openings


def check_weights(key: VerificationKey, proof: bytes) -> None:
    """Hold that every cell behind the key's roots is within int8; ``Rejected`` otherwise."""
    reader, transcript = Reader(proof), Transcript()
    transcript.absorb("kind", b"weights")
    transcript.absorb("key", key.to_bytes())
    raw = reader.take(4 * _ENTRIES)
    transcript.absorb("multiplicities", raw)
    multiplicities = numbers(raw, "multiplicities")

    # 1. The helpers, and what each layer's add up to.
    alpha = transcript.element("lookup")
    helpers = []
    for layer in key.layers:
        helpers.append(Tree(reader.take(HASH), 5 * layer.outputs))
        transcript.absorb("helpers", helpers[-1].root)
    raw, sums = reader.elements(len(key.layers), "sums")
    transcript.absorb("sums", raw)
    demand(total(sums) == weights_sum(multiplicities, alpha), "sums: they do not add up to the table's")

    # 2. Each layer.
    mu = transcript.element("mu")
    for number, (layer, helper, part) in enumerate(zip(key.layers, helpers, sums, strict=True), 1):
        k, m = bits(layer.length), bits(layer.outputs)
        drawn = transcript.elements("zerocheck", k + m)
        point, claim = rounds(reader, transcript, mu * part, k + m, 3, "range", "range")
        raw, (w, g) = reader.elements(2, "claims")
        transcript.absorb("claims", raw)
        kappa, table = point[:k], eq_table(point[k:])
        one = ones(table, layer.outputs)
        demand(eq(drawn, point) * (g * (alpha * one - w) - one) + mu * g == claim,
               f"range of layer {number}: the claims are not what the rounds lead to")
        delta = transcript.element("combine")
        theta = table[:, :layer.outputs]
        trees = [Tree(key.roots[number - 1], layer.outputs), helper]
        both = np.concatenate([theta, coordinates(scale(theta, delta))], axis=1)
        check_opening(reader, transcript, trees, eq_table(kappa), w + delta * g, both, f"weights of layer {number}")
