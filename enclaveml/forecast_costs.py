"""What a job's parts will cost on a target: from a circuit that was proved on this machine, and stated constants.

Rank 0's thread was measured by ``python -m benchmarks.rank0``. Everything else is a circuit's own
``measured`` or the user's word; ``assumptions`` says all of it in the forecast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from enclaveml.errors import JobError
from enclaveml.forecast_rounds import Costs, Plant
from enclaveml.zk.interface import Circuit

#: CPU seconds of rank 0's thread, on the machine of the benchmark: a tick, more for each rank (the exchange's and
#: the aggregator's loops over ranks), and a bundle (order, report, admission, journal, verdict), of which 48 and 64
#: were verified. Of the first two of three runs, at loads of 4 to 6, the dearer one; the third took 2.2 ms a bundle.
ROOT_TICK_S, ROOT_RANK_S, ROOT_BUNDLE_S = 3.5e-3, 7.0e-6, 1.95e-3

#: Proving with one core to itself takes this times the CPU seconds of the proof at preparation.
PROVE_FACTOR = 1.0
#: CPU seconds of a verification at most, where the circuit's manifest has only the clock's (0.06 to 0.09 measured
#: for the digits model at 40 and 90 rows a proof).
VERIFY_S, VERIFY_LEAST_S = 0.09, 0.02

#: CPU seconds of a run outside its rounds. Each rank: Python, JAX and the model come up (measured, 2.05). Once:
#: reading the job and checking the circuit from the cache; the end of the children and the file (both estimated).
START_RANK_S, START_S, END_S = 2.0, 1.0, 0.5
#: Bytes a second of: SHA-256 of the keys, writing the results (journal to file, seal).
DIGEST_RATE, WRITE_RATE = 0.8e9, 0.2e9

#: Ranks that a simulation takes at most.
MOST_RANKS = 65536

#: Resident memory of a rank without its provers, in bytes: Python, JAX, MPI and the model.
RANK_BYTES = 0.6e9


@dataclass(frozen=True)
class Device:
    """float32 operations a second that inference reaches, after what a batch takes to start, in s."""

    name: str
    flops: float
    batch_s: float


#: Sustained, a third of the peak at full float32 precision that the vendor's data sheet gives (no TF32:
#: ``devices.FULL_PRECISION``); a CPU rank infers row by row on one thread.
DEVICES = {
    one.name: one
    for one in (
        Device("cpu", 4e9, 2e-5), Device("h200", 22e12, 1e-3), Device("h100", 22e12, 1e-3), Device("a100", 6.5e12, 1e-3),
        Device("l40s", 30e12, 1e-3), Device("v100", 5e12, 1e-3), Device("t4", 2.7e12, 1e-3),
    )
}


@dataclass(frozen=True)
class Target:
    """The machine that the job will run on. memory_gb: of a rank. core_speed: of a core, relative to this
    machine's. latency in s, link and disk in bytes/s. start_s: from ``srun`` or ``mpirun`` to the first rank.
    years: mean time until a rank is lost. root_cores: of a node that rank 0 has to itself, where it verifies; None: it shares a node as the others do. cores_of_node: where ranks crowd a node, all that they
    share."""

    ranks: int
    cores_per_rank: int
    ranks_per_node: int
    device: Device
    memory_gb: float
    core_speed: float = 1.0
    latency: float = 5e-6
    link: float = 3e9
    disk: float = 1e9
    start_s: float = 1.0
    years: float = 5.0
    slow: float = 0.01
    jitter: float = 0.05
    root_cores: int | None = None
    aggregator_computes: bool = False
    cores_of_node: int | None = None

    @property
    def node_cores(self) -> int:
        return self.cores_of_node or self.cores_per_rank * min(self.ranks_per_node, self._sharing)

    @property
    def nodes(self) -> int:
        return math.ceil(self._sharing / self.ranks_per_node) + (self.root_cores is not None)

    @property
    def _sharing(self) -> int:
        """Ranks on the nodes that ranks share; 1 at least."""
        return max(1, self.ranks - (self.root_cores is not None))

    @property
    def first(self) -> int:
        """The first rank that computes."""
        return 0 if self.ranks == 1 or self.aggregator_computes else 1

    @property
    def children(self) -> int:
        """Provers of a rank, as ``rollcall.children_of`` has it: of a full node, or of rank 0's if there is but one."""
        working = min(self.ranks_per_node, self._sharing)
        if self.nodes == 1 and self.root_cores is None:
            working -= self.first
        return max(1, self.node_cores // max(1, working))

    @property
    def verifiers(self) -> int:
        return self.root_cores or self.node_cores

    @property
    def provers_beside(self) -> int:
        """Provers on rank 0's node, which share its cores with its verifiers."""
        if self.root_cores is not None:
            return self.children * (self.first == 0)
        return self.children * (min(self.ranks_per_node, self.ranks) - self.first)

    @property
    def verify_cores(self) -> float:
        """What the verifiers have of the cores of rank 0's node when all of them are busy."""
        return self.verifiers**2 / (self.verifiers + self.provers_beside)


def target_of(ranks: int, cores_per_rank: int, ranks_per_node: int, device: str, memory_gb: float,
              core_speed: float = 1.0, root_cores: int | None = None, aggregator_computes: bool = False) -> Target:
    """A target from the command line's words. Raises JobError for what is no machine."""
    faults = []
    if device not in DEVICES:
        faults.append(f"--device: found {device!r}; allowed: {', '.join(DEVICES)}")
    faults += [f"{option}: found {value:g}; allowed: a number above 0"
               for option, value in (("--memory-gb", memory_gb), ("--core-speed", core_speed))
               if not (value > 0 and math.isfinite(value))]
    if ranks > MOST_RANKS:
        faults.append(f"--ranks: found {ranks}; allowed: 1 to {MOST_RANKS}")
    if faults:
        raise JobError(*faults)
    return Target(ranks, cores_per_rank, ranks_per_node, DEVICES[device], memory_gb, core_speed,
                  root_cores=root_cores, aggregator_computes=aggregator_computes)


def costs(circuit: Circuit, weights: int, target: Target) -> Costs:
    """Of one bundle on the target; ``weights`` is how many numbers the model has, for inference."""
    measured = circuit.measured
    verify = float(measured.get("verify_cpu_seconds") or min(VERIFY_S, max(VERIFY_LEAST_S, measured["verify_seconds"])))
    row_bytes = math.prod(circuit.row_shape) * 4
    return Costs(
        prove=(PROVE_FACTOR * measured["prove_cpu_seconds"] + measured["witness_seconds"]) / target.core_speed,
        infer=infer_seconds(circuit.rows, weights, target), verify=verify / target.core_speed,
        root_tick=ROOT_TICK_S / target.core_speed, root_rank=ROOT_RANK_S / target.core_speed,
        root_bundle=ROOT_BUNDLE_S / target.core_speed,
        envelope_bytes=circuit.proof_bytes + circuit.rows * (12 * circuit.outputs + 8) + 500,
        order_bytes=circuit.rows * (row_bytes + 30),
    )


def infer_seconds(rows: int, weights: int, target: Target) -> float:
    """Of so many rows on a rank's device: two operations a weight and row, right for dense layers."""
    return target.device.batch_s + 2.0 * weights * rows / target.device.flops


def plant(target: Target) -> Plant:
    """The target as the simulation takes it."""
    year = 365.25 * 24 * 3600
    return Plant(
        ranks=target.ranks, first=target.first, ranks_per_node=min(target.ranks_per_node, target.ranks),
        node_cores=target.node_cores, children=target.children, verifiers=target.verifiers, latency=target.latency,
        link=target.link, jitter=target.jitter, slow=target.slow, failures=1 / (target.years * year),
        root_cores=float(target.root_cores or 0),
    )
