"""``enclaveml forecast``: what a job will take on a machine that is not this one, before it is asked for.

From the circuit that was proved on this machine (``enclaveml prepare``, or a run), a stated model of the target and
the data's size; the rounds are simulated. Needs neither MPI nor JAX. What it assumes stands in the forecast.

Letters: N rows, B rows per bundle, P ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from enclaveml import forecast_rounds as sim
from enclaveml.circuit_index import circuits_of, model_key
from enclaveml.errors import EnvironmentFault
from enclaveml.forecast_costs import (
    DIGEST_RATE,
    END_S,
    RANK_BYTES,
    START_RANK_S,
    START_S,
    WRITE_RATE,
    Target,
    costs,
    plant,
)
from enclaveml.job import JobSpec
from enclaveml.round_size import WIDE_BYTES, rows_of_a_round
from enclaveml.zk.ezkl.plan import SETUP_SHARE, Work
from enclaveml.zk.interface import SLICED, Circuit

#: A verifier's process, in bytes; bytes at rank 0 for a row's place in its tables.
VERIFIER_BYTES, TABLE_BYTES = 60e6, 40.0

#: So many bundles are simulated at most (whole rounds); longer jobs go on at the rate of the first half.
MOST_BUNDLES = 8_000

#: Slurm is asked for the wall time and this part more, and so many seconds at least.
SPARE, LEAST_SPARE_S = 0.3, 300.0

#: Scaling has stopped where a rank brings less than this part of what one brought at the start.
EFFICIENT = 0.5


@dataclass(frozen=True)
class Data:
    """The job's size: N rows to infer, ``proved`` rows to prove (replicas and coverage counted), bytes of a row,
    numbers in the model's weights."""

    rows: int
    proved: int
    row_bytes: int
    weights: int


@dataclass(frozen=True)
class Limit:
    """Something that keeps more ranks from helping: ``ranks`` is where it starts to, at full provers."""

    name: str
    ranks: float
    text: str


@dataclass(frozen=True)
class Forecast:
    """Seconds by the clock, bytes. stages: in the order in which they pass. root: shares of the rounds' time."""

    target: Target
    circuit_id: str
    rows_per_proof: int
    rows: int
    bundles: int
    rounds: int
    stages: dict[str, float]
    wall: float
    ask: float
    provers: int
    outcome: sim.Outcome
    memory_rank: float
    memory_root: float
    key_bytes: float
    results_bytes: float
    journal_bytes: float
    limits: tuple[Limit, ...]
    assumptions: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return asdict(self)


def data_of(job: JobSpec, rows: int | None = None) -> tuple[Data, list[Circuit]]:
    """The job's size, and the circuits of its model that this machine's cache has and that serve its proofs.

    Raises JobError for data or a model that cannot be read.
    """
    from enclaveml.model_package import package_of
    from enclaveml.preprocessing import open_rows

    with open_rows(job) as dataset:
        n, shape, dtype = rows or dataset.rows, dataset.row_shape, dataset.dtype
    package = package_of(job)
    replicas = job.split.replicas if job.split.strategy == "redundant" else 1
    proof = job.proof
    serving = [
        c for c in circuits_of(model_key(package.to_bytes(), shape, dtype))
        if (SLICED if c.slices > 1 else proof.system) == c.system and proof.slices in ("auto", str(c.slices))
        and c.inputs == proof.inputs and c.hides_weights == proof.hides_weights and (proof.tolerance is None or c.tolerance <= proof.tolerance)
        and proof.rows_per_proof in (None, c.rows)
        and bool(c.bound) == (proof.bounded_inputs and proof.inputs != "public")
    ]
    size = Data(n, math.ceil(n * replicas * proof.coverage), math.prod(shape) * dtype.itemsize,
                len(package.weights or b"") // 4)
    return size, serving


def choose(circuits: Sequence[Circuit], data: Data, target: Target) -> Circuit:
    """The circuit that the plan would take among these: the least time for the job, within a rank's memory.

    Raises EnvironmentFault where there is none.
    """
    fitting = [c for c in circuits if c.measured["prove_peak_bytes"] * target.children <= target.memory_gb * 1e9]
    if not fitting:
        raise EnvironmentFault(
            f"no circuit of this model is in the cache that {target.children} provers hold in {target.memory_gb:g} GB; "
            "give --memory-gb or --cores-per-rank otherwise" if circuits else
            "no circuit of this model is in this machine's cache, so nothing was measured: `enclaveml prepare JOB` makes "
            "one and proves once (with hidden weights each run does)"
        )
    working = target.ranks - target.first
    work = Work(max(1, data.proved), working, target.children,
                min(working * target.children, target.nodes * target.node_cores))
    return min(fitting, key=lambda c: (c.measured["prove_cpu_seconds"] * (work.waves(c.rows) + SETUP_SHARE), c.rows))


def _round_rows(data: Data, bundle: int, target: Target) -> int:
    at_once = bundle * target.children * (target.ranks - target.first)
    return min(data.rows, rows_of_a_round(data.row_bytes, at_once))


def _rounds(data: Data, bundle: int, target: Target) -> tuple[int, int, int]:
    """(bundles in all, bundles a round, rounds): each rank's last bundle of a round may hold fewer rows."""
    working = target.ranks - target.first
    each = _round_rows(data, bundle, target)
    rounds = math.ceil(data.rows / each)
    proved = data.proved / rounds
    share = proved / working
    full = max(1, math.floor(share)) if share < 1 else share
    a_round = min(math.ceil(proved), working) if share < 1 else working * math.ceil(full / bundle)
    return max(1, a_round * rounds), max(1, a_round), rounds


def rounds_of(circuit: Circuit, data: Data, target: Target, seed: int = 0) -> tuple[sim.Outcome, int, int]:
    """(what the simulation gives, bundles, rounds) with a circuit."""
    total, a_round, rounds = _rounds(data, circuit.rows, target)
    spent = costs(circuit, data.weights, target)
    if data.proved < data.rows:  # rows that are not drawn are inferred all the same
        spent = replace(spent, infer=spent.infer * data.rows / max(1, data.proved))
    provers = target.children * (target.ranks - target.first)
    whole = max(MOST_BUNDLES, 6 * provers)
    simulated = min(total, max(1, whole // a_round) * a_round)
    outcome = sim.simulate(simulated, a_round, spent, plant(target), seed)
    if simulated < total:
        outcome.seconds += (total - simulated) * outcome.half / max(1, simulated // 2)
        outcome.bundles = total
    return outcome, total, rounds


def predict(data: Data, circuits: Sequence[Circuit], target: Target, seed: int = 0) -> Forecast:
    """A forecast for a job of this size with one of these circuits. The same seed gives the same forecast.

    Raises EnvironmentFault where none of the circuits fits.
    """
    circuit = choose(circuits, data, target)
    outcome, bundles, rounds = rounds_of(circuit, data, target, seed)
    measured, spent = circuit.measured, costs(circuit, data.weights, target)
    key = float(measured["key_bytes"])
    crowding = max(1.0, min(target.ranks_per_node, target.ranks) / target.node_cores)
    envelopes = bundles * spent.envelope_bytes
    results = envelopes + data.rows * (data.row_bytes + 12 * circuit.outputs + 38)
    journal = envelopes + bundles * (500 + circuit.rows * (20 * circuit.outputs + 26))
    hops = math.ceil(math.log2(target.nodes)) if target.nodes > 1 else 0
    # A run that hides its weights makes its circuit itself; what finding its numbers takes beside was not measured.
    registering = sum(measured[f"{part}_seconds"] for part in ("setup", "compile", "prove", "verify")) if circuit.hides_weights else 0.0
    stages = {
        "start": target.start_s + START_RANK_S * crowding / target.core_speed,
        "circuit": (START_S + registering) / target.core_speed + key / DIGEST_RATE,
        "keys to nodes": key * min(2, hops) / target.link + key / target.disk * (hops > 0) + key / DIGEST_RATE * crowding,
        "rounds": outcome.seconds,
        "results": END_S / target.core_speed + (results + journal) / min(target.disk, WRITE_RATE),
    }
    wall = sum(stages.values())
    provers = target.children * (target.ranks - target.first)
    open_rows = min(2, rounds) * _round_rows(data, circuit.rows, target)
    memory_rank = RANK_BYTES + target.children * measured["prove_peak_bytes"]
    memory_root = (RANK_BYTES + target.verifiers * VERIFIER_BYTES + data.rows * (TABLE_BYTES + 8 * circuit.outputs)
                   + open_rows * (data.row_bytes + 4 * circuit.outputs + 20))
    if target.first == 0:
        memory_root += target.children * measured["prove_peak_bytes"]
    return Forecast(
        target=target, circuit_id=circuit.circuit_id, rows_per_proof=circuit.rows, rows=data.rows, bundles=bundles,
        rounds=rounds, stages=stages, wall=wall, ask=wall + max(LEAST_SPARE_S, SPARE * wall), provers=provers,
        outcome=outcome, memory_rank=memory_rank, memory_root=memory_root, key_bytes=key, results_bytes=results,
        journal_bytes=journal, limits=limits(circuit, data, target), assumptions=_assumptions(circuit, data, target),
    )


def limits(circuit: Circuit, data: Data, target: Target) -> tuple[Limit, ...]:
    """What keeps more ranks from helping, the first to bind first; ranks as on the target, cores and all."""
    spent = costs(circuit, data.weights, target)
    rank_rate = target.children / (spent.prove + spent.infer)  # bundles a second of a rank
    most = max(rows_of_a_round(data.row_bytes), WIDE_BYTES // data.row_bytes)
    a_round = most / circuit.rows
    per_tick = 1 / sim.TICK_S
    # A rank more adds its bundles' cost and its part of every tick to rank 0's one thread.
    thread = (1 - spent.root_tick * per_tick) / (spent.root_bundle * rank_rate + spent.root_rank * per_tick)
    found = [
        Limit("rank 0's thread", thread, f"{spent.root_bundle * 1e3:.2g} ms a bundle and "
              f"{spent.root_rank * 1e6:.2g} us a rank and tick, on one core"),
        Limit("verification", target.verify_cores / spent.verify / rank_rate,
              f"{spent.verify * 1e3:.3g} CPU ms a proof on the {target.verifiers} cores of rank 0's node"
              + (f", which {target.provers_beside} provers share" if target.provers_beside else "")
              + f"; {target.ranks} ranks need {math.ceil(spent.verify * rank_rate * target.ranks)} cores of a node of its own "
              "(--root-cores)"),
        Limit("gathers", target.link / (spent.envelope_bytes + spent.order_bytes) / rank_rate,
              f"{spent.envelope_bytes + spent.order_bytes:.0f} bytes a bundle through rank 0's link"),
        Limit("HDF5 and journal", target.disk / (2 * spent.envelope_bytes) / rank_rate,
              "every envelope goes to the journal and to the file"),
        Limit("rows in two rounds", 2 * a_round / target.children,
              f"{most} rows a round are {a_round:.0f} bundles, and two rounds are open"),
        Limit("rows of the job", data.proved / circuit.rows / target.children,
              f"{data.proved} rows are {math.ceil(data.proved / circuit.rows)} bundles of {circuit.rows}"),
    ]
    return tuple(sorted(found, key=lambda limit: limit.ranks))


def _assumptions(circuit: Circuit, data: Data, target: Target) -> tuple[str, ...]:
    m = circuit.measured
    return (
        f"circuit {circuit.circuit_id[:16]}, proved on this machine: {circuit.rows} rows in "
        f"{m['prove_cpu_seconds']:.1f} CPU s; a run may plan another one for so many ranks",
        f"a core of the target does {target.core_speed:g} times the work of one of this machine (--core-speed)",
        f"{min(target.ranks_per_node, target.ranks)} ranks a node, {target.node_cores} cores a node; network "
        f"{target.link / 1e9:g} GB/s and {target.latency * 1e6:g} us, files {target.disk / 1e9:g} GB/s",
        f"inference as of {data.weights} weights used once a row on {target.device.name} at "
        f"{target.device.flops / 1e9:g} GFLOP/s; proofs run on the host's cores whatever the device",
        f"ranks' speeds differ by {100 * target.jitter:g} %, {100 * target.slow:g} % of the ranks run at half speed, a rank is "
        f"lost every {target.years:g} years of its own (ULFM: the others go on)",
        "the circuit and its keys are in the cache of rank 0's machine",
    )


def curve(data: Data, circuits: Sequence[Circuit], target: Target, seed: int = 0,
          most: int = 4096) -> list[tuple[int, sim.Outcome, str]]:
    """(P, outcome of the rounds, what binds first) for P = 2, 4, 8 ... ``most`` ranks of this kind."""
    found, p = [], 2
    while p <= most:
        there = replace(target, ranks=p)
        circuit = choose(circuits, data, there)
        found.append((p, rounds_of(circuit, data, there, seed)[0], limits(circuit, data, there)[0].name))
        p *= 2
    return found


def stops_at(points: Sequence[tuple[int, sim.Outcome, str]]) -> int | None:
    """The first P of a curve at which a rank brings less than EFFICIENT of what one brings at its best."""
    rates = [(p, o.bundles / o.seconds / p) for p, o, _ in points if o.seconds > 0]
    best = max((rate for _, rate in rates), default=0.0)
    return next((p for p, rate in rates if rate < EFFICIENT * best), None)
