"""The envelope of a proved bundle, as its rank seals it, or rank 0 where the slices of its proof came from two ranks."""

from __future__ import annotations

import numpy as np

from enclaveml.envelope import Consistency, Envelope, encode, input_hash, output_hash
from enclaveml.zk.interface import Circuit, Proof


def sealed(circuit: Circuit, rows: np.ndarray, data: np.ndarray, outputs: np.ndarray, proof: Proof, *, node_id: str, job_id: str,
           round: int, bundle: int, attempt: int) -> bytes:
    """The envelope's bytes: rows (n,), their data (n, *row_shape), float outputs (n, D), their proof; the rest are its labels."""
    fixed = proof.outputs[: len(rows)] / 2.0**circuit.output_scale
    with np.errstate(invalid="ignore"):
        deviation = float(np.abs(fixed - outputs).max(initial=0.0))
    return encode(Envelope(
        model_hash=bytes.fromhex(circuit.model_hash),
        input_hash=input_hash(circuit.inputs, data),
        output_hash=output_hash(outputs),
        node_id=node_id,
        job_id=job_id,
        circuit_id=bytes.fromhex(circuit.circuit_id),
        round=round, bundle=bundle, attempt=attempt,
        rows=rows,
        outputs=outputs,
        computation=proof.computation,
        commitment=proof.commitment,
        consistency=Consistency(proof.outputs, circuit.output_scale, circuit.tolerance, deviation),
    ))
