"""Combinations of small integers with coefficients from F, exact: products of matrices in float64."""

from __future__ import annotations

import numpy as np

from enclaveml.zk.batch.format import DEGREE, P
from enclaveml.zk.batch.prove import extension, field
from enclaveml.zk.batch.prove.extension import Extended

#: Rows that are summed at once: 2^14 products of a value below 2^21 and a limb below 2^16 stay below 2^53.
_ROWS = 1 << 14
_VALUE_BITS = 21
_LIMB_BITS = 16


def combination(values: np.ndarray, coefficients: Extended) -> Extended:
    """sum_i c_i values[i, :] for int32 [n, m] and five uint32 [n] in Montgomery form: five uint32 [m], likewise."""
    if max(-int(values.min()), int(values.max())) >> _VALUE_BITS:
        low = values & ((1 << _LIMB_BITS) - 1)
        upper = combination(values >> _LIMB_BITS, coefficients)
        return extension.add(combination(low, coefficients),
                             extension.scale(upper, np.full_like(upper[0], field.montgomery_int(1 << _LIMB_BITS))))
    plain = extension.plain(coefficients)
    limbs = np.concatenate([plain & 0xFFFF, plain >> _LIMB_BITS], axis=1).astype(np.float64).T
    sums = np.zeros((2 * DEGREE, values.shape[1]), np.int64)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        sums = (sums + (limbs[:, rows] @ values[rows].astype(np.float64)).astype(np.int64)) % P
    whole = (sums[:DEGREE] + (sums[DEGREE:] << _LIMB_BITS)) % P
    return tuple(field.to_montgomery(whole.astype(np.uint32)))


def combination_of_rows(values: np.ndarray, coefficients: Extended, masks: int) -> Extended:
    """``combination`` where the last ``masks`` rows are any elements of F_p, and small integers the others."""
    if not masks:
        return combination(values, coefficients)
    real, hidden = slice(None, -masks), slice(-masks, None)
    return extension.add(*(combination(values[part], tuple(v[part] for v in coefficients)) for part in (real, hidden)))
