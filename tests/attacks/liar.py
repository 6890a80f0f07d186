"""A rank that lies: ``python liar.py ATTACK[=ARGUMENT] run JOB`` patches its process, then runs enclaveml.

Started under mpirun beside honest ranks. Each attack is a function here that replaces parts of the
package in this process only; the package has no hook for any of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mutations import MUTATIONS

from enclaveml import cli, exchange, models
from enclaveml.envelope import decode, encode
from enclaveml.exchange import Outbox, Report
from enclaveml.sharing import Sharing
from enclaveml.worker import Worker
from enclaveml.zk.batch.prover import BatchChildProver
from enclaveml.zk.ezkl import prover as prover_module
from enclaveml.zk.ezkl import system
from enclaveml.zk.ezkl.prover import EzklProver
from enclaveml.zk.ezkl.slices.format import parts_of, slices_of
from enclaveml.zk.ezkl.slices.prover import SlicesProver
from enclaveml.zk.interface import PRIMARY, CircuitRequest, Proof, ProofResult

ATTACKS: dict[str, Callable[[str], None]] = {}


def attack(function: Callable[[str], None]) -> Callable[[str], None]:
    """Register an attack under its function's name; it gets what stands after ``=`` on the command line."""
    ATTACKS[function.__name__] = function
    return function


def instead(owner: Any, name: str) -> Callable[[Callable], None]:
    """Replace ``owner.name`` by the decorated function, which gets the original as its first argument."""
    original = getattr(owner, name)

    def put(new: Callable) -> None:
        setattr(owner, name, lambda *args, **kwargs: new(original, *args, **kwargs))
    return put


def say(change: Callable[[np.ndarray, float], np.ndarray]) -> None:
    """Report float outputs (n, D) changed by ``change(outputs, tolerance)``, and stand by them from then on."""
    @instead(Worker, "infer")
    def infer(original, self, rows, data):
        return change(original(self, rows, data).copy(), self._circuit.tolerance).astype(np.float32)


def seal(change: Callable[..., tuple[np.ndarray, Proof]]) -> None:
    """Seal envelopes over ``change(worker, data, outputs, proof) -> outputs, proof`` instead."""
    @instead(Worker, "seal")
    def sealed(original, self, meta, rows, data, outputs, proof):
        return original(self, meta, rows, data, *change(self, data, outputs, proof))


def spoil(change: Callable[[Any], Any]) -> None:
    """Send envelopes with fields changed by ``change(envelope)``."""
    @instead(Worker, "seal")
    def sealed(original, self, *args):
        return encode(change(decode(original(self, *args))))


# -- another model ---------------------------------------------------------------

def _other_weights() -> list[Any]:
    """Build the model with other weights; the list will hold it."""
    built: list[Any] = []

    @instead(models, "build_model")
    def build(original, *args):
        model = original(*args)
        built.append(replace(model, state={name: array * 0.75 for name, array in model.state.items()}))
        return built[0]
    return built


def _own_circuit() -> list[Any]:
    """Prove with a circuit of our own for those weights; the list will hold it."""
    built, circuits = _other_weights(), []

    @instead(system.EzklSystem, "prover")
    def prover(original, self, folder, *args):
        there = prover_module.load_circuit(folder)
        rows = np.random.default_rng(0).uniform(-1, 1, (64, *there.row_shape)).astype(np.float32)
        request = CircuitRequest(inputs=there.inputs, tolerance=there.tolerance, rows_per_proof=there.rows,
                                 scale=there.input_scale, expected_rows=64)
        circuits.append(self.prepare(built[0].function, rows, request))
        return original(self, circuits[0].folder, *args)
    return circuits


@attack
def other_weights(_: str) -> None:
    """Outputs of other weights, beside honest proofs."""
    _other_weights()


@attack
def own_circuit(_: str) -> None:
    """Outputs of other weights, and proofs of just these, labelled as ordered."""
    _own_circuit()


@attack
def own_circuit_and_labels(_: str) -> None:
    """The same, under its own model_hash and circuit_id."""
    circuits = _own_circuit()
    spoil(lambda e: replace(e, model_hash=bytes.fromhex(circuits[0].model_hash),
                            circuit_id=bytes.fromhex(circuits[0].circuit_id)))


@attack
def own_circuit_key_sent_along(_: str) -> None:
    """The same labelled as ordered, with the settings and key to verify it sent in the report."""
    circuits = _own_circuit()

    @instead(Outbox, "put")
    def put(original, self, item):
        if isinstance(item, Report) and item.kind == "envelope":
            folder = circuits[0].folder
            item = replace(item, meta={**item.meta, "settings": (folder / prover_module.SETTINGS).read_text(),
                                       "vk": (folder / prover_module.VK).read_bytes().hex()})
        original(self, item)


# -- the fallback circuit --------------------------------------------------------

def _claim_overflow() -> None:
    """Say of all rows of each bundle at the primary circuit that they leave its range, without trying."""
    claims: list[ProofResult] = []

    @instead(EzklProver, "submit")
    def submit(original, self, task, rows, timeout_s, *order):
        if self.circuit.role != PRIMARY:
            return original(self, task, rows, timeout_s, *order)
        claims.append(ProofResult(task, None, "witness: a value is out of range", 0.0, 0.0, tuple(range(len(rows)))))

    @instead(EzklProver, "poll")
    def poll(original, self):
        mine = claims[:] if self.circuit.role == PRIMARY else []
        del claims[: len(mine)]
        return mine + original(self)


@attack
def overflow_claimed(_: str) -> None:
    """True outputs and proofs, but only at the fallback."""
    _claim_overflow()


@attack
def overflow_claimed_of_false_outputs(_: str) -> None:
    """Outputs beyond the tolerance, with the wider circuit for an excuse."""
    say(lambda outputs, tolerance: outputs + 3 * tolerance)
    _claim_overflow()


@attack
def other_circuit(_: str) -> None:
    """The primary circuit's proof where one at the fallback was ordered, labelled and cut as that one's."""
    primary: list[EzklProver] = []

    @instead(EzklProver, "__init__")
    def made(original, self, *args):
        original(self, *args)
        if self.circuit.role == PRIMARY:
            primary.append(self)

    @instead(EzklProver, "submit")
    def submit(original, self, task, rows, timeout_s, *order):
        original(primary[0], task, rows, timeout_s, *order)

    _claim_overflow()  # of orders at the primary, which therefore are those at the fallback alone

    @instead(Worker, "seal")
    def sealed(original, self, meta, rows, data, outputs, proof):
        circuit, _ = self._at(meta)
        return original(self, meta, rows, data, outputs, replace(proof, outputs=proof.outputs[: circuit.rows]))


@attack
def key_appended(_: str) -> None:
    """An honest envelope with the settings behind its end."""
    @instead(Worker, "seal")
    def sealed(original, self, *args):
        return original(self, *args) + (self._circuit.folder / prover_module.SETTINGS).read_bytes()


# -- other rows ------------------------------------------------------------------

@attack
def wrong_input(_: str) -> None:
    """Outputs and proofs of other rows, which agree with each other."""
    @instead(Worker, "infer")
    def infer(original, self, rows, data):
        return original(self, rows, data + np.float32(0.25))

    @instead(EzklProver, "submit")
    def submit(original, self, task, rows, timeout_s, *order):
        original(self, task, rows + np.float32(0.25), timeout_s, *order)


@attack
def wrong_input_right_commitment(_: str) -> None:
    """The same, with the commitment of the right rows in the commitment section and in the proof."""
    wrong_input("")
    right: dict[int, Proof] = {}
    wrong: list[ProofResult] = []

    # Each bundle is proved twice: task n of the wrong rows, task -n of the right ones, for their commitment.
    @instead(EzklProver, "submit")
    def submit(original, self, task, rows, timeout_s, *order):
        original(self, task, rows, timeout_s, *order)
        original(self, -task, rows - np.float32(0.25), timeout_s, *order)

    @instead(EzklProver, "poll")
    def poll(original, self):
        for result in original(self):
            if result.task < 0:
                right[-result.task] = result.proof
            else:
                wrong.append(result)
        ready = [r for r in wrong if r.task in right]
        wrong[:] = [r for r in wrong if r.task not in right]
        return [replace(r, proof=_with_commitment(r.proof, right[r.task].commitment)) for r in ready]


def _with_commitment(proof: Proof, commitment: bytes) -> Proof:
    return replace(proof, commitment=commitment, computation=commitment + proof.computation[len(commitment):])


@attack
def another_bundle(_: str) -> None:
    """One honest bundle; its outputs and its proof are then given for the next ones too."""
    first: list[Proof] = []

    def again(worker, data, outputs, proof):
        first.append(proof)
        return outputs, first[0]
    say(lambda outputs, tolerance: outputs[np.arange(len(outputs)) % 4])
    seal(again)


def _later_slice_of_the_first(link: Callable[[bytes, bytes], bytes]) -> None:
    """One honest bundle; each further one is the first slice of its own and the second of that, as ``link`` joins them."""
    first: list[Proof] = []

    def joined(worker, data, outputs, proof):
        mine, theirs = (parts_of(each.computation, slices_of(worker._circuit)) for each in (proof, *first, proof)[:2])
        first.append(proof)
        if len(first) == 1:
            return outputs, proof
        return outputs, replace(proof, computation=mine[0] + link(mine[0], theirs[1]), outputs=first[0].outputs)
    seal(joined)


@attack
def mismatched_middle(_: str) -> None:
    """Two valid slices' proofs, of two bundles."""
    _later_slice_of_the_first(lambda mine, theirs: theirs)


@attack
def link_copied(_: str) -> None:
    """The same, the second given the first one's commitment, so that the bytes agree."""
    _later_slice_of_the_first(lambda mine, theirs: mine[:64] + theirs[64:])


@attack
def replay(earlier: str) -> None:
    """Proofs of the same rows from an earlier run's file, and no proving at all."""
    from enclaveml.results_reader import read_results

    with read_results(Path(earlier)) as results:
        kept = [decode(results.proof(i).envelope) for i in range(results.n_proofs)
                if (results.proof(i).status == 1).all()]
    proofs = {e.rows.tobytes(): Proof(e.computation, e.commitment, e.consistency.proved) for e in kept}
    ready: list[ProofResult] = []
    orders: dict[int, np.ndarray] = {}

    @instead(Worker, "take")
    def take(original, self, order):
        if order.kind == "prove":
            orders[int(order.meta["bundle"])] = order.rows
        original(self, order)

    @instead(EzklProver, "submit")
    def submit(original, self, task, rows, timeout_s, *order):
        ready.append(ProofResult(task, proofs[orders[task].tobytes()], "", 0.0, 0.0))

    @instead(EzklProver, "poll")
    def poll(original, self):
        found = list(ready)
        ready.clear()
        return found


@attack
def for_another_order(_: str) -> None:
    """With system batch: proofs that are true of these rows, made for another order of them (an earlier attempt, another job)."""
    @instead(BatchChildProver, "submit")
    def submit(original, self, task, rows, timeout_s, nonce, input_key):
        original(self, task, rows, timeout_s, nonce[:-1] + bytes([nonce[-1] ^ 1]), input_key)


# -- other outputs ---------------------------------------------------------------

@attack
def outputs_altered_in_the_envelope(_: str) -> None:
    """Float outputs moved by a third of the tolerance after they were gathered."""
    seal(lambda worker, data, outputs, proof: (outputs + np.float32(worker._circuit.tolerance / 3), proof))


@attack
def outputs_within_tolerance(_: str) -> None:
    """Float outputs moved by a third of the tolerance before they are gathered."""
    say(lambda outputs, tolerance: outputs + tolerance / 3)


@attack
def outputs_beyond_tolerance(_: str) -> None:
    """One float output of each row moved by three tolerances."""
    say(lambda outputs, tolerance: outputs + 3 * tolerance * np.eye(outputs.shape[1])[0])


@attack
def argmax_flipped(_: str) -> None:
    """The second largest output said to be the largest, by more than the tolerance."""
    def flip(outputs, tolerance):
        first, second = np.argsort(outputs, axis=1)[:, -1], np.argsort(outputs, axis=1)[:, -2]
        rows = np.arange(len(outputs))
        outputs[rows, second] = outputs[rows, first] + 4 * tolerance
        return outputs
    say(flip)


@attack
def argmax_flipped_within_tolerance(_: str) -> None:
    """Where the two largest outputs are nearly tied, both moved a little, so that the other one leads."""
    def flip(outputs, tolerance):
        first, second = np.argsort(outputs, axis=1)[:, -1], np.argsort(outputs, axis=1)[:, -2]
        rows = np.arange(len(outputs))
        tied = outputs[rows, first] - outputs[rows, second] < 0.5 * tolerance
        outputs[rows[tied], first[tied]] -= 0.3 * tolerance
        outputs[rows[tied], second[tied]] += 0.3 * tolerance
        return outputs
    say(flip)


@attack
def nan(_: str) -> None:
    """NaN in one output of each row."""
    say(lambda outputs, tolerance: np.where(np.eye(outputs.shape[1])[0] == 1, np.nan, outputs))


@attack
def infinity(_: str) -> None:
    """Infinity in one output of each row."""
    say(lambda outputs, tolerance: np.where(np.eye(outputs.shape[1])[0] == 1, -np.inf, outputs))


@attack
def proved_outputs_altered(_: str) -> None:
    """The smallest change of one proved output."""
    seal(lambda worker, data, outputs, proof: (outputs, _moved(proof, 1)))


@attack
def all_outputs_altered(_: str) -> None:
    """Float outputs moved before they are gathered, and the proved ones by just as much."""
    say(lambda outputs, tolerance: outputs + 3 * tolerance)

    def follow(worker, data, outputs, proof):
        return outputs, _moved(proof, round(3 * worker._circuit.tolerance * 2**worker._circuit.output_scale), True)
    seal(follow)


def _moved(proof: Proof, by: int, everywhere: bool = False) -> Proof:
    moved = proof.outputs.copy()
    moved[slice(None) if everywhere else (0, 0)] += by
    return replace(proof, outputs=moved)


# -- other instances and shapes --------------------------------------------------

@attack
def extra_instance(_: str) -> None:
    """One public value more in the witness before it is proved."""
    @instead(EzklProver, "_prove")
    def prove(original, self, *args) -> Iterator[Any]:
        steps = original(self, *args)
        reply = None
        while True:
            try:
                call = steps.send(reply)
            except StopIteration as end:
                return end.value
            if call.name == "prove":
                path = Path(call.args["witness"])
                witness = json.loads(path.read_text())
                witness["outputs"][0].append("07" + "00" * 31)
                path.write_text(json.dumps(witness))
            reply = yield call


@attack
def extra_proved_row(_: str) -> None:
    """A proved row more than the circuit has."""
    def longer(envelope):
        c = envelope.consistency
        return replace(envelope, consistency=replace(c, proved=np.concatenate([c.proved, c.proved[-1:]])))
    spoil(longer)


@attack
def extra_output(_: str) -> None:
    """A column more in the float and in the proved outputs."""
    def wider(envelope):
        c = envelope.consistency
        return replace(envelope, outputs=np.pad(envelope.outputs, ((0, 0), (0, 1))),
                       consistency=replace(c, proved=np.pad(c.proved, ((0, 0), (0, 1)))))
    spoil(wider)


@attack
def row_left_out(_: str) -> None:
    """A bundle about one row less than was ordered."""
    spoil(lambda e: replace(e, rows=e.rows[:-1], outputs=e.outputs[:-1]))


# -- other bytes -----------------------------------------------------------------

@attack
def mutations(names: str) -> None:
    """Envelopes spoilt one by one as ``NAME,NAME,...`` say, the rest of them empty."""
    todo = names.split(",")

    @instead(Worker, "seal")
    def sealed(original, self, *args):
        return MUTATIONS[todo.pop(0) if todo else "empty"][0](original(self, *args))


# -- other reports ---------------------------------------------------------------

def reports(change: Callable[[Report], list[Report]]) -> None:
    """Put ``change(report)`` into the outbox for each report."""
    @instead(Outbox, "put")
    def put(original, self, item):
        for one in change(item) if isinstance(item, Report) else [item]:
            original(self, one)


def listed(change: Callable[[dict[str, Any]], None]) -> None:
    """Send the list of reports with ``change(entry)`` done to each envelope's entry."""
    @instead(exchange, "pack_reports")
    def pack(original, items):
        blob = original(items)
        end = 8 + int.from_bytes(blob[:8], "little")
        entries = json.loads(blob[8:end])
        for entry in entries:
            if entry["kind"] == "envelope":
                change(entry)
        text = json.dumps(entries).encode()
        return len(text).to_bytes(8, "little") + text + blob[end:]


@attack
def bundle_sent_twice(_: str) -> None:
    """Each envelope twice."""
    reports(lambda r: [r, r] if r.kind == "envelope" else [r])


@attack
def rows_not_given(_: str) -> None:
    """Outputs for the rows after one's own."""
    reports(lambda r: [replace(r, rows=r.rows + 8)] if r.kind == "outputs" else [r])


@attack
def report_claims_a_gigabyte(_: str) -> None:
    """An envelope of some kilobytes that is announced as 1 GB."""
    listed(lambda entry: entry.update(blob=1 << 30))


@attack
def report_of_an_endless_number(_: str) -> None:
    """An envelope whose length is Infinity."""
    listed(lambda entry: entry.update(blob=float("inf")))


@attack
def report_numbered_beyond_all(_: str) -> None:
    """Reports with numbers that no machine word holds."""
    listed(lambda entry: entry.update(seq=entry["seq"] + (1 << 80)))


@attack
def report_that_is_no_json(_: str) -> None:
    """Noise instead of reports."""
    @instead(exchange, "pack_reports")
    def pack(original, items):
        return np.random.default_rng(0).bytes(1000)


@attack
def statistics_that_are_no_numbers(_: str) -> None:
    """Honest work; NaN and infinity for seconds and counts."""
    Worker.stats = property(lambda self: np.array([np.nan, np.inf, -np.inf, -1.0, np.nan, np.nan, np.inf]))


@attack
def header_of_a_terabyte(_: str) -> None:
    """A header by which rank 0 would allocate 1 TB."""
    from enclaveml.comm import World

    @instead(World, "allgather_array")
    def allgather(original, self, mine, what):
        if what == "a tick's headers":
            mine = mine.copy()
            mine[:2].view(np.int64)[1] = 1 << 40
        return original(self, mine, what)


# -- silence ---------------------------------------------------------------------

@attack
def bundle_missing(_: str) -> None:
    """Never an envelope."""
    reports(lambda r: [] if r.kind == "envelope" else [r])


@attack
def outputs_missing(_: str) -> None:
    """Never outputs."""
    reports(lambda r: [] if r.kind == "outputs" else [r])


@attack
def late(seconds: str) -> None:
    """Every envelope kept for some seconds."""
    kept: list[tuple[float, Report]] = []
    put_now = Outbox.put

    @instead(Outbox, "put")
    def put(original, self, item):
        if isinstance(item, Report) and item.kind == "envelope":
            kept.append((time.monotonic() + float(seconds), item))
        else:
            original(self, item)

    @instead(Worker, "pump")
    def pump(original, self):
        original(self)
        while kept and kept[0][0] <= time.monotonic():
            put_now(self._outbox, kept.pop(0)[1])


@attack
def late_for_good(_: str) -> None:
    """Every envelope kept until rank 0 has given this rank up, then all of them sent."""
    kept: list[Report] = []
    put_now = Outbox.put

    @instead(Outbox, "put")
    def put(original, self, item):
        if isinstance(item, Report) and item.kind == "envelope":
            kept.append(item)
        else:
            original(self, item)

    @instead(Worker, "take")
    def take(original, self, order):
        original(self, order)
        if order.kind == "drain":
            for item in kept:
                put_now(self._outbox, item)


@attack
def wrong_later_slice(_: str) -> None:
    """Helping with a bundle: a valid proof of its last slice, about other rows. The whole of no bundle is ever delivered."""
    @instead(SlicesProver, "submit_backward")
    def submit_backward(original, self, task, rows, timeout_s):
        original(self, task, rows - np.float32(0.25), timeout_s)

    @instead(SlicesProver, "poll")
    def poll(original, self):
        original(self)
        return []


# -- no lie: rank 0 of most casts ------------------------------------------------

@attack
def leaves_rows_where_they_are(_: str) -> None:
    """Idle ranks are given nothing of others."""
    Sharing.step = lambda self: None


if __name__ == "__main__":
    name, _, argument = sys.argv[1].partition("=")
    ATTACKS[name](argument)
    raise SystemExit(cli.main(sys.argv[2:]))
