"""Whether vectors compute what numpy does: tried once a process, on few numbers, before they are trusted."""

from __future__ import annotations

import numpy as np

from enclaveml.zk.batch.format import DEGREE, P
from enclaveml.zk.batch.prove import extension, field, multilinear
from enclaveml.zk.batch.prove.extension import multiply_plainly
from enclaveml.zk.batch.prove.helpers_vectors import VectorHelpers
from enclaveml.zk.batch.prove.inference import Trace
from enclaveml.zk.batch.prove.lookup import Denominators
from enclaveml.zk.batch.prove.parallel import pool
from enclaveml.zk.batch.prove.rows_chunks import last_rows, low_and_step, small_sums

#: Rows, features and mask rows of what is tried: features of a whole vector and of a part of one.
_ROWS, _FEATURES, _MASKS = 8, 11, 2


def right(kind: type[VectorHelpers]) -> bool:
    """Whether helpers, the rounds' sums and what is folded are as they should be."""
    numbers = np.random.default_rng(1)

    def drawn(*shape: int) -> np.ndarray:
        return numbers.integers(0, P, shape, np.uint32)

    q = numbers.integers(-300, 300, (_ROWS, _FEATURES)).astype(np.int32)
    trace = Trace(q, q & 63, np.clip(q, 0, 255), q.astype(np.int64))
    trace.quotients[-_MASKS:] = drawn(_MASKS, _FEATURES).astype(np.int32)
    given, weights = Denominators(drawn(DEGREE, _FEATURES), drawn(DEGREE, _FEATURES), drawn(DEGREE)), drawn(DEGREE, _FEATURES)
    left, a = np.broadcast_to(given.bases[:, None], (DEGREE, *q.shape)).copy(), field.to_montgomery(field.from_signed(trace.activations))
    left = field.subtract(left, np.stack([field.multiply(a, np.full_like(a, c)) for c in given.beta]))
    left[0] = field.subtract(left[0], field.to_montgomery(field.from_signed(trace.quotients)))
    b = np.broadcast_to(given.offsets[:, None], (DEGREE, *q.shape)).copy()
    b[0] = field.subtract(b[0], field.to_montgomery(field.from_signed(trace.remainders)))
    with pool() as threads:
        found = kind(trace, given, threads)
        h = field.to_montgomery(np.moveaxis(found.columns().reshape(_ROWS, _FEATURES, DEGREE), 2, 0))
        if not (multiply_plainly(multiply_plainly(left, b), h) == field.add(left, b)).all():
            return False
        summed = found.weighted(weights)
    wide = np.ascontiguousarray(np.broadcast_to(weights[:, None], b.shape))
    weighted = multiply_plainly(b, wide)
    line = np.stack(extension.sum_last(field.add(multiply_plainly(left, wide), weighted)))
    state = [left, weighted, h, line, np.stack(extension.sum_last(h))]
    if summed.helpers_sum(_MASKS) != multilinear.total(tuple(v[: _ROWS - _MASKS] for v in state[4])):
        return False
    masks, challenge = tuple(drawn(DEGREE, _MASKS)), (3, 1, 4, 1, P - 5)
    # Over the last rows what is summed at 0 where they are all that is left.
    wanted = small_sums([v[:, -_MASKS:] for v in state], [v[:, -_MASKS:] for v in state], [last_rows(masks, _MASKS)], False)[0]
    if summed.last(masks) != (wanted[0], wanted[-1]):
        return False
    for number, half in enumerate((_ROWS // 2, _ROWS // 4, 1)):
        eq, of_masks = tuple(drawn(DEGREE, half)), masks if half >= _MASKS else None
        low, step = low_and_step(state)
        wanted = small_sums(low, step, [last_rows(each, half) for each in (eq, of_masks) if each], number == 0)
        if [list(each) for each in wanted] != summed.sums(eq, of_masks, number == 0):
            return False
        summed.fold(challenge)
        c = extension.constant(challenge)
        state = [field.add(x, multiply_plainly(s, np.broadcast_to(c.reshape((-1,) + (1,) * (s.ndim - 1)), s.shape)))
                 for x, s in zip(low, step, strict=True)]
    return bool((np.stack(summed.helpers()) == state[2][:, 0]).all())
