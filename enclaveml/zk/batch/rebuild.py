"""A batch circuit's id, made again from the model and its data: what ties a key in a results file to a model.

Quantising and committing are deterministic, given the sample rows, on which the scales were chosen.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np

from enclaveml.errors import JobError, ProofError
from enclaveml.zk import process
from enclaveml.zk.batch.prepare import lay
from enclaveml.zk.batch.programs import PROVER
from enclaveml.zk.interface import CircuitRequest, ModelFunction
from enclaveml.zk.rows import sampled
from enclaveml.zk.scratch import Scratch


def rebuilt_id(function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, rows: int) -> str:
    """The ``circuit_id`` of a model with proofs of so many rows, its scales chosen on these sample rows.

    Raises JobError for a model that cannot be made such a circuit.
    """
    with contextlib.closing(process.Child(PROVER)) as child, contextlib.closing(Scratch()) as scratch:
        try:
            return lay(function, sampled(function, sample_rows)[0], replace(request, rows_per_proof=rows), child, scratch).circuit_id
        except ProofError as error:
            raise JobError(f"the model cannot be made this circuit: {error}") from error
