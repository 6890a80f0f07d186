"""Float outputs of rows: a jitted function at one static batch shape.

On the CPU a row's output has the same bits wherever the row falls in the dataset or the batch,
whatever the number of ranks and of cores. A batched XLA:CPU program does not give that: measured with
JAX 0.10.2, a small CNN at a batch of 2 gave other last bits for half of the rows after a permutation
(loops over the whole batch round their vectorised part and their remainder differently), and a
product's bits depend on the batch. So there the batch is a loop in the compiled program over one row
at a time; it costs less than a millisecond for 200 rows of the digits' MLP. With the one thread that
``devices.bind_device`` sets, nothing is left that depends on position or cores. CPUs with other
vector units, and GPUs, may differ in the last bits: that is what a proof's tolerance is for.

Blocks of rows instead of single ones were tried as well (the same JAX, one AVX2 core, three models, all
shifts of 64 rows). In blocks of 2, 8 and 32 rows a CNN's rows have other bits elsewhere in the block. A
batch of 64 keeps them for that CNN, at 1.12 times the rate of single rows, but not for a smaller one (21 of
4,032). Blocks of 4 and of 16 kept them for all three, at 1.02 to 1.03 times the CNN's rate; but nothing in
XLA promises that, and it gains too little to rest a promise on it.

On a GPU the batch follows the memory: the function is compiled for a first batch, XLA's own account of
that program gives the bytes that a row takes, and ``batch_that_fits`` the rows that fit. If memory runs
out all the same (others may use the device too), the batch is halved and the rows are done again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from enclaveml.errors import EnvironmentFault

log = logging.getLogger(__name__)

_BATCH_BYTES = 32 * 2**20  # of input rows on the device at a time; activations are some multiple
_MAX_BATCH = 256

#: Most rows of a batch whose size follows the device's memory: beyond, a GPU gains nothing from more
#: (benchmarks/reports/gpu.md).
MOST_ROWS = 512

#: The part of the device's memory that one batch may take, by XLA's account of the program. The rest is
#: for ranks that share the device, cuDNN's workspaces while it chooses algorithms, the next batch's rows
#: and fragmentation. It gives a ResNet-50 the batches that are usual for it: 256 on 48 GB, 64 on 16 GB and
#: 12 GB, 32 on 6 GB.
MEMORY_SHARE = 0.1


class RowFunction(Protocol):
    """What inference needs of a Model or a ModelFunction."""

    row_shape: tuple[int, ...]
    dtype: np.dtype

    def apply(self, rows: Any) -> Any:
        """Rows (B, *row_shape) -> (B, D) float32."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of device memory that a compiled program takes: ``weights`` once, and ``row`` for each row of its
    batch (0 where the backend keeps no account)."""

    weights: int
    row: int


def choose_batch(row_shape: Sequence[int], dtype: Any) -> int:
    """Rows per batch: a power of two from 1 to 256, at most 32 MiB of them.

    Depends on the row alone, so that the number of ranks or rows changes no output.
    """
    fit = _BATCH_BYTES // max(1, math.prod(row_shape) * np.dtype(dtype).itemsize)
    return _power_of_two(min(_MAX_BATCH, fit))


def batch_that_fits(footprint: Footprint, memory: float, most: int = MOST_ROWS) -> int:
    """Rows per batch on a device of ``memory`` bytes: a power of two from 1 to ``most``, all of whose bytes
    are in MEMORY_SHARE of what the weights leave. 1 where not even that fits: the device will say so."""
    room = MEMORY_SHARE * max(0.0, memory - footprint.weights)
    return _power_of_two(min(most, int(room // max(1, footprint.row))))


class Inference:
    """The function compiled once, for ``batch`` rows at a time; the last batch repeats its last row.

    Args:
        batch: rows of a batch. None: by the row's size, and on a GPU of which ``memory`` is known
            by its memory.
        memory: bytes of the device's memory that are this rank's.
        most: most rows of a batch; what more would hold, no caller brings at once.

    Attributes:
        batch: rows of a batch; halved when the device's memory runs out.
        footprint: what the program takes of the device's memory, by XLA's account.

    Raises whatever the function raises when traced.
    """

    def __init__(self, function: RowFunction, batch: int | None = None, memory: float | None = None,
                 most: int = MOST_ROWS) -> None:
        import jax

        self.row_shape, self.dtype = tuple(function.row_shape), np.dtype(function.dtype)
        self._by_row = jax.default_backend() == "cpu"
        self._trace = _tracer(function, self._by_row)
        first = min(choose_batch(self.row_shape, self.dtype), _power_of_two(most)) if batch is None else batch
        self._compile(first)
        if batch is None and memory and self.footprint.row and not self._by_row:
            fits = batch_that_fits(self.footprint, memory, most)
            if fits != self.batch:
                self._compile(fits)

    def _compile(self, batch: int) -> None:
        """Compile for this batch, or for the half of it and so on where even that takes too much memory."""
        import jax

        while True:
            self._weights, run, self.outputs = self._trace(batch)
            rows = jax.ShapeDtypeStruct((batch, *self.row_shape), self.dtype)
            try:
                arguments = (self._weights, rows, jax.ShapeDtypeStruct((), np.int32))
                lowered = jax.jit(run).lower(*arguments[: 3 if self._by_row else 2])
                self._run: Callable[..., Any] = lowered.compile()
                break
            except jax.errors.JaxRuntimeError as error:
                batch = self._half(batch, error)
        self.batch, self.footprint = batch, _footprint(self._run, self._weights, batch)

    def _half(self, batch: int, error: Exception) -> int:
        """The batch to go on with after this error. Raises it, if memory is not what it is about."""
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise error
        if batch == 1:
            raise EnvironmentFault(
                f"the device's memory is too small for one row of the model: {str(error).splitlines()[0].rstrip('.')}. Give "
                f"this rank a device with more memory, or share it with fewer ranks"
            ) from error
        log.warning("the device's memory ran out at %d rows a batch; going on with %d", batch, batch // 2)
        return batch // 2

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, *row_shape) -> outputs (n, D) float32; n may be 0.

        Raises ValueError for rows of another shape or dtype, EnvironmentFault where not one row fits
        the device.
        """
        import jax

        if rows.shape[1:] != self.row_shape or rows.dtype != self.dtype:
            raise ValueError(f"rows of shape {rows.shape[1:]} {rows.dtype}; "
                             f"this model takes {self.row_shape} {self.dtype}")
        outputs = np.empty((len(rows), self.outputs), np.float32)
        done = 0
        while done < len(rows):
            try:
                done = self._run_batches(rows, outputs, done)
            except jax.errors.JaxRuntimeError as error:
                done = self._done
                self._compile(self._half(self.batch, error))
        return outputs

    def _run_batches(self, rows: np.ndarray, outputs: np.ndarray, start: int) -> int:
        """All rows from ``start`` on. ``self._done`` counts those whose outputs are there, whatever is raised."""
        self._done, pending = start, None
        for at in range(start, len(rows), self.batch):
            part = rows[at:at + self.batch]
            missing = self.batch - len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            running = self._start(padded, len(part))
            if pending is not None:
                self._collect(pending, outputs)
            pending = running
        if pending is not None:
            self._collect(pending, outputs)
        return self._done

    def _start(self, padded: Any, count: int) -> Any:
        """Start the program on a whole batch (on a GPU this does not wait), of which ``count`` rows are wanted:
        row by row no others are computed, their outputs are 0."""
        if self._by_row:
            return self._run(self._weights, padded, np.int32(count))
        return self._run(self._weights, padded)

    def _collect(self, pending: Any, outputs: np.ndarray) -> None:
        found = np.asarray(pending)[:len(outputs) - self._done]
        outputs[self._done:self._done + len(found)] = found
        self._done += len(found)


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


def _tracer(function: RowFunction, by_row: bool) -> Callable[[int], tuple[list[Any], Callable[..., Any], int]]:
    """What traces the function for a batch: its weights, the function of them and of rows, and D."""
    import jax
    from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

    def trace(batch: int) -> tuple[list[Any], Callable[..., Any], int]:
        at_once = _rows_at_once(function) if by_row else batch
        traced = jax.make_jaxpr(function.apply)(jax.ShapeDtypeStruct((at_once, *function.row_shape), function.dtype))

        out = traced.out_avals[0]

        # Weights become arguments: as constants they would be copied into the program's text.
        def run(weights, rows):
            return jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, weights))(rows)[0]

        def run_by_row(weights, rows, count):
            def one(i, outputs):
                return outputs.at[i].set(run(weights, jax.numpy.stack([rows[i]] * at_once))[0])

            return jax.lax.fori_loop(0, count, one, jax.numpy.zeros((batch, *out.shape[1:]), out.dtype))

        weights = [jax.numpy.asarray(c) for c in traced.consts]
        return weights, run_by_row if by_row else run, int(out.shape[1])

    return trace


def _footprint(program: Any, weights: Sequence[Any], batch: int) -> Footprint:
    """By XLA's account: arguments, results and what the program needs besides, at its largest moment."""
    held = sum(int(w.nbytes) for w in weights)
    account = program.memory_analysis()
    if account is None:  # a backend that keeps none
        return Footprint(held, 0)
    whole = account.argument_size_in_bytes + account.output_size_in_bytes + account.temp_size_in_bytes
    return Footprint(held, max(1, -(-max(0, int(whole) - held) // batch)))


def _power_of_two(most: int) -> int:
    """The largest power of two that is not above ``most``; 1 at least."""
    return 1 << (max(1, most).bit_length() - 1)


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
