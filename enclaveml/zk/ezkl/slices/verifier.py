"""Rank 0's verifier of a circuit in slices: every slice's proof by its own key, and every link.

Where the slices of a bundle are from several ranks and do not hold together, it finds out whose are wrong (:meth:`_faults`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from enclaveml.errors import FormatError
from enclaveml.zk.ezkl import document, field, statement
from enclaveml.zk.ezkl.bench import input_document
from enclaveml.zk.ezkl.files import COMPILED, SETTINGS, SRS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.slices.format import Slice, check_links, parts_of, slices_of
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.ezkl.verifier import TIMEOUT_S, EzklVerifier
from enclaveml.zk.interface import REJECTED, Circuit, Proof, Verdict
from enclaveml.zk.pool import Steps
from enclaveml.zk.process import Call
from enclaveml.zk.verdict import twice

#: Longest time (s) for the witness of a slice, which is made only where two ranks' slices do not meet.
WITNESS_S = 600.0


class SlicesVerifier(EzklVerifier):
    """See ``interface.SlicesVerifierProtocol``."""

    def __init__(self, circuit: Circuit, processes: int) -> None:
        self._slices = slices_of(circuit)
        super().__init__(circuit, processes)

    def submit_joined(self, task: int, rows: np.ndarray, proof: Proof, float_outputs: np.ndarray) -> None:
        """See ``interface.SlicesVerifierProtocol``."""
        self._serial += 1
        self._pool.submit(self._joined(task, np.array(rows), proof, np.array(float_outputs), self._serial))

    def _joined(self, task: int, rows: np.ndarray, proof: Proof, floats: np.ndarray, serial: int) -> Steps[Verdict]:
        """As ``_steps``, and of a rejected proof which slices are why."""
        verdict = yield from self._steps(task, rows, proof, floats, serial)
        if (verdict.status != REJECTED).any():
            return verdict
        names = tuple(f"{serial}-{name}" for name in ("blame-felts", "blame-document", "blame-input", "blame-witness"))
        try:
            faults = yield from self._faults(rows, proof, names)
        except Exception:  # whatever it is, it names nobody
            faults = ()
        finally:
            self._scratch.drop(*names)
        return replace(verdict, faults=faults)

    def _files(self) -> tuple[str, ...]:
        names = (SETTINGS, VK, VERIFIER_SRS, *((SRS,) if self.circuit.inputs == "committed" else ()))
        return tuple(dict.fromkeys(each.file(name) for each in self._slices for name in names))

    def _check(self, rows: np.ndarray, proof: Proof, names: tuple[str, str]) -> Steps[np.ndarray]:
        """The proved outputs (B, D) int64 of valid and linked proofs about these rows; else an exception."""
        outputs = self._outputs(rows, proof)
        proofs = parts_of(proof.computation, self._slices)
        felts, own = yield from self._own_tie(rows, proof, self._slices[0].paths(self.circuit.folder), names[0])
        check_links(self._slices, proofs)
        for each, part in zip(self._slices, proofs, strict=True):
            problem = yield from self._problem(each, part, instances_of(each, felts, own, outputs), names[1])
            if problem:
                raise FormatError(problem)
        return outputs

    def _problem(self, each: Slice, part: bytes, instances: bytes, name: str) -> Steps[str]:
        """Why one slice's proof does not verify by its own key; "" where it does. Raises FormatError where that cannot be said."""
        packed = document.pack(instances, part)
        reply = yield from twice(self._call("verify_parts", name, packed, each.paths(self.circuit.folder)))
        where = f"verification of slice {each.number + 1} of {len(self._slices)}: "
        if reply.ended:  # rank 0's own trouble: no bundle is taken for proved by it, and no other rank's slice for wrong
            raise FormatError(where + reply.error)
        if reply.error or reply.value.get("valid") is not True:
            return where + (reply.error or "ezkl.verify returned False")
        return ""

    # -- whose fault it is -------------------------------------------------------

    def _faults(self, rows: np.ndarray, proof: Proof, names: tuple[str, ...]) -> Steps[tuple[int, ...]]:
        """The slices (from 0) of a rejected proof that no honest rank can have made so, of those rows.

        A slice's proof is wrong that does not verify: the first about rank 0's rows, the last with the outputs that came with it,
        those between by themselves. So is one that commits to its inputs or outputs otherwise than rank 0 does, which
        runs the chain on its own rows up to there: a valid proof may commit to the right values in a column whose unused
        cells are filled otherwise, and would else make the honest slice beside it look wrong.
        """
        parts, last, found = parts_of(proof.computation, self._slices), len(self._slices) - 1, set()
        folder = self.circuit.folder
        try:
            felts, own = yield from self._own_tie(rows, proof, self._slices[0].paths(folder), names[0])
        except FormatError:
            felts, own = b"", b""
            found.add(0)
        for each, part in zip(self._slices, parts, strict=True):
            if each.number == last and np.abs(proof.outputs.astype(np.float64)).max(initial=0) > field.MAX_MAGNITUDE:
                found.add(last)
            elif each.number or not found:
                problem = yield from self._problem(each, part, instances_of(each, felts, own, proof.outputs), names[1])
                if problem:
                    found.add(each.number)
        broken = [i for i in range(last) if self._slices[i].output_commitment(parts[i]) != self._slices[i + 1].input_commitment(parts[i + 1])]
        if broken:
            middle = yield from self._middle(rows, broken[-1], names)
            for i in broken:
                if self._slices[i].output_commitment(parts[i]) != middle[i]:
                    found.add(i)
                if self._slices[i + 1].input_commitment(parts[i + 1]) != middle[i]:
                    found.add(i + 1)
        return tuple(sorted(found))

    def _middle(self, rows: np.ndarray, end: int, names: tuple[str, ...]) -> Steps[list[bytes]]:
        """Rank 0's own commitments to what the slices up to ``end`` give for its rows. Raises FormatError where it cannot make them."""
        circuit = self.circuit
        needed = [self._slices[i].file(COMPILED) for i in range(end + 1)]
        circuit.check_files((*needed, SRS))  # read at no other time
        values = statement.input_felts(rows, circuit.rows, circuit.input_scale)
        found: list[bytes] = []
        for i in range(end + 1):
            made = yield from twice(Call(
                "witness",
                {"data": self._scratch.write(names[2], input_document(values)), "circuit": self._slices[i].paths(circuit.folder)[COMPILED],
                 "output": str(self._scratch.file(names[3]))},
                WITNESS_S,
            ))
            if made.error:
                raise FormatError(f"witness of slice {i + 1}: {made.error}")
            values = made.block
            call = tie_call("committed", values, self._slices[i + 1].paths(circuit.folder), self._scratch, names[0], TIMEOUT_S)
            assert call is not None
            tied = yield from twice(call)
            if tied.error:
                raise FormatError(f"{call.name} after slice {i + 1}: {tied.error}")
            found.append(tie_bytes("committed", tied.value))
        return found


def instances_of(each: Slice, felts: bytes, digest: bytes, outputs: np.ndarray) -> bytes:
    """A slice's public instances, field elements of 32 bytes: of the bundle's inputs, digest and outputs what this slice shows."""
    empty = np.empty((0, 0), np.int64)
    return statement.proof_parts(
        each.inputs, bytes(statement.COMMITMENT_BYTES), outputs if each.last else empty,
        felts=felts, digest=digest, commitment=bytes(statement.COMMITMENT_BYTES),
    )[0]
