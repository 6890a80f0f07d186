"""A batch circuit's id, made again from the model and its data: what ties a key in a results file to a model.

Quantising and committing are deterministic, given the sample rows, on which the scales were chosen. Where weights are hidden, committing
follows from the seed of a registration too.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from enclaveml.errors import JobError, ProofError
from enclaveml.zk import process
from enclaveml.zk.batch import statement
from enclaveml.zk.batch.files import KEY, SEED, WEIGHTS, write_weights
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.prepare import lay, register
from enclaveml.zk.batch.programs import PROVER
from enclaveml.zk.batch.quantise import quantise
from enclaveml.zk.interface import Circuit, CircuitRequest, ModelFunction, load_circuit
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


def registered_again(function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, registration: Path) -> Circuit:
    """The circuit of a registration of hidden weights (its folder), held against the model, the sample rows and the seed in it.

    Raises:
        JobError: the registration is of another model or other rows, or of weights that are not hidden.
        EnvironmentFault, FormatError: the folder cannot be read, or is damaged.
    """
    circuit = load_circuit(registration)
    if not circuit.hides_weights:
        raise JobError(f"--registration {registration}: its circuit does not hide its weights; leave the option out")
    circuit.check_files()
    key = VerificationKey.from_bytes((registration / KEY).read_bytes())
    found = quantise(function, sampled(function, sample_rows)[0], request)
    model = found.model
    settings = statement.settings_of(model, tuple(function.row_shape), str(np.dtype(function.dtype)), request.inputs)
    with contextlib.closing(process.Child(PROVER)) as child, contextlib.closing(Scratch()) as scratch:
        write_weights(scratch.file(WEIGHTS), [each.matrix for each in model.layers])
        try:
            template = model.key(key.rows, (bytes(32),), key.masks, key.weight_rows)
            mine = register(template, scratch, child, registration / SEED, request.setup_timeout_s)
        except (ValueError, ProofError) as error:  # another model may be too large for these rows
            raise JobError(f"--registration {registration}: this job's model has no such circuit: {error}") from error
    circuit_id = statement.circuit_id(mine.to_bytes(), settings)
    model_hash = statement.hidden_model_hash((registration / SEED).read_bytes(), found.model_hash)
    if (circuit_id, model_hash) != (circuit.circuit_id, circuit.model_hash):
        raise JobError(f"--registration {registration}: is of circuit {circuit.circuit_id[:16]}, and this job's model, data and that seed give "
                       f"{circuit_id[:16]}: the model, the data or the versions that made it are others")
    return circuit
