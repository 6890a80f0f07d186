"""What a batch proof is checked against: built by rank 0, and by an auditor, of nothing that a worker says.

Letters: n rows in a bundle, N rows of a proof (its B), K inputs and D outputs of a row.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from enclaveml.errors import FormatError
from enclaveml.nonce import NONCE_BYTES
from enclaveml.zk.batch.files import canonical
from enclaveml.zk.batch.format import DOMAIN, INPUT_KEY, MASKS_DOMAIN, VerificationKey
from enclaveml.zk.batch.integer import IntegerModel, quantised
from enclaveml.zk.interface import PADDING, Circuit, Proof
from enclaveml.zk.rows import padded

#: The protocol's version, by which provers and verifiers agree on every byte.
VERSION = DOMAIN.decode()

#: Before what the hash of a model whose weights are hidden is made of.
HIDDEN_MODEL = b"enclaveml hidden model"


def settings_of(model: IntegerModel, row_shape: tuple[int, ...], dtype: str, inputs: str = "public") -> dict[str, Any]:
    """What fixes the statement beside the key: how rows and outputs stand for whole numbers, and whether the rows are shown."""
    return {"system": "batch", "protocol": VERSION, "inputs": inputs, "padding": PADDING, "input_scale": model.input_scale,
            "output_scale": model.output_scale, "row_shape": list(row_shape), "dtype": dtype}


def circuit_id(key: bytes, settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the settings' canonical JSON and the key, each behind its length (u64, little-endian)."""
    text = canonical(settings)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in (text, key))).hexdigest()


def hidden_model_hash(seed: bytes, model_hash: str) -> str:
    """What stands for a model's hash (hex) where its weights are hidden: SHA-256 (hex) of a domain, 32 bytes of the stream "model hash"
    (PROTOCOL.md, "Randomness") of the weights' seed, and the hash. Whoever has a guess of the model and not the seed can try it on nothing."""
    mixed = hashlib.shake_256(MASKS_DOMAIN + seed + struct.pack("<H", 10) + b"model hash").digest(32)
    return hashlib.sha256(HIDDEN_MODEL + mixed + bytes.fromhex(model_hash)).hexdigest()


def out_of_range(x: np.ndarray, key: VerificationKey) -> tuple[int, ...]:
    """Places of the quantised rows (n, K) with an input that the circuit does not take: they have no witness."""
    return tuple(np.flatnonzero(((x < key.input_low) | (x > key.input_high)).any(axis=1)).tolist())


def inputs_of(rows: np.ndarray, circuit: Circuit, key: VerificationKey) -> np.ndarray:
    """The proof's inputs (N, K) int16 of rows (n, *row_shape), padding included.

    Raises FormatError for rows that are not the circuit's, or out of its range.
    """
    if rows.shape[1:] != circuit.row_shape or str(rows.dtype) != circuit.dtype:
        raise FormatError(f"rows of {rows.dtype}{rows.shape[1:]}, the circuit takes {circuit.dtype}{circuit.row_shape}")
    x = quantised(rows, circuit.input_scale)
    if out := out_of_range(x, key):
        raise FormatError(f"row {out[0]} of the bundle has an input out of the range that the circuit takes")
    return padded(x.astype("<i2"), circuit.rows)


def outputs_of(proof: Proof, circuit: Circuit) -> np.ndarray:
    """The proof's outputs (N, D) int32, of a proof whose sections have exactly the right form.

    Raises FormatError.
    """
    if len(proof.computation) != circuit.proof_bytes:
        raise FormatError(f"computation proof is {len(proof.computation)} bytes, a proof of this circuit is {circuit.proof_bytes}")
    if proof.commitment:
        raise FormatError(f"commitment proof is {len(proof.commitment)} bytes, expected none")
    if proof.outputs.shape != (circuit.rows, circuit.outputs):
        raise FormatError(f"proved outputs are {proof.outputs.shape}, expected {(circuit.rows, circuit.outputs)}")
    if ((proof.outputs < -(2**31)) | (proof.outputs >= 2**31)).any():  # not by abs: the least int64 has none
        raise FormatError("a proved output is no int32")
    return proof.outputs.astype("<i4")


def dequantised(outputs: np.ndarray, scale: int) -> np.ndarray:
    """What whole outputs stand for, float64; exact."""
    return outputs.astype(np.float64) * 2.0**-scale


def check_input_key(given: bytes, key: VerificationKey) -> str:
    """An order's input key in hex, "" where inputs are public. Raises ValueError where one is missing, or none is used."""
    if len(given) != (INPUT_KEY if key.masks else 0):
        raise ValueError(f"an input key of {len(given)} bytes; committed inputs have one of {INPUT_KEY}, public ones none")
    return given.hex()


def check_nonce(nonce: bytes) -> str:
    """The nonce in hex. Raises ValueError where it is none: a batch proof must be bound to its order."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce of {len(nonce)} bytes; a batch proof is bound to one of {NONCE_BYTES}")
    return nonce.hex()
