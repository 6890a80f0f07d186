"""Rank 0's verifier of a circuit in slices: every slice's proof by its own key, and every link."""

from __future__ import annotations

import numpy as np

from enclaveml.errors import FormatError
from enclaveml.zk.ezkl import document, statement
from enclaveml.zk.ezkl.files import SETTINGS, SRS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.slices.format import Slice, check_links, parts_of, slices_of
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.ezkl.verifier import TIMEOUT_S, EzklVerifier
from enclaveml.zk.interface import Circuit, Proof
from enclaveml.zk.pool import Steps
from enclaveml.zk.process import Call
from enclaveml.zk.verdict import twice


class SlicesVerifier(EzklVerifier):
    """See ``interface.Verifier``."""

    def __init__(self, circuit: Circuit, processes: int) -> None:
        self._slices = slices_of(circuit)
        super().__init__(circuit, processes)

    def _files(self) -> tuple[str, ...]:
        names = (SETTINGS, VK, VERIFIER_SRS, *((SRS,) if self.circuit.inputs == "committed" else ()))
        return tuple(dict.fromkeys(each.file(name) for each in self._slices for name in names))

    def _check(self, rows: np.ndarray, proof: Proof, names: tuple[str, str]) -> Steps[np.ndarray]:
        """The proved outputs (B, D) int64 of valid and linked proofs about these rows; else an exception."""
        circuit = self.circuit
        outputs = statement.check_sections(proof, circuit.inputs, circuit.rows, circuit.outputs, circuit.proof_bytes)
        proofs = parts_of(proof.computation, self._slices)
        if rows.shape[1:] != circuit.row_shape:
            raise FormatError(f"rows of shape {rows.shape[1:]}, the circuit takes {circuit.row_shape}")
        felts = statement.input_felts(rows, circuit.rows, circuit.input_scale)
        own = b""
        first = self._slices[0].paths(circuit.folder)
        if call := tie_call(circuit.inputs, felts, first, self._scratch, names[0], TIMEOUT_S):
            tied = yield from twice(call)
            if tied.error:
                raise FormatError(f"{call.name}: {tied.error}")
            own = tie_bytes(circuit.inputs, tied.value)
            if own != proof.commitment:
                raise FormatError(f"the input's {call.name} is not that of these rows")
            if circuit.inputs == "committed" and own != proofs[0][: len(own)]:
                raise FormatError("the proof's own commitment is not that of these rows")
        check_links(self._slices, proofs)
        for each, part in zip(self._slices, proofs, strict=True):
            path = each.paths(circuit.folder)
            packed = document.pack(instances_of(each, felts, own, outputs), part)
            reply = yield from twice(Call(
                "verify_parts",
                {"parts": self._scratch.write(names[1], packed), "settings": path[SETTINGS], "vk": path[VK], "srs": path[VERIFIER_SRS]},
                TIMEOUT_S,
            ))
            if reply.error or reply.value.get("valid") is not True:
                raise FormatError(f"verification of slice {each.number + 1} of {len(self._slices)}: "
                                  f"{reply.error or 'ezkl.verify returned False'}")
        return outputs


def instances_of(each: Slice, felts: bytes, digest: bytes, outputs: np.ndarray) -> bytes:
    """A slice's public instances, field elements of 32 bytes: of the bundle's inputs, digest and outputs what this slice shows."""
    empty = np.empty((0, 0), np.int64)
    return statement.proof_parts(
        each.inputs, bytes(statement.COMMITMENT_BYTES), outputs if each.last else empty,
        felts=felts, digest=digest, commitment=bytes(statement.COMMITMENT_BYTES),
    )[0]
