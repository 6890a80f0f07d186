"""How much memory a proof takes: what decides how many rows go into one. Neither JAX nor numpy here.

Fitted to resident peaks (VmHWM) of a process that does nothing but prove, CPU, JAX 0.10.2: see ``memory_bytes``. That is of a process
without numba's kernels: who foresees can't know whether every rank has them. With them a proof of many activations takes about a third less.
"""

from __future__ import annotations

from enclaveml.zk.batch.format import BLOWUP, DEGREE, PADS, VerificationKey, power_of_two

#: Python, JAX, numba (0.12 GB) and what they compile.
_BASE = 570_000_000

#: Bytes of a hidden activation of a row: q and a with five coordinates of h in codewords (4 * 7 * 4 bytes), and as much again and
#: more for A, B, h and their folded halves, the columns before they are encoded, and what the allocator keeps.
_CELL = 2 * 4 * BLOWUP * (2 + DEGREE) + 106

#: Bytes of an input or output of a row: integers, floats for products, the transcript's copy.
_ENDS = 40

#: Bytes of a weight: the codeword, integers and floats for products.
_WEIGHT = 4 * BLOWUP + 28

#: What a masked proof takes beside: more programs; of an input or pad of a row, the codeword and columns before they are encoded.
_MASKED, _MASKED_CELL = 170_000_000, 4 * BLOWUP + 24


#: Bytes of an entry of the lookups' tables: how often it is used, as it is counted and as it is sent; in a masked proof, whose matrix of them has a power of
#: two of entries, codewords of its columns, what is summed over the table, and its folded halves.
_ENTRY, _MASKED_ENTRY = 24, 490

#: Bytes of a cell that the positions of a layer read at the row point, coordinates of F in 64 bits beside what is left of them modulo p; and of a hidden
#: activation what is still there then: codewords, q and a, and h.
_READ, _KEPT = 100, 170


def lookup_bytes(key: VerificationKey) -> int:
    """What the lookups' tables take of ``memory_bytes``."""
    return _MASKED_ENTRY * power_of_two(key.entries) if key.masks else _ENTRY * key.entries


#: Bytes of a cell of hidden weights' columns: the column and its codeword; of a row of them: the pads with theirs, salts, leaves and nodes.
_HIDDEN_CELL, _HIDDEN_ROW = 4 + 4 * BLOWUP, (4 + 4 * BLOWUP) * PADS + 2 * BLOWUP * (16 + 64)

#: Bytes of a cell of the helpers' columns of hidden weights' proof, and of a cell of the cube that its rounds go over: five vectors of elements
#: of F and a folded half of each.
_HELPER, _ROUNDED = 4 + 4 * BLOWUP, 3 * 5 * 4 * DEGREE // 2


def hidden_weights_bytes(key: VerificationKey) -> int:
    """About the bytes that the weights proof of hidden weights takes at its peak, the process included."""
    cells = key.helper_rows * (1 << (key.weight_columns - 1).bit_length())
    return _BASE + _MASKED + _registered(key) + _HELPER * DEGREE * key.helper_rows * key.weight_columns + _ROUNDED * cells


def _registered(key: VerificationKey) -> int:
    """Of hidden weights' columns, and of what masks an opening of them."""
    return key.weight_rows * (_HIDDEN_CELL * key.weight_columns + _HIDDEN_ROW)


def memory_bytes(key: VerificationKey) -> int:
    """Bytes that proving a batch of the key's rows takes at its peak, in a process of its own, the process included.

    Measured and foreseen stand beside each other in ``benchmarks/reports/batch.md``. Not for the weights proof.
    """
    cells = key.rows * key.units
    weights = _registered(key) if key.weight_rows else _WEIGHT * sum(layer.length * layer.outputs for layer in key.layers)
    masked = _MASKED + _MASKED_CELL * key.rows * (key.width + PADS) if key.masks else 0
    read = max((wiring.positions * wiring.inputs for number in range(1, len(key.layers) + 1) for wiring in key.wirings(number) if not wiring.whole), default=0)
    return _BASE + masked + lookup_bytes(key) + max(_CELL * cells, _KEPT * cells + _READ * read) + _ENDS * key.rows * (key.width + key.outputs) + weights
