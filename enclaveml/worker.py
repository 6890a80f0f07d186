"""A worker's side: infer the rows that come, prove the bundles that are ordered, report.

Nothing here waits. ``work`` is called between ticks; it infers for a bounded time, keeps
the prover's children supplied and puts what is finished into the outbox.

Letters: n rows at hand, B rows per bundle, D outputs per row.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from enclaveml.bundle_envelope import sealed
from enclaveml.exchange import STATS, Order, Outbox, Report
from enclaveml.slice_report import pack
from enclaveml.zk.interface import Circuit, Proof, ProofResult, Prover

# Inference between two ticks is cut off after this many seconds, at a batch's end, so
# that a rank with much to infer does not hold up the others' tick.
SLICE_S = 0.5

# Outputs of several batches go in one report up to this many bytes.
REPORT_BYTES = 1 << 24

# One bundle more than there are children is handed to the prover, so that a child that
# finishes finds the next one waiting.
AHEAD = 1


class Worker:
    """One rank's rows in hand.

    Args:
        infer: rows (n, *row_shape) to float32 outputs (n, D); any n, one jitted batch inside.
        prover: makes the proofs in child processes, ``children`` at a time; None where nothing is proved.
        fallback: the fallback circuit and its prover, if there is one; what is proved is then held until
            rank 0 says to forget it, for it may be asked for again.

    Attributes:
        between: called after each batch of inference; what must move on meanwhile does so there.
    """

    def __init__(self, infer: Callable[[np.ndarray], np.ndarray], batch: int, prover: Prover | None, children: int,
                 circuit: Circuit, node_id: str, job_id: str, outbox: Outbox,
                 fallback: tuple[Circuit, Prover] | None = None) -> None:
        self._fallback = fallback
        self._infer, self._batch, self._prover, self._children = infer, batch, prover, children
        self._circuit, self._node_id, self._job_id, self._outbox = circuit, node_id, job_id, outbox
        self._to_infer: deque[tuple[np.ndarray, np.ndarray]] = deque()
        self._to_prove: deque[tuple[Mapping[str, object], np.ndarray]] = deque()
        self._proving: dict[int, tuple[Mapping[str, object], np.ndarray, list[tuple[np.ndarray, np.ndarray]]]] = {}
        self._held: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._counted: dict[int, tuple[float, float]] = {}  # of bundles in hand, seconds of slices that were given
        self._draining = False
        self.between: Callable[[], object] = lambda: None
        self.stopped = False
        self._stats = dict.fromkeys(STATS, 0.0)
        self._last = time.monotonic()

    @property
    def stats(self) -> np.ndarray:
        """Running totals in the order of ``exchange.STATS``, (len(STATS),) float64."""
        return np.array([self._stats[name] for name in STATS])

    @property
    def busy(self) -> bool:
        """Whether there is inference to do right now."""
        return bool(self._to_infer)

    @property
    def news(self) -> bool:
        """Whether there is something to report."""
        return len(self._outbox) > 0

    def take(self, order: Order) -> None:
        """Accept an order of rank 0."""
        if order.kind == "infer":
            self._to_infer.append((order.rows, order.data))
        elif order.kind == "prove":
            self._to_prove.append((order.meta, order.rows))
        elif order.kind == "forget":
            rows = range(int(order.meta["start"]), int(order.meta["stop"])) if order.rows is None else order.rows
            for row in rows:
                self._held.pop(int(row), None)
        elif order.kind == "cancel":
            self._cancel(int(order.meta["bundle"]))
        elif order.kind == "drain":
            self._to_infer.clear()
            self._to_prove.clear()
            self._draining = True
        elif order.kind == "stop":
            self.stopped = True
        else:
            raise ValueError(f"an order of unknown kind {order.kind!r}: rank 0 runs another version of enclaveml")

    def work(self) -> None:
        """Do what can be done without waiting: some inference, feeding the prover, collecting its proofs."""
        self._count_waiting()
        self._infer_some()
        self.pump()
        if self._draining and not self._proving:
            self._held.clear()
            self._outbox.put(Report("drained"))
            self._draining = False

    def infer_meanwhile(self) -> bool:
        """One batch of inference, while this rank waits for others that are at theirs. Whether there was any.

        Only where nothing is proved: there ticks may take their time, since every rank has rows, and without it ranks
        that tick together would wait for the slowest each time. Provers wait for orders.
        """
        if self._prover is not None or self.stopped or not self._to_infer:
            return False
        self._infer_some(0.0)
        return True

    def pump(self) -> None:
        """Collect finished proofs and keep the children supplied. Cheap: also called while a tick waits."""
        if self._prover is None:
            return
        for prover in self._provers:
            for result in prover.poll():
                self._finish(result)
        if self._circuit.slices > 1:
            for part in self._prover.poll_slices():
                self._spent(part)
                self._outbox.put(Report("slice", {"bundle": part.task, "slice": part.slice}, blob=pack(part.proof)))
        while self._to_prove and len(self._proving) < self._children + AHEAD:
            meta, rows = self._to_prove.popleft()
            task = int(meta["bundle"])
            # Kept with the task: rows may be forgotten while an outcome that comes too late to cancel is on its way.
            held = [self._held[int(row)] for row in rows]
            self._proving[task] = (meta, rows, held)
            data, timeout_s = np.stack([data for data, _ in held]), float(meta["timeout_s"])
            if meta.get("backward"):  # of a circuit in slices, beside a rank that proves it from the first on
                self._at(meta)[1].submit_backward(task, data, timeout_s)
                continue
            nonce, input_key = (bytes.fromhex(str(meta.get(name, ""))) for name in ("nonce", "input_key"))
            self._at(meta)[1].submit(task, data, timeout_s, nonce, input_key)

    @property
    def _provers(self) -> list[Prover]:
        """Those of the circuits that there are."""
        known = [self._prover] if self._fallback is None else [self._prover, self._fallback[1]]
        return [prover for prover in known if prover is not None]

    def _at(self, meta: Mapping[str, object]) -> tuple[Circuit, Prover | None]:
        """The circuit that an order is for, and its prover."""
        if self._fallback is not None and meta["circuit"] == self._fallback[0].circuit_id:
            return self._fallback
        if meta["circuit"] != self._circuit.circuit_id:
            raise ValueError(f"an order for circuit {str(meta['circuit'])[:16]}, which this rank has not")
        return self._circuit, self._prover

    def _infer_some(self, slice_s: float = SLICE_S) -> None:
        """Infer for so many seconds, one batch at least."""
        began = time.monotonic()
        while self._to_infer:
            rows, data = self._to_infer.popleft()
            first = time.monotonic()
            found = [self.infer(rows[: self._batch], data[: self._batch])]
            done = len(found[0])
            # One report of several batches: each costs rank 0 records in the journal.
            most = REPORT_BYTES // max(1, found[0][0].nbytes) - self._batch
            while done < len(rows) and done <= most and time.monotonic() - began < slice_s:
                found.append(self.infer(rows[done: done + self._batch], data[done: done + self._batch]))
                done += len(found[-1])
            if done < len(rows):
                self._to_infer.appendleft((rows[done:], data[done:]))
            outputs = np.concatenate(found)
            if self._prover is not None:
                self._held.update(zip(rows[:done].tolist(), zip(data[:done], outputs, strict=True), strict=True))
            self._outbox.put(Report("outputs", {"seconds": time.monotonic() - first}, rows[:done], outputs))
            self._stats["rows_inferred"] += done
            if time.monotonic() - began >= slice_s:
                break
        spent = time.monotonic() - began
        self._stats["infer_s"] += spent
        self._last += spent

    def infer(self, rows: np.ndarray, data: np.ndarray) -> np.ndarray:
        """Float outputs (n, D) float32 of these dataset rows (n,) whose data is (n, *row_shape)."""
        outputs = self._infer(data)
        self.between()
        return outputs

    def _finish(self, result: ProofResult) -> None:
        meta, rows, held = self._proving.pop(result.task)
        self._spent(result)
        if result.proof is None:
            self._stats["failures"] += 1
            # Rows of a bundle without a witness are ordered again; whoever gets others next is sent them.
            for row in () if result.overflow else rows.tolist():
                self._held.pop(row, None)
            self._outbox.put(Report("failed", {"bundle": result.task, "text": result.error,
                                               "overflow": list(result.overflow)}))
            return
        self._stats["proofs"] += 1
        data, outputs = map(np.stack, zip(*held, strict=True))
        for row in rows.tolist() if self._fallback is None else ():
            self._held.pop(row, None)
        told = {"witness_s": result.witness_seconds, "prove_s": result.prove_seconds}
        self._outbox.put(Report("envelope", {"bundle": result.task, **told},
                                blob=self.seal(meta, rows, data, outputs, result.proof)))

    def _spent(self, result: ProofResult) -> None:
        """Count what a proof took, or one slice's, at once: it may end in a proof that is joined of two ranks' slices. A whole one has its slices'."""
        witness, prove = self._counted.get(result.task, (0.0, 0.0))
        if result.slice is None:
            self._stats["witness_s"] += result.witness_seconds - witness
            self._stats["prove_s"] += result.prove_seconds - prove
            self._counted.pop(result.task, None)
            return
        self._counted[result.task] = witness + result.witness_seconds, prove + result.prove_seconds
        self._stats["witness_s"] += result.witness_seconds
        self._stats["prove_s"] += result.prove_seconds

    def seal(self, meta: Mapping[str, object], rows: np.ndarray, data: np.ndarray, outputs: np.ndarray,
             proof: Proof) -> bytes:
        """The envelope of one proved bundle: rows (n,), their data (n, *row_shape), float outputs (n, D), its proof."""
        return sealed(self._at(meta)[0], rows, data, outputs, proof, node_id=self._node_id, job_id=self._job_id,
                      round=int(meta["round"]), bundle=int(meta["bundle"]), attempt=int(meta["attempt"]))

    def _cancel(self, number: int) -> None:
        """Let a bundle go that rank 0 needs no more, and say so; nothing to do where it was answered already."""
        waiting = [rows for meta, rows in self._to_prove if int(meta["bundle"]) == number]
        self._to_prove = deque(item for item in self._to_prove if int(item[0]["bundle"]) != number)
        if number in self._proving and self._prover.cancel(number):
            waiting.append(self._proving.pop(number)[1])
            self._counted.pop(number, None)
        for rows in waiting:
            for row in rows.tolist():
                self._held.pop(row, None)
            self._outbox.put(Report("cancelled", {"bundle": number}))

    def _count_waiting(self) -> None:
        """Add to ``wait_s`` the share of the time since the last call in which children had nothing to do."""
        now = time.monotonic()
        if self._children and not self._to_infer:
            idle = 1.0 - min(1.0, len(self._proving) / self._children)
            self._stats["wait_s"] += idle * max(0.0, now - self._last)
        self._last = now

    def close(self) -> None:
        """End the prover's children."""
        for prover in self._provers:
            prover.close()
