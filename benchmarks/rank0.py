"""``python -m benchmarks.rank0``: CPU seconds of rank 0's own thread, for a rank, a tick and a bundle.

The numbers in ``enclaveml/forecast_costs.py`` come from here. The exchange and the aggregator are the real ones,
for made-up ranks: what MPI would carry is handed over in memory, and one real proof of the digits model answers
every bundle (all bundles have the same rows), so that verification and its verdicts are real too. Every bundle must
be verified, else the benchmark fails: what an honest job costs is measured, and nothing else. CPU time of the
one thread is what counts; it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from enclaveml.aggregator import Aggregator
from enclaveml.circuits import Circuits
from enclaveml.exchange import STATS, Exchange, Order, Report
from enclaveml.job import load_job
from enclaveml.journal import Journal
from enclaveml.prepare import load_function, request_of
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Member
from enclaveml.worker import Worker
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import Circuit, Proof

JOB = Path(__file__).resolve().parent.parent / "jobs/digits/job.yaml"


class Alone:
    """As much of ``comm.World`` as the exchange uses, rank 0 of P ranks of which the others bring ``reports``."""

    def __init__(self, ranks: int) -> None:
        self.ids, self.rank, self.is_root = tuple(range(ranks)), 0, True
        self.headers = np.zeros((ranks, 3 + len(STATS)))
        self.blob = b""

    def allgather_array(self, mine: np.ndarray, what: str) -> np.ndarray:
        out = self.headers.copy()
        out[0] = mine
        return out

    def gather_rows(self, mine: np.ndarray, counts: np.ndarray, what: str) -> np.ndarray:
        return np.frombuffer(self.blob, np.uint8).reshape(-1, 1)

    def bcast_array(self, array: np.ndarray, what: str) -> np.ndarray:
        return array

    def scatter_rows(self, rows: np.ndarray, counts: np.ndarray, shape: tuple, dtype: np.dtype, what: str) -> np.ndarray:
        return np.empty((int(counts[0]), *shape), dtype)


def tick_seconds(ranks: int, turns: int = 30) -> float:
    """CPU seconds of rank 0 for a tick in which nobody brings anything."""
    exchange = Exchange(Alone(ranks), (64,), np.dtype(np.float32), 10)
    exchange.tick(np.zeros(len(STATS)))
    began = time.thread_time()
    for _ in range(turns):
        exchange.tick(np.zeros(len(STATS)))
    return (time.thread_time() - began) / turns


def step_seconds(aggregator: Aggregator, turns: int = 30) -> float:
    """CPU seconds of an aggregator's step in which nothing happens."""
    began = time.thread_time()
    for _ in range(turns):
        aggregator.step([])
    return (time.thread_time() - began) / turns


class _Idle:
    """A verifier that is asked for nothing."""

    def poll(self) -> list:
        return []


def make(folder: Path, circuit: Circuit, ranks: int, data: np.ndarray, verifier: object) -> tuple[Aggregator, dict]:
    """An aggregator over ``data`` with that many ranks, and their boxes."""
    job = load_job(JOB, ("split.strategy=equal",))
    members = {r: Member(rank=r, node_id=f"rank-{r}", host=f"n{r // 4}", local_rank=r % 4, device="cpu", memory_gb=8.0,
                         cores=4.0, capacity=8.0, computes=r > 0) for r in range(ranks)}
    for member in members.values():
        if hasattr(member, "children"):
            member.children = 4 if member.computes else 0
    world = Alone(ranks)
    boxes = Exchange(world, circuit.row_shape, np.dtype(circuit.dtype), circuit.outputs).order_boxes
    journal = Journal.create(folder / f"journal-{ranks}-{len(data)}", overwrite=True)
    journal.append("start", {"job": "", "job_given": "", "inputs": "public", "strategy": "equal", "versions": {},
                             "model_hash": "", "dataset_fingerprint": "", "rows": len(data),
                             "outputs": circuit.outputs, "started": "", "ranks": []})
    circuits = Circuits((circuit,), lambda circuit: verifier or _Idle(), journal)
    made = Aggregator(job, len(data), lambda a, b: data[a:b], circuits, circuit.outputs, members, boxes, journal,
                      lambda rows: np.zeros((len(rows), circuit.outputs), np.float32), data[0].nbytes, "bench")
    return made, boxes


def bundle_seconds(folder: Path, circuit: Circuit, proof: Proof, rows: np.ndarray, floats: np.ndarray,
                   each: int, ranks: int = 9) -> tuple[float, float]:
    """CPU seconds for a bundle: of rank 0's thread (orders, reports, journal, verdict), and in its verifier.

    Each rank but rank 0 proves ``each`` bundles: its share starts at a multiple of a bundle, as the one proof needs.
    Raises SystemExit where not every row is verified.
    """
    bundles = each * (ranks - 1)
    data = np.concatenate([rows] * bundles)
    verifier = EzklSystem().verifier(circuit, 2)
    aggregator, boxes = make(folder, circuit, ranks, data, verifier)
    worker = Worker(lambda x: x, 1, None, 1, circuit, "", "bench", None)
    idle: list[float] = []  # steps in which nothing happened, which are no bundle's
    busy: list[float] = []
    reports: list[tuple[int, Report]] = []
    while not aggregator.finished:
        before, began = aggregator.proofs_verified, time.thread_time()
        aggregator.step(reports)
        (busy if reports or aggregator.proofs_verified > before else idle).append(time.thread_time() - began)
        reports = []
        for rank, box in boxes.items():
            for number, order in box.pending():
                box.read_up_to(number)
                reports += _answers(rank, order, worker, circuit, proof, rows, floats)
        time.sleep(0.1)  # as the ticks come
    found = np.bincount(aggregator.status.ravel(), minlength=len(RowStatus)).tolist()
    if found[RowStatus.VERIFIED] != len(data) or aggregator.proofs_verified != bundles or aggregator.bundles_rejected:
        raise SystemExit(f"not what an honest job costs: of {len(data)} rows in {bundles} bundles "
                         f"{found[RowStatus.VERIFIED]} are verified, in {aggregator.proofs_verified} bundles; "
                         f"{aggregator.bundles_rejected} bundles were rejected")
    spent = sum(busy) - len(busy) * (float(np.median(idle)) if idle else 0.0)
    verify = aggregator.verify_seconds / bundles
    verifier.close()
    # The way over the wire: packed by a worker, unpacked by rank 0.
    from enclaveml.exchange_items import pack_reports, unpack_reports

    blob = pack_reports([(i + 1, Report("envelope", {"bundle": i}, blob=b"x" * (circuit.proof_bytes + 9000)))
                          for i in range(50)])
    began = time.thread_time()
    unpack_reports(blob, np.empty(0, np.dtype([("row", "<i8"), ("output", "<f4", (10,))])))
    return spent / bundles + (time.thread_time() - began) / 50, verify


def _answers(rank: int, order: Order, worker: Worker, circuit: Circuit, proof: Proof, rows: np.ndarray,
             floats: np.ndarray) -> list[tuple[int, Report]]:
    if order.kind == "infer":
        here = floats[order.rows % len(rows)]
        return [(rank, Report("outputs", {}, order.rows, here))]
    if order.kind == "prove":
        worker._node_id = f"rank-{rank}"
        which = order.rows % len(rows)
        if not np.array_equal(which, np.arange(len(rows))):
            raise SystemExit(f"bundle {order.meta['bundle']} is {len(which)} rows from row {order.rows[0]}: the proof is of "
                             f"{len(rows)} rows from a multiple of that")
        return [(rank, Report("envelope", {"bundle": order.meta["bundle"]}, blob=worker.seal(
            order.meta, order.rows, rows[which], floats[which], proof)))]
    return []


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description="CPU seconds of rank 0's own thread, for a rank, a tick and a bundle; "
                                                 "takes the circuit of jobs/digits from the cache, or prepares it")
    parser.add_argument("--bundles", type=int, default=8, help="bundles that each of 8 ranks proves (default: 8)")
    options = parser.parse_args()
    if options.bundles < 1:
        parser.error(f"--bundles: found {options.bundles}; allowed: 1 or more")
    from enclaveml.zk.rows import float_outputs

    job = load_job(JOB)
    function, samples, n = load_function(job)
    circuit = EzklSystem().prepare(function, samples, request_of(job, n, 1), print)
    rows = np.ascontiguousarray(np.concatenate([samples] * 8)[: circuit.rows]).astype(function.dtype)
    floats = float_outputs(function, rows, circuit.rows).astype(np.float32)
    prover = EzklSystem().prover(circuit.folder, 1, 1)
    prover.submit(1, rows, 600)
    while not (found := prover.poll()):
        time.sleep(0.05)
    prover.close()
    with tempfile.TemporaryDirectory() as folder:
        ticks = {p: tick_seconds(p) for p in (16, 256, 1024, 4096)}
        steps = {}
        data = np.zeros((1 << 16, *circuit.row_shape), np.float32)
        for p in (16, 256, 1024, 4096):
            steps[p] = step_seconds(make(Path(folder), circuit, p, data, None)[0])
        bundle, verify = bundle_seconds(Path(folder), circuit, found[0].proof, rows, floats, options.bundles)
    print(json.dumps({"tick_cpu_s": ticks, "step_cpu_s": steps, "rows_a_bundle": circuit.rows,
                      "bundles_verified": 8 * options.bundles,
                      "bundle_thread_cpu_s": bundle, "verify_s": verify}, indent=1))


if __name__ == "__main__":
    main()
