"""The circuits of a job: the primary, by which rows are proved, and the fallback for those that it cannot prove.

A circuit is chosen on sample rows. A row beyond them may leave its range, so that it has no witness there, or
its fixed-point output may be out of the tolerance although the float output is the model's. That is the
plan's doing and nobody's lie, so such a row is proved at a second, wider circuit:

 1. Rank 0 prepares, with the primary, a small *fallback* circuit of the same model, input mode and tolerance: finer
    scale, far more range, few rows a proof (``zk/ezkl/fallback.py`` has its margins). It is held against the float model
    on the same sample rows, cached and distributed like the primary. Where all rows are sample rows nothing is
    left that could need one; where none serves, a log line says so, and rows end as without one.
 2. A rank whose bundle has no witness says which rows are why. Its other rows are ordered again, and these at the
    fallback. It is believed in that, because it gains nothing by it: the row is proved all the same, by the same
    statement at a finer scale. The claim binds the claimant alone; another rank that gets the row begins
    at the primary. A failure that is no matter of rows (time, memory, a crash) is treated as before.
 3. A row whose proof holds and whose float output is rank 0's own, but out of the tolerance (``judging.py``),
    is ordered at the fallback. That rank 0 has seen itself, so it holds for whoever proves the row.
 4. The float output that a rank was bound to before its first proof is the one that the fallback's proof is compared
    with. Where another rank has to prove the row, it infers it and is bound to its own output first, as ever.
 5. A bundle at the fallback that fails is ordered again without the rows that have no witness there either; after a crash
    or time-out its rows are proved one by one. So a row that nothing proves costs itself alone: it ends
    ``inconsistent`` where a proof showed it to be, else ``lost``, when no rank is left that may take it.

Which circuit a bundle is for stands in its order, its envelope, its journal record and the results file; admission and
verification go by rank 0's own record of it. A model that is cut into slices (SLICES.md) has one circuit here, of several keys, and no
fallback. The verifier, and each rank's prover, of the fallback start when first needed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from enclaveml.job import JobSpec
from enclaveml.journal import Journal
from enclaveml.ledger import Bundle
from enclaveml.zk.interface import Circuit, CircuitRequest, Proof, Verdict, Verifier
from enclaveml.zk.systems import system_of

if TYPE_CHECKING:
    from enclaveml.datasets import Dataset
    from enclaveml.zk.interface import ModelFunction

log = logging.getLogger(__name__)


#: Rows that a circuit is held against the float model on when it is registered.
SAMPLE_ROWS = 256


def sample_rows(dataset: Dataset) -> np.ndarray:
    """Up to SAMPLE_ROWS rows spread evenly over the dataset, (S, *row_shape): the same whenever it is asked."""
    return dataset.read_rows(np.unique(np.linspace(0, dataset.rows - 1, min(SAMPLE_ROWS, dataset.rows)).astype(np.int64)))


def request_for(job: JobSpec, rows: int, memory_gb: float, cores: int, children: int) -> CircuitRequest:
    """What a job over so many rows asks of its circuit, on ranks of that memory (GB) that run so many provers.

    Keys of the cache follow from it, so a run and ``enclaveml prepare`` must ask alike.
    """
    proof, replicas = job.proof, job.split.replicas if job.split.strategy == "redundant" else 1
    return CircuitRequest(
        inputs=proof.inputs, bounded=proof.bounded_inputs, srs=proof.srs_file, slices=proof.slices_asked, tolerance=proof.tolerance,
        agreement=proof.agreement, rows_per_proof=proof.rows_per_proof, scale=proof.scale,
        expected_rows=math.ceil(rows * replicas * proof.coverage), memory_gb=memory_gb, cores=cores, children=children,
        hides_weights=proof.hides_weights,
    )


def prepare_circuits(
    job: JobSpec, function: ModelFunction, samples: np.ndarray, rows: int, request: CircuitRequest
) -> tuple[Circuit, ...]:
    """The primary circuit of a job over so many rows and, where it is to have one, the fallback.

    samples: the sample rows, (S, *row_shape).

    Raises:
        JobError: the model cannot be proved as the job asks.
        EnvironmentFault: the machine does not serve.
    """
    def progress(line: str) -> None:
        log.info("%s", line)

    began = time.monotonic()
    system = system_of(job.proof.system)
    primary = system.prepare(function, samples, request, progress)
    log.info("circuit %s ready in %.1f s: %d rows a proof, tolerance %.4g, deviation %.4g on %d sample rows, "
             "argmax agreement %.4f", primary.circuit_id[:12], time.monotonic() - began, primary.rows,
             primary.tolerance, primary.deviation, primary.samples, primary.agreement)
    if primary.caution:
        log.warning("proof.system %s: %s; %s", primary.system, primary.caution, _told_of(primary))
    if not job.proof.fallback:
        return (primary,)
    if len(samples) >= rows:
        log.info("no fallback circuit: the circuit was held against each of the %d rows", rows)
        return (primary,)
    began = time.monotonic()
    fallback = system.prepare_fallback(function, samples, request, primary, progress)
    if fallback is None:
        return (primary,)
    log.info("fallback circuit %s ready in %.1f s: %d rows a proof, scale %d bits, deviation %.4g",
             fallback.circuit_id[:12], time.monotonic() - began, fallback.rows, fallback.input_scale, fallback.deviation)
    return primary, fallback


def _told_of(circuit: Circuit) -> str:
    """What follows from a circuit's caution for who runs the job."""
    if circuit.hides_weights:
        return (f"who is to check the results has to be told by somebody he believes that it is circuit {circuit.circuit_id}; keep "
                f"{circuit.folder}, which has the weights and their seed, and show it to nobody")
    return ("inputs are in the file, and " if circuit.inputs == "public" else "") + "whoever has the proofs can work out the weights"


class Circuits:
    """Rank 0's circuits and their verifiers; which of them a bundle is for is the bundle's ``fallback``.

    Args:
        circuits: none (nothing is proved), the primary, or the primary and the fallback.
        verifier: opens the verifier of a circuit.
        known: ids of the circuits that the journal has.
    """

    def __init__(self, circuits: tuple[Circuit, ...], verifier: Callable[[Circuit], Verifier], journal: Journal,
                 known: tuple[str, ...] = ()) -> None:
        self.primary = circuits[0] if circuits else None
        self.fallback = circuits[1] if len(circuits) > 1 else None
        self._open, self._journal, self._known = verifier, journal, set(known)
        self._verifiers: dict[str, Verifier] = {}
        if self.primary is not None:
            self._begin(self.primary)

    def of(self, bundle: Bundle) -> Circuit:
        """The circuit that a bundle is for."""
        found = self.fallback if bundle.fallback else self.primary
        assert found is not None, "a bundle without a circuit"
        return found

    def begin_fallback(self) -> Circuit:
        """The fallback, its verifier opened and its keys in the journal, before the first bundle for it."""
        assert self.fallback is not None
        self._begin(self.fallback)
        return self.fallback

    def _begin(self, circuit: Circuit) -> None:
        if circuit.circuit_id not in self._verifiers:
            self._verifiers[circuit.circuit_id] = self._open(circuit)
        if circuit.circuit_id not in self._known:
            self._journal.append("circuit", {"circuit_id": circuit.circuit_id, "manifest": circuit.published()},
                                 **system_of(circuit.system).auditor_files(circuit))
            self._known.add(circuit.circuit_id)

    def submit(self, bundle: Bundle, rows: np.ndarray, proof: Proof, nonce: bytes, input_key: bytes = b"") -> None:
        """Have a bundle's proof verified by its circuit; rows (n, *row_shape), nonce and the order's input key are rank 0's own."""
        self._verifiers[self.of(bundle).circuit_id].submit(bundle.id, rows, proof, bundle.outputs, nonce, input_key)

    def submit_joined(self, bundle: Bundle, rows: np.ndarray, proof: Proof) -> None:
        """The same for a proof of the primary circuit, in slices, that several ranks made; a rejection names the slices at fault."""
        self._verifiers[self.of(bundle).circuit_id].submit_joined(bundle.id, rows, proof, bundle.outputs)

    def poll(self) -> list[Verdict]:
        """The verdicts that are ready; never blocks."""
        return [verdict for verifier in self._verifiers.values() for verdict in verifier.poll()]

    def close(self) -> None:
        """End the verifiers."""
        for verifier in self._verifiers.values():
            verifier.close()
