"""The cases of the suite, made of what the single benchmarks measure with.

Not among them: what takes long (``digits_cnn``), what needs a GPU (``gpu``), hours (``chaos``), another
machine's memory (``memory``, ``large_mlp``) or nobody
else at work for a forecast to hold (``forecast``, ``rank0``); each of those has a command of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import audit, mlp, wire
from benchmarks.common import Contender as Prover
from benchmarks.common import WrongResult
from benchmarks.gpu import clean, write_job
from benchmarks.suite import Case, Contender, Timing
from benchmarks.wire_loops import ALLOWED
from enclaveml.results import RowStatus, read_results
from enclaveml.weights import read_weights

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "jobs/digits"

PUBLIC, COMMITTED = mlp.CONTENDERS["public", False], mlp.CONTENDERS["committed", False]


def _timed(prover: Prover) -> Callable[[int], Timing]:
    """A prover of ``benchmarks.common`` as a contender: it verifies and compares its rows in each turn."""
    def turn(number: int) -> Timing:
        done = prover.turn(number)
        assert done is not None, "it has a turn in every round"
        return Timing(done.rows, done.seconds, done.cpu_seconds)

    return turn


def _proving(job: Path) -> Callable[[str, Path], Any]:
    @contextmanager
    def open_case(setting: str, folder: Path) -> Iterator[Sequence[Contender]]:
        full = setting == "full"
        with mlp.contest(job, 3 if full else 1, sys.maxsize, chosen=(PUBLIC, COMMITTED) if full else (PUBLIC,)) as held:
            yield [Contender(p.result.name, _timed(p), p.result.detail) for p in held.contenders]

    return open_case


@contextmanager
def _audit(setting: str, folder: Path) -> Iterator[Sequence[Contender]]:
    """A job is run first, whose proofs are then multiplied; quick takes small circuits, full the digits job's own."""
    full, cores = setting == "full", len(os.sched_getaffinity(0))
    results = folder / "results.h5"
    asked = () if full else ("--set", "proof.rows_per_proof=8", "--set", "proof.fallback=false", "--input", str(_few(folder, 32)))
    wire.mpirun(2, "enclaveml", "run", str(DIGITS / "job.yaml"), "-o", str(results), *asked)
    path, proofs = audit.grown(results, folder / "grown.h5", 1000 if full else 200)

    def bare(number: int) -> Timing:
        return Timing(proofs, *audit.loops(path, folder, cores))

    def audited(number: int) -> Timing:
        return Timing(proofs, *audit.audit(path)[:2])

    yield [Contender(f"{cores} bare loops of ezkl.verify", bare), Contender("enclaveml audit", audited, f"{proofs} proofs")]


def _few(folder: Path, rows: int) -> Path:
    """The first digits as an --input file."""
    data = np.load(DIGITS / "digits.npz")["x"][:rows]
    path = folder / "few.json"
    path.write_text(json.dumps({"data": data.ravel().tolist(), "sample_size": data[0].size}), encoding="utf-8")
    return path


@contextmanager
def _inference(setting: str, folder: Path) -> Iterator[Sequence[Contender]]:
    rows = 1_000_000 if setting == "full" else 300_000
    path = write_job(folder, "digits", rows, "cpu")
    given = json.loads(path.read_text(encoding="utf-8"))
    given |= {"split": {"strategy": "equal"}, "cluster": {"aggregator_computes": True}}
    path.write_text(json.dumps(given), encoding="utf-8")
    truth = digits_floats(np.load(folder / "digits.npy"))
    np.save(folder / "expected.npy", truth)

    def loop(by_row: bool) -> Callable[[int], Timing]:
        return lambda number: Timing(rows, rows / wire.loops(folder, "digits", by_row, 256, folder / "expected.npy")["rows_s"])

    yield [Contender("bare batched loops, 2 processes", loop(False), "a jitted call for 256 rows"),
           Contender("bare loops row by row, 2 processes", loop(True)),
           Contender("enclaveml run at coverage 0, 2 ranks", lambda number: _job(path, truth), f"{rows} rows")]


def digits_floats(rows: np.ndarray) -> np.ndarray:
    """What the digits model says of rows (n, 64), in plain numpy: (n, 10) float64."""
    found = read_weights((DIGITS / "digits.safetensors").read_bytes(), "digits.safetensors")
    w = {name: np.asarray(array, np.float64) for name, array in found.items()}
    hidden = np.maximum(rows @ w["hidden.kernel"] + w["hidden.bias"], 0)
    return hidden @ w["out.kernel"] + w["out.bias"]


def _job(path: Path, truth: np.ndarray) -> Timing:
    """From the first order to the last output, as the job's log says; its file is then held against the model."""
    rate = wire.job(path, 2)["rows_s"]
    with read_results(path.with_suffix(".h5")) as results:
        off = float(np.abs(results.outputs() - truth).max())
        if not off <= ALLOWED:
            raise WrongResult(f"the job: an output {off:.3g} from the model's, allowed {ALLOWED:g}")
    return Timing(len(truth), len(truth) / rate)


def _transfers(rows: int, width: int, repeats: int) -> Callable[[str, Path], Any]:
    @contextmanager
    def open_case(setting: str, folder: Path) -> Iterator[Sequence[Contender]]:
        @cache
        def measured(number: int) -> dict[str, Any]:
            return wire.ranks_part("transfers", rows=rows, width=width, repeats=repeats)

        def turn(name: str) -> Callable[[int], Timing]:
            def of(number: int) -> Timing:
                found = measured(number)
                return Timing(found["bytes"] / 1e6, float(np.median(found[f"{name}_s"])))

            return of

        yield [Contender("bare mpi4py buffers, fresh ones", turn("bare")), Contender("the same buffers again", turn("reused")),
               Contender("enclaveml.comm", turn("ours"), f"medians of {repeats} transfers a round")]

    return open_case


@contextmanager
def _hdf5(setting: str, folder: Path) -> Iterator[Sequence[Contender]]:
    data = np.random.default_rng(6).random(((200 if setting == "full" else 50) * 250, 1000), np.float32)
    wire.hdf5_seconds("ours", folder / "ours.h5", data)  # the first write pays for imports and new pages

    def turn(name: str) -> Callable[[int], Timing]:
        return lambda number: Timing(data.nbytes / 1e6, wire.hdf5_seconds(name, folder / f"{name}.h5", data))

    yield [Contender("h5py alone", turn("bare")), Contender("enclaveml.hdf5", turn("ours"))]


@contextmanager
def _digits_job(setting: str, folder: Path) -> Iterator[Sequence[Contender]]:
    """Keys are made before: they are cached for whoever runs the job again."""
    job, truth = DIGITS / "job.yaml", digits_floats(np.load(DIGITS / "digits.npz")["x"])
    for ranks in (1, 3):
        subprocess.run([sys.executable, "-m", "enclaveml", "prepare", str(job), "--ranks", str(ranks)], check=True, env=clean(),
                       stdout=subprocess.DEVNULL)

    def turn(ranks: int) -> Callable[[int], Timing]:
        return lambda number: _verified_job(job, folder / "results.h5", ranks, truth)

    yield [Contender("1 rank", turn(1), f"{len(truth)} rows"), Contender("3 ranks, 2 of which compute", turn(3))]


def _verified_job(job: Path, results: Path, ranks: int, truth: np.ndarray) -> Timing:
    """The whole of mpirun; every row must be verified, each proved output within the job's tolerance of the model in numpy."""
    began = time.monotonic()
    wire.mpirun(ranks, "enclaveml", "run", str(job), "-o", str(results), "--force", timeout=1800)
    seconds = time.monotonic() - began
    with read_results(results) as found:
        limit = max(found.circuit(name).manifest["tolerance"] for name in found.circuit_ids)
        if (found.row("status") != RowStatus.VERIFIED).any():
            raise WrongResult("not every row is verified")
        off = float(np.abs(found.proved_outputs() - truth).max())
        if not off <= limit:
            raise WrongResult(f"a proved output {off:.3g} from the model's, allowed {limit:.3g}")
    return Timing(len(truth), seconds)


_PROVED = ("Witness, proof and verification are timed, on two processors. Every proof is verified and every proved output held "
           "against the float model inside the timed turn; the deviation allowed is calibrated ezkl's own.")

CASES: tuple[Case, ...] = (
    Case("digits", f"Proving the digits model, dense 64-32-10. {_PROVED}", "row", _proving(DIGITS / "job.yaml")),
    Case("cancer", f"Proving the cancer model, dense 30-16-2. {_PROVED}", "row", _proving(ROOT / "jobs/cancer/job.yaml"), ("full",)),
    Case("job", "The digits job from mpirun's start to its end, with keys that were made before. Every row must be verified, "
         "and every proved output be the model's as numpy computes it, within the tolerance.", "row", _digits_job, ("full",)),
    Case("audit", "Verifying a results file's proofs. Of the audit all that a user waits for is timed, from the program's start to "
         "its exit; of the loops verification alone. A proof that does not verify, or any fault found, fails the case.",
         "proof", _audit),
    Case("inference", "Inferring without proofs, the digits model. Of the job, first order to last output; of the loops, the calls. "
         f"All outputs are held against the model in numpy, within {ALLOWED:g}.", "row", _inference),
    Case("scatter-small", "Scatterv and Gatherv of 2,000 rows of 64 float32 on 2 ranks. All values are compared after every "
         "transfer.", "MB", _transfers(2000, 64, 60)),
    Case("scatter-large", "Scatterv and Gatherv of 65,536 rows of 64 float32 on 2 ranks. All values are compared after every "
         "transfer.", "MB", _transfers(65536, 64, 20)),
    Case("hdf5", "Writing rows to a new HDF5 file and syncing it. The file is read back and compared.", "MB", _hdf5),
)
