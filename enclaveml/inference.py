"""Float outputs of rows: a jitted function at one static batch shape.

On the CPU a row's output has the same bits wherever the row falls in the dataset or the batch,
whatever the number of ranks and of cores. A batched XLA:CPU program does not give that: measured with
JAX 0.10.2, a small CNN at a batch of 2 gave other last bits for half of the rows after a permutation
(loops over the whole batch round their vectorised part and their remainder differently), and a
product's bits depend on the batch. So there the batch is a loop in the compiled program over one row
at a time; it costs less than a millisecond for 200 rows of the digits' MLP. With the one thread that
``devices.bind_device`` sets, nothing is left that depends on position or cores. CPUs with other
vector units, and GPUs, may differ in the last bits: that is what a proof's tolerance is for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

_BATCH_BYTES = 32 * 2**20  # of input rows on the device at a time; activations are some multiple
_MAX_BATCH = 256


class RowFunction(Protocol):
    """What inference needs of a Model or a ModelFunction."""

    row_shape: tuple[int, ...]
    dtype: np.dtype

    def apply(self, rows: Any) -> Any:
        """Rows (B, *row_shape) -> (B, D) float32."""


def choose_batch(row_shape: Sequence[int], dtype: Any) -> int:
    """Rows per batch: a power of two from 1 to 256, at most 32 MiB of them.

    Depends on the row alone, so that the number of ranks or rows changes no output.
    """
    fit = _BATCH_BYTES // max(1, math.prod(row_shape) * np.dtype(dtype).itemsize)
    return 1 << (max(1, min(_MAX_BATCH, fit)).bit_length() - 1)


class Inference:
    """The function compiled once, for ``batch`` rows at a time; the last batch repeats its last row.

    Raises whatever the function raises when traced.
    """

    def __init__(self, function: RowFunction, batch: int | None = None) -> None:
        import jax
        from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

        self.row_shape, self.dtype = tuple(function.row_shape), np.dtype(function.dtype)
        self.batch = choose_batch(self.row_shape, self.dtype) if batch is None else batch
        by_row = jax.default_backend() == "cpu"
        at_once = _rows_at_once(function) if by_row else self.batch
        shape = jax.ShapeDtypeStruct((at_once, *self.row_shape), self.dtype)
        traced = jax.make_jaxpr(function.apply)(shape)
        self.outputs = int(traced.out_avals[0].shape[1])

        # Weights become arguments: as constants they would be copied into the program's text.
        def run(weights, rows):
            apply = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, weights))
            if not by_row:
                return apply(rows)[0]
            return jax.lax.map(lambda row: apply(jax.numpy.stack([row] * at_once))[0][0], rows)

        rows = jax.ShapeDtypeStruct((self.batch, *self.row_shape), self.dtype)
        self._weights = [jax.numpy.asarray(c) for c in traced.consts]
        self._run = jax.jit(run).lower(self._weights, rows).compile()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, *row_shape) -> outputs (n, D) float32; n may be 0.

        Raises ValueError for rows of another shape or dtype.
        """
        if rows.shape[1:] != self.row_shape or rows.dtype != self.dtype:
            raise ValueError(f"rows of shape {rows.shape[1:]} {rows.dtype}; "
                             f"this model takes {self.row_shape} {self.dtype}")
        outputs = np.empty((len(rows), self.outputs), np.float32)
        for start in range(0, len(rows), self.batch):
            part = rows[start:start + self.batch]
            missing = self.batch - len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            outputs[start:start + len(part)] = np.asarray(self._run(self._weights, padded))[:len(part)]
        return outputs


class InferenceOnDemand:
    """``Inference`` that is compiled when it is first called: for rank 0, which judges inconsistent rows, if any."""

    def __init__(self, function: RowFunction) -> None:
        self._function = function
        self._made: Inference | None = None
        self.batch = choose_batch(function.row_shape, function.dtype)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, *row_shape) -> outputs (n, D) float32, as ``Inference``."""
        if self._made is None:
            self._made = Inference(self._function)
        return self._made(rows)


def _rows_at_once(function: RowFunction) -> int:
    """1, or 2 (the same row twice) for a model that loses its first axis at one row (``x.squeeze()``)."""
    import jax

    def shape(b: int) -> tuple[int, ...]:
        rows = jax.ShapeDtypeStruct((b, *function.row_shape), function.dtype)
        return jax.eval_shape(function.apply, rows).shape

    try:
        return 1 if shape(1) == (1, shape(2)[1]) else 2
    except (TypeError, ValueError, IndexError):
        return 2
