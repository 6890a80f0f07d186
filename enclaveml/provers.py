"""A prover that is made when there is something to prove: most jobs never need their fallback circuit's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from enclaveml.zk.interface import Prover, ProofResult


class LazyProver:
    """A :class:`Prover` whose ``make`` is called by the first bundle."""

    def __init__(self, make: Callable[[], Prover]) -> None:
        self._make = make
        self._made: Prover | None = None

    def submit(self, task: int, rows: np.ndarray, timeout_s: float, nonce: bytes, input_key: bytes = b"") -> None:
        """As of Prover."""
        if self._made is None:
            self._made = self._make()
        self._made.submit(task, rows, timeout_s, nonce, input_key)

    def poll(self) -> list[ProofResult]:
        """As of Prover."""
        return [] if self._made is None else self._made.poll()

    def cancel(self, task: int) -> bool:
        """As of Prover."""
        return self._made is not None and self._made.cancel(task)

    @property
    def outstanding(self) -> int:
        """As of Prover."""
        return 0 if self._made is None else self._made.outstanding

    def close(self) -> None:
        """As of Prover."""
        if self._made is not None:
            self._made.close()
