"""The run, as one story that every rank tells: rank 0 aggregates, the others work.

 1. Join the world of ranks; refuse separate programs.
 2. Rank 0 reads and checks the job, the data and the model's files.
 3. Roll call: machines, devices, weights in the split.
 4. Everybody binds its device and builds the model, jitted at one static batch.
 5. Rank 0 prepares the circuit (or takes it from the cache) and checks it on sample rows; so it does a wider
    one for the rows that the first cannot prove (``circuits.py``).
 6. The circuits go to every node, once; every rank checks its digests.
 7. Ticks: rows out, outputs in, bundles proved, proofs verified, failures given to others.
 8. Rank 0 combines what is verified and writes the results file.
 9. Everybody leaves with rank 0's exit status.

A stage that fails on one rank fails on all (``together``); whatever else goes wrong
ends the job by MPI_Abort, so that no rank waits for one that has left.

What only rank 0 needs is imported where it needs it: the others are at their first row a quarter of a second
sooner, and rank 0 imports most of it while they compile the model.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from enclaveml.capacity import device_capacity
from enclaveml.comm import PATIENCE_S, RankLost, World
from enclaveml.distribute import distribute_all
from enclaveml.errors import EnclaveError, Fault, JobError
from enclaveml.exchange import STATS, Exchange
from enclaveml.log import setup
from enclaveml.loop import Loop, leave
from enclaveml.options import RunOptions
from enclaveml.provers import LazyProver
from enclaveml.rollcall import call, threads_of
from enclaveml.roster import Member
from enclaveml.round_size import rows_of_a_round
from enclaveml.signals import StopRequests, Terminated
from enclaveml.together import describe, is_agreed, together
from enclaveml.watchdog import Watchdog
from enclaveml.worker import Worker
from enclaveml.zk.interface import Circuit
from enclaveml.zk.systems import system_of

if TYPE_CHECKING:
    from enclaveml.aggregator import Aggregator
    from enclaveml.datasets import Dataset
    from enclaveml.finish import Finish
    from enclaveml.heartbeat import Heartbeat
    from enclaveml.inference import Inference, InferenceOnDemand
    from enclaveml.job import JobSpec
    from enclaveml.models import Model
    from enclaveml.progress import Progress
    from enclaveml.zk.batch.openings import Openings
    from enclaveml.zk.ezkl.budget import Budget

log = logging.getLogger(__name__)

# What the other ranks wait for rank 0 to prepare a circuit, or to write the results, in
# seconds. Set-up and SRS have limits of their own (an hour each) well below it.
PREPARE_S = 4 * 3600.0


@dataclass(frozen=True)
class Brief:
    """What every rank needs of the job; sent as JSON."""

    job_id: str
    row_shape: tuple[int, ...]
    dtype: str
    parts: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]
    coverage: float


def run(options: RunOptions, watchdog: Watchdog) -> int:
    """Run a job on the ranks of this world. Returns the exit status (README, "Exit status")."""
    world = World.start()
    watchdog.disarm() if world.size > 1 else watchdog.alone()
    setup(world.rank, world.host)
    stop = StopRequests()
    story = _Story(world, options, stop, watchdog)
    try:
        code = story.tell()
    except RankLost as error:
        print(f"enclaveml: rank {world.rank} ({world.host}): a rank died before the first round: {error}",
              file=sys.stderr, flush=True)
        world.abort(75)
        raise
    except Terminated as error:
        story.close()
        log.error("%s: ended; the job can be resumed", error)
        sys.stderr.flush()
        world.abort(error.exit_code)
        raise
    except EnclaveError as error:
        story.close()
        if not is_agreed(error):
            print(f"enclaveml: rank {world.rank} ({world.host}): {describe(error)}", file=sys.stderr, flush=True)
            world.abort(error.exit_code)
        if world.is_root:
            log.error("failed (exit status %d)", error.exit_code)  # the command line says why
        leave(world, watchdog, story.lost, error.exit_code)
        raise
    except Exception as error:
        print(f"enclaveml: rank {world.rank} ({world.host}):\n{describe(error)}", file=sys.stderr, flush=True)
        if not is_agreed(error):
            world.abort(1)
        leave(world, watchdog, story.lost, 1)
        raise
    return leave(world, watchdog, story.lost, code)


class _Story:
    """The state of one run on one rank, and the stages in the order in which they are told."""

    def __init__(self, world: World, options: RunOptions, stop: StopRequests, watchdog: Watchdog) -> None:
        self.world, self.options, self.stop, self.watchdog = world, options, stop, watchdog
        self.lost = False
        self._device_gb = 0.0
        self._closing: list[object] = []

    def tell(self) -> int:
        """All stages. Returns the exit status."""
        world = self.world
        job, dataset, package = None, None, b""
        done = np.zeros(1, np.int64)
        with together(world, "reading the job"):
            done[0] = -1
            if world.is_root:
                job = self._read()
                if self.options.resume:
                    done[0] = self._done_before(job)
                if done[0] < 0:
                    dataset, package = self._open(job)
        if world.bcast_array(done, "whether there is anything to do")[0] >= 0:
            return int(done[0])

        members = call(world, job)
        me = members[world.rank]
        brief = self._brief(job, dataset)
        package = world.bcast_bytes(package, "Bcast of the model")
        with together(world, "building the model"):
            model, infer = self._build(me, members, brief, package, job)
        self._tell_devices(members, job)
        world.patience_s = PREPARE_S
        with together(world, "preparing the circuit"):
            if world.is_root:
                circuits, model_hash = self._prepare(job, dataset, model, members)
                self._check_hash(job, model_hash)
                if circuits:
                    self._remember(package, brief, circuits[0])
            else:
                circuits = ()
        world.patience_s = PATIENCE_S
        local = distribute_all(world, circuits)
        self._closing += local
        return self._compute(job, dataset, brief, members, model, infer, tuple(each.circuit for each in local))

    # -- 2. the job --------------------------------------------------------------

    def _read(self) -> JobSpec:
        from enclaveml.job import check_output, load_job

        job = load_job(self.options.job, self.options.overrides, self.options.output, self.options.input)
        check_output(job, self.options.resume, self.options.force)
        return job

    def _done_before(self, job: JobSpec) -> int:
        """The exit status of a job that --resume finds finished, else -1."""
        from enclaveml.finish import finished_before

        before = finished_before(job)
        return -1 if before is None else before

    def _open(self, job: JobSpec) -> tuple[Dataset, bytes]:
        from enclaveml.beacon import check_size
        from enclaveml.cluster import device_faults
        from enclaveml.model_package import package_of
        from enclaveml.preprocessing import open_rows
        from enclaveml.provenance import preprocessing, preprocessing_words

        faults = device_faults(job)
        if faults:
            raise JobError(*faults)
        dataset = open_rows(job)
        if job.proof.beacon is not None:
            row_bytes = int(np.prod(dataset.row_shape)) * dataset.dtype.itemsize
            check_size(job.where("proof.beacon"), row_bytes, dataset.rows)
        package = package_of(job)
        if named := preprocessing(vars(job.model)):
            log.info("preprocessing: %s", preprocessing_words(named))
        log.info("job %s: %d rows of shape %s, %s", job.name, dataset.rows, dataset.row_shape, dataset.dtype)
        return dataset, package.to_bytes()

    def _brief(self, job: JobSpec | None, dataset: Dataset | None) -> Brief:
        text = None
        if self.world.is_root:
            text = json.dumps({
                "job_id": f"{job.name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}",
                "row_shape": dataset.row_shape, "dtype": str(dataset.dtype),
                "parts": [part.row_shape for part in dataset.parts] if len(dataset.parts) > 1 else [],
                "types": [part.dtype for part in dataset.parts] if len(dataset.parts) > 1 else [],
                "coverage": job.proof.coverage,
            }).encode()
        sent = json.loads(self.world.bcast_bytes(text, "Bcast of the job"))
        sent["row_shape"] = tuple(sent["row_shape"])
        sent["parts"], sent["types"] = tuple(tuple(shape) for shape in sent["parts"]), tuple(sent["types"])
        return Brief(**sent)

    # -- 4. the model ------------------------------------------------------------

    def _build(self, me: Member, members: tuple[Member, ...], brief: Brief, package: bytes,
               job: JobSpec | None) -> tuple[Model, Inference | InferenceOnDemand]:
        from enclaveml.devices import bind_device

        # Rank 0 needs the model too: to export it, and to judge inconsistent rows.
        declared = me.device != "auto"
        device = bind_device(me.device if me.computes else "cpu", me.local_rank)
        me.device, self._device_gb = device.kind, device.memory_gb
        memory_gb = min(device.memory_gb, me.memory_gb) if declared else device.memory_gb

        from enclaveml.circuit_index import model_key
        from enclaveml.program_cache import kept_programs
        from enclaveml.zk.keys import cache_root

        key = model_key(package, brief.row_shape, np.dtype(brief.dtype))
        with kept_programs(cache_root(), key) if device.kind == "cpu" else contextlib.nullcontext():
            return self._infer(me, members, brief, package, job, memory_gb)

    def _infer(self, me: Member, members: tuple[Member, ...], brief: Brief, package: bytes, job: JobSpec | None,
               memory_gb: float) -> tuple[Model, Inference | InferenceOnDemand]:
        from enclaveml.inference import Inference, InferenceOnDemand
        from enclaveml.models import ModelPackage, build_model

        # Workers may share no file system with rank 0: only rank 0 looks beside the job file.
        folder = job.path.absolute().parent if job else None
        model = build_model(ModelPackage.from_bytes(package), brief.row_shape, brief.dtype, folder, brief.parts,
                            brief.types)
        if model.initialised and job:
            log.warning("model.weights is not given: the model runs with its own initial values (seed 0)")
        if not me.computes:
            return model, InferenceOnDemand(model)
        return model, Inference(model, memory=memory_gb * 1e9, most=self._rows_a_round(me, members, brief))

    def _rows_a_round(self, me: Member, members: tuple[Member, ...], brief: Brief) -> int:
        """About the rows of a round that this rank gets: a batch of more would be padded every time."""
        row_bytes = int(np.prod(brief.row_shape)) * np.dtype(brief.dtype).itemsize
        share = me.capacity / max(sum(m.capacity for m in members if m.computes), 1e-9)
        return max(1, round(rows_of_a_round(row_bytes) * min(1.0, share)))

    def _tell_devices(self, members: tuple[Member, ...], job: JobSpec | None) -> None:
        """Rank 0 learns what device each rank came up on: for the log and the file, and for the split."""
        mine = json.dumps([members[self.world.rank].device, self._device_gb]).encode()
        for member, told in zip(members, self.world.gather_bytes(mine, "the gather of devices"), strict=False):
            member.device, memory_gb = json.loads(told)
            if job and not job.cluster.ranks:
                member.capacity = device_capacity(member.device, memory_gb, member.capacity)

    # -- 5. the circuit ----------------------------------------------------------

    def _prepare(self, job: JobSpec, dataset: Dataset, model: Model,
                 members: tuple[Member, ...]) -> tuple[tuple[Circuit, ...], str]:
        """The circuits (none where nothing is proved) and the model hash ("" where nobody asks for it)."""
        if job.proof.coverage == 0:
            return (), self._exported_hash(model) if job.model.hash else ""
        from enclaveml.begin import registration_of
        from enclaveml.circuits import prepare_circuits, request_for, sample_rows

        computing = [m for m in members if m.computes]
        children = [m.children for m in computing]
        request = request_for(job, dataset.rows, min(m.memory_gb for m in computing), sum(children), max(children))
        if request.hides_weights and self.options.resume:
            request = replace(request, registration=registration_of(job))
        circuits = prepare_circuits(job, model.function, sample_rows(dataset), dataset.rows, request)
        return circuits, circuits[0].model_hash

    def _remember(self, package: bytes, brief: Brief, circuit: Circuit) -> None:
        from enclaveml.circuit_index import model_key, remember

        remember(model_key(package, brief.row_shape, np.dtype(brief.dtype)), circuit)

    def _exported_hash(self, model: Model) -> str:
        from enclaveml.zk.export import model_hash

        return model_hash(model.function)

    def _check_hash(self, job: JobSpec, found: str) -> None:
        if job.model.hash and job.model.hash != found:
            raise JobError(Fault(job.where("model.hash"), "model.hash",
                                 f"the model's hash is {found}, the job says {job.model.hash}: other weights, "
                                 f"another model file, or another version of jax2onnx"))

    # -- 7. ticks ----------------------------------------------------------------

    def _compute(self, job: JobSpec | None, dataset: Dataset | None, brief: Brief, members: tuple[Member, ...],
                 model: Model, infer: Inference, circuits: tuple[Circuit, ...]) -> int:
        world, me = self.world, members[self.world.rank]
        circuit = circuits[0] if circuits else None
        outputs = circuit.outputs if circuit else model.outputs
        exchange = Exchange(world, brief.row_shape, np.dtype(brief.dtype), outputs)
        aggregator = finish = heartbeat = prover = fallback = None
        with together(world, "starting the provers"):
            if circuit and me.computes:
                system = system_of(circuit.system)
                prover = system.prover(circuit.folder, me.children, threads_of(me, members))
                self._closing.append(prover)
                if len(circuits) > 1:
                    wide = circuits[1]
                    fallback = wide, LazyProver(lambda: system.prover(wide.folder, 1, 1))
                    self._closing.append(fallback[1])
            if world.is_root:
                aggregator, finish, heartbeat = self._aggregator(job, dataset, brief, circuits, model, members, exchange, infer)
        worker = Worker(infer, min(infer.batch, exchange.most_rows), prover, me.children, circuit,
                        me.node_id, brief.job_id, exchange.outbox, fallback)
        progress = self._progress(dataset.rows, aggregator.rows_done) if aggregator else None
        loop = Loop(world, exchange, worker, aggregator, self.stop, self.watchdog,
                    lambda: self._show(progress, heartbeat, aggregator))
        failure: Exception | None = None
        try:
            loop.run()
        except Exception as error:
            failure = error
        finally:
            if progress:
                progress.close()
        self.lost = bool(loop.lost)
        if failure is not None and not is_agreed(failure):
            if finish is not None:
                finish.fail(failure)
            raise failure
        code = self._write(finish, failure)
        if failure is not None:
            raise failure
        self.close()
        return code

    # -- 8. the file -------------------------------------------------------------

    def _write(self, finish: Finish | None, failure: Exception | None) -> int:
        """Write the results, for which all ranks wait: one that left MPI meanwhile could end the job under it."""
        code = 0
        self.world.patience_s = PREPARE_S
        try:
            with together(self.world, "writing the results"):
                if finish is not None and failure is not None:
                    finish.fail(failure)
                elif finish is not None:
                    status, code, message = finish.outcome()
                    finish.write(status, code, message)
        except RankLost:
            # Rank 0 has written by now, if it is alive; a worker cannot tell, and does not claim success.
            self.lost = True
            return code if finish is not None else 75
        return code

    def _aggregator(self, job: JobSpec, dataset: Dataset, brief: Brief, circuits: tuple[Circuit, ...], model: Model,
                    members: tuple[Member, ...], exchange: Exchange,
                    infer: Inference) -> tuple[Aggregator, Finish, Heartbeat]:
        from enclaveml.aggregator import Aggregator
        from enclaveml.begin import begin
        from enclaveml.circuits import Circuits
        from enclaveml.finish import Finish
        from enclaveml.heartbeat import Heartbeat
        from enclaveml.zk.batch.files import MODEL_HASH
        from enclaveml.zk.batch.openings import Openings, hidden_by
        from enclaveml.zk.ezkl.budget import budget_of, check_undisclosed

        budget: Budget | Openings | None = None
        hides_weights = bool(circuits) and circuits[0].hides_weights
        if hides_weights:
            check_undisclosed((circuits[0].folder / MODEL_HASH).read_text(encoding="ascii"))
            budget = Openings(circuits[0])
        elif circuits:
            # One count for a model, whichever of its circuits a proof is of.
            budget = budget_of(circuits, job.proof.private_weights)
            if circuits[0].caution:  # such proofs show the weights
                if registered := hidden_by(circuits[0].model_hash):
                    log.warning("proof.private_weights is false: these proofs show the weights of this model, which %d registration%s of this cache "
                                "hide%s (%s): who sees both learns what those were to hide", len(registered), "s" * (len(registered) > 1),
                                "s" * (len(registered) == 1), ", ".join(each[:16] for each in registered))
                budget.disclose()
        row_bytes = int(np.prod(dataset.row_shape)) * dataset.dtype.itemsize
        journal, before, key = begin(job, self.options, dataset, circuits[0] if circuits else None, model, members,
                                     self.world.library)
        self._closing.append(journal)
        mine = Circuits(circuits, lambda circuit: system_of(circuit.system).verifier(circuit, max(1, int(members[0].cores))), journal,
                        before.circuit_ids if before else ())
        self._closing.append(mine)
        aggregator = Aggregator(job, dataset.rows, dataset.read, mine, exchange.outputs,
                                {m.rank: m for m in members}, exchange.order_boxes, journal, infer, row_bytes,
                                brief.job_id, spend=budget.spend if budget else lambda: None, input_key=key)
        if before is not None:
            if isinstance(budget, Openings):
                budget.reach(sum(count["proofs"] for count in before.counts.values()))
            aggregator.go_on(before)
        if budget and job.proof.private_weights:
            rows = aggregator.replicas * job.proof.coverage * (dataset.rows - aggregator.rows_done)
            budget.expect(int(np.ceil(rows / circuits[0].rows)))
        finish = Finish(job, self.options.json, dataset, aggregator, journal, exchange.stats)
        return aggregator, finish, Heartbeat(journal, STATS, exchange.stats)

    def _progress(self, rows: int, done: int) -> Progress:
        from enclaveml.progress import Progress

        return Progress(rows, done)

    def _show(self, progress: Progress | None, heartbeat: Heartbeat | None, aggregator: Aggregator | None) -> None:
        if progress and heartbeat and aggregator:
            progress.update(aggregator.rows_done, aggregator.proofs_verified, aggregator.bundles_rejected)
            heartbeat.tick()

    def close(self) -> None:
        """End the children and remove this rank's scratch, the latest made first; keeps every result."""
        while self._closing:
            self._closing.pop().close()
