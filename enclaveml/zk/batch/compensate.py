"""Weights rounded one input after the other, each input's error made good by those that are still to come.

Frantar et al., "GPTQ", ICLR 2023, arXiv:2210.17323. Letters: K inputs and M outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaveml.zk.batch.format import WEIGHT_HIGH, WEIGHT_LOW, Wiring
from enclaveml.zk.batch.patches import portions, read

#: Most inputs of a layer whose errors are made good: it takes matrices of the square of that.
COMPENSATED = 4096

#: Most rows and positions that are looked at for that.
COMPENSATED_ROWS = 1 << 14

#: Part of the inputs' mean square that is added to each when errors are made good: few sample rows say little of many inputs.
DAMPING = 0.01


def mean_products(wirings: Sequence[Wiring], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Mean products of a layer's inputs (K, K) over rows and positions, every so many-th: COMPENSATED_ROWS at most, few laid out at once."""
    inputs, positions = sum(wiring.inputs for wiring in wirings), wirings[0].positions
    step = -(-len(arrays[0]) * positions // COMPENSATED_ROWS)
    found, count = np.zeros((inputs, inputs)), 0
    for some in portions(wirings, len(arrays[0])):
        given = read(wirings, [array[some] for array in arrays]).reshape(-1, inputs)
        given = given[-some.start * positions % step :: step].astype(np.float64)
        found += given.T @ given
        count += len(given)
    return found / count


def compensated_weights(weights: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Weights (K, M) as whole numbers, int8, with which sums over inputs of these mean products (K, K) change least: GPTQ, input by input.

    ``gram`` is damped in place.
    """
    gram[np.diag_indices_from(gram)] += DAMPING * max(float(np.trace(gram)) / len(gram), 1e-9)
    factor = np.linalg.cholesky(np.linalg.inv(gram)).T
    left, found = weights.copy(), np.empty_like(weights)
    for k in range(len(weights)):
        found[k] = np.clip(np.rint(left[k]), WEIGHT_LOW, WEIGHT_HIGH)
        left[k + 1 :] -= np.outer(factor[k, k + 1 :], (left[k] - found[k]) / factor[k, k])
    return found
