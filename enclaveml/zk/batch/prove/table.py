"""The multiplicities of a masked proof: a committed matrix, and their sum-check (PROTOCOL.md, "The masked proof", 1 and 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import VerificationKey, bits
from enclaveml.zk.batch.prove import extension, field, kernels, multilinear
from enclaveml.zk.batch.prove.extension import ONE, Element, Extended, minus, times
from enclaveml.zk.batch.prove.inference import activated
from enclaveml.zk.batch.prove.layers import send_round, sum_check
from enclaveml.zk.batch.prove.linear import combination
from enclaveml.zk.batch.prove.lookup import Challenges, tag
from enclaveml.zk.batch.prove.round_masks import RoundMask
from enclaveml.zk.batch.prove.transcript import Transcript


#: Entries that are worked on at once: above, programs are quicker than numpy; without vectors, and with.
_CHUNK, _CHUNK_VECTORS = 1 << 11, 1 << 14


@dataclass(frozen=True)
class TableClaim:
    """Where the table's sum-check ended: the point over rows and that over columns."""

    rows: list[Element]
    columns: list[Element]


def matrix(counts: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """uint32 [2 n_r, c_T]: how often entries are looked up, row by row, zeros, then the uniform rows ``masks``, [n_r, c_T]."""
    real = np.zeros(masks.size, np.uint32)
    real[: len(counts)] = counts
    return np.concatenate([real.reshape(masks.shape), masks])


def prove_table(transcript: Transcript, inverses: Extended, counted: np.ndarray, total: Element, added: RoundMask) -> TableClaim:
    """That the multiplicities ``counted``, uint32 [2 n_r, c_T], times ``inverses`` of the entries' denominators, five uint32 [n_r c_T], sum to
    ``total``; sends their value at the end."""
    labels = ("table", "entry")
    real, masks = counted.reshape(2, counted.size // 2)
    # The entries' inverses are 0 in the upper half: the first round takes one sum.
    of_masks = extension.element(combination(masks.astype(np.int32)[:, None], inverses))
    r = send_round(transcript, labels, [total, minus(total, times(extension.lift(2), of_masks))], added)
    step = field.to_montgomery(field.subtract(masks, real))
    bound = [field.multiply(step, c) for c in extension.constant(r)]
    bound[0] = field.add(bound[0], field.to_montgomery(real))
    rest = tuple(map(np.asarray, kernels.multiply(inverses, extension.broadcast(extension.constant(minus(ONE, r)), 1))))
    folded = sum_check(transcript, labels, [tuple(bound), rest], total, 2, lambda ops, m, g: ops.multiply(m, g), added=added,
                       chunk=_CHUNK_VECTORS if extension.vectors() else _CHUNK)
    transcript.message("multiplicity", extension.to_bytes(folded.values[0]))
    point, split = [r, *folded.point], bits(len(counted))
    return TableClaim(point[:split], point[split:])


def inverses_of(key: VerificationKey, challenges: Challenges, length: int) -> Extended:
    """1 / (alpha - fingerprint) of every entry, then zeros: five uint32 [length]."""
    quotients = np.arange(-(1 << key.range_bits), 1 << key.range_bits, dtype=np.int32)
    values = np.zeros((3, length), np.int32)  # what 1, beta and beta^2 are multiplied with
    end = 0
    for number in range(len(key.tables) + 1):
        start, end = end, end + len(quotients)
        values[:, start:end] = quotients, activated(key, number, quotients), np.full_like(quotients, tag(number))
    for shift in key.shifts:
        start, end = end, end + (1 << shift)
        values[0, start:end] = np.arange(1 << shift)
        values[2, start:end] = shift
    alpha, beta = challenges.alpha, challenges.beta
    constants = np.stack([extension.constant(c) for c in (alpha, beta, times(beta, beta))])
    others, inverse = kernels.inverted(kernels.table_denominators(values.reshape(3, kernels.TOGETHER, -1), constants))
    found = kernels.scale(others, inverse)
    return tuple(multilinear.pad((np.asarray(v).reshape(-1)[:end],), length)[0] for v in found)
