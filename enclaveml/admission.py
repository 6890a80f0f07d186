"""What a worker's bytes must be before they reach the verifier: an envelope about exactly what was ordered."""

from __future__ import annotations

import numpy as np

from enclaveml.envelope import Limits, decode, input_hash, output_hash
from enclaveml.errors import FormatError
from enclaveml.ledger import Bundle
from enclaveml.zk.interface import Circuit, Proof


def limits(circuit: Circuit) -> Limits:
    """The largest envelope that this circuit can have, with room for labels."""
    most = 2 * circuit.proof_bytes + 16 * circuit.rows * circuit.outputs + 8 * circuit.rows + (1 << 16)
    return Limits(max_bytes=most, max_rows=circuit.rows, max_outputs=circuit.outputs, max_proof=2 * circuit.proof_bytes)


def admit(blob: bytes, circuit: Circuit, job_id: str, node_id: str, bundle: Bundle,
          data: np.ndarray) -> Proof:
    """The proof in an envelope whose every label is the one that was ordered.

    Args:
        bundle: what was ordered; its outputs (n, D) float32 are what the rank sent before proving,
            and the envelope must repeat these very bytes.
        data: rank 0's own rows of the bundle, (n, *row_shape).

    Raises:
        FormatError: it is no envelope, or naming the first label that differs.
    """
    envelope = decode(blob, limits(circuit))
    for name, found, expected in (
        ("model_hash", envelope.model_hash.hex(), circuit.model_hash),
        ("circuit_id", envelope.circuit_id.hex(), circuit.circuit_id),
        ("job_id", envelope.job_id, job_id),
        ("round", envelope.round, bundle.round),
        ("bundle", envelope.bundle, bundle.id),
        ("attempt", envelope.attempt, bundle.attempt),
        ("node_id", envelope.node_id, node_id),
        ("rows", envelope.rows.tolist(), bundle.rows.tolist()),
        ("outputs' shape", envelope.outputs.shape, bundle.outputs.shape),
        ("proved outputs' shape", envelope.consistency.proved.shape, (circuit.rows, circuit.outputs)),
        ("output scale", envelope.consistency.scale, circuit.output_scale),
        ("tolerance", envelope.consistency.tolerance, circuit.tolerance),
        ("input_hash", envelope.input_hash.hex(), input_hash(circuit.inputs, data).hex()),
        ("output_hash", envelope.output_hash.hex(), output_hash(envelope.outputs).hex()),
    ):
        if found != expected:
            raise FormatError(f"{name} is {str(found)[:80]}, ordered was {str(expected)[:80]}")
    if envelope.outputs.tobytes() != bundle.outputs.tobytes():
        raise FormatError("outputs differ from those that the rank sent before proving")
    return Proof(envelope.computation, envelope.commitment, envelope.consistency.proved)
