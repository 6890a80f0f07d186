"""Names and contents of the files of a batch circuit's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.zk.batch.format import BIAS_CONSTANTS, VerificationKey
from enclaveml.zk.interface import Circuit

#: The verification key, what else fixes the statement, the committed weights, the proof that they are int8; what hidden weights are
#: hidden by, 32 bytes.
KEY, SETTINGS, WEIGHTS, WEIGHTS_PROOF, SEED = "verification.key", "settings.json", "weights.int8", "weights.proof", "weights.seed"

#: The hash (hex) of the model itself, beside hidden weights: rank 0's alone, in no manifest and sent to nobody.
MODEL_HASH = "model.hash"

#: The cache's subfolder of registrations, each named by its circuit's id.
REGISTRATIONS = "registrations"

FILES = (KEY, SETTINGS, WEIGHTS, WEIGHTS_PROOF)


def files_of(hides_weights: bool) -> tuple[str, ...]:
    """The files of a circuit's folder."""
    return (*FILES, SEED) if hides_weights else FILES


def auditor_files(circuit: Circuit) -> dict[str, bytes]:
    """What someone else needs to verify proofs of this circuit, by its name in a results file."""
    return {name: (circuit.folder / file).read_bytes()
            for name, file in (("vk", KEY), ("settings", SETTINGS), ("weights_proof", WEIGHTS_PROOF))}


def write_weights(path: Path, matrices: Sequence[np.ndarray]) -> None:
    """Write the layers' committed matrices (K + 3, M) int8, one after the other, row after row."""
    path.write_bytes(b"".join(np.ascontiguousarray(matrix, np.int8).tobytes() for matrix in matrices))


def read_weights(path: Path, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """The matrices (K + 3, M) int8 of layers of these shapes. Raises ValueError where the file has another size."""
    data = np.fromfile(path, np.int8)
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    if len(data) != ends[-1]:
        raise ValueError(f"{path}: {len(data)} weights, the key has {ends[-1]}")
    return [part.reshape(shape) for part, shape in zip(np.split(data, ends[:-1]), shapes, strict=True)]


def shapes_of(key: VerificationKey) -> list[tuple[int, int]]:
    """The shapes (K + 3, M) of a key's layers as they are committed."""
    return [(layer.inputs + len(BIAS_CONSTANTS), layer.outputs) for layer in key.layers]


def canonical(settings: Mapping[str, Any]) -> bytes:
    """Settings as they stand in the file and in the circuit's id."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
