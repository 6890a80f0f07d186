"""What the rest of the package calls: check a proof, know its length."""

from __future__ import annotations

import numpy as np

from ..format import INPUT_KEY, P, VerificationKey
from .hidden import check_hidden, hidden_bytes
from .hidden_weights import check_hidden_weights, hidden_weights_bytes
from .known_inputs import KnownInputs
from .masked import check_masked, masked_bytes
from .rejection import Rejected, demand
from .rows import check_rows, rows_bytes
from .weights import check_weights, weights_bytes

__all__ = ["KnownInputs", "Rejected", "proof_bytes", "verify", "verify_masked", "verify_weights", "weights_proof_bytes"]


def verify(key: VerificationKey, nonce: bytes, x: np.ndarray, y: np.ndarray, proof: bytes) -> None:
    """Hold that y are the outputs of the key's network on x, row by row.

    The network is int8 only if ``verify_weights`` has accepted a proof for the same roots.

    x: integers [N, K] of any dtype, the quantised inputs. y: integers [N, D], the accumulators of the last
    layer. nonce: what the proof was asked for with; never the same twice, else a proof can be played again.

    Raises:
        Rejected: in every other case, whatever the bytes are. Takes time and memory in proportion to x, y and
            ``proof_bytes(key)``, which is known before a byte is read.
    """
    demand(not key.masks, "inputs: the key's are committed, and the proof a masked one")
    x, y = _inputs(x, key), _outputs(y, key)
    check_rows(key, nonce, x, y, _whole(proof, rows_bytes(key)))


def verify_masked(key: VerificationKey, nonce: bytes, y: np.ndarray, proof: bytes,
                  known: KnownInputs | None = None) -> None:
    """Hold that y are the outputs of the key's network on committed inputs; with ``known``, that they are these.

    Without them the inputs are whatever the prover committed to: any numbers modulo p, not held to the key's range.

    y: integers [N - m, D]. known: the inputs [N - m, K] and their input key. nonce: as in ``verify``.

    Raises:
        Rejected: in every other case, as ``verify``.
    """
    demand(key.masks > 0, "inputs: the key's are public, and the proof is not a masked one")
    if known is not None:
        demand(isinstance(known.key, bytes) and len(known.key) == INPUT_KEY,
               f"inputs: their key is not {INPUT_KEY} bytes")
        known = KnownInputs(_inputs(known.x, key), known.key)
    check = check_hidden if key.weight_rows else check_masked
    check(key, nonce, _outputs(y, key), _whole(proof, proof_bytes(key)), known)


def verify_weights(key: VerificationKey, proof: bytes) -> None:
    """Hold that all weights behind the key's roots are int8; ``Rejected`` otherwise. Once for each key."""
    check = check_hidden_weights if key.weight_rows else check_weights
    check(key, _whole(proof, weights_proof_bytes(key)))


def proof_bytes(key: VerificationKey) -> int:
    """The one length that a proof of the key's rows has."""
    if key.weight_rows:
        return hidden_bytes(key)
    return masked_bytes(key) if key.masks else rows_bytes(key)


def weights_proof_bytes(key: VerificationKey) -> int:
    """The one length that the key's weights proof has."""
    return hidden_weights_bytes(key) if key.weight_rows else weights_bytes(key)


def _whole(proof: bytes, length: int) -> bytes:
    demand(isinstance(proof, bytes), f"encoding: a proof is bytes, not {type(proof).__name__}")
    demand(len(proof) == length, f"length: {len(proof)} bytes where a proof of this key has {length}")
    return proof


def _inputs(x: np.ndarray, key: VerificationKey) -> np.ndarray:
    return _integers(x, (key.real_rows, key.width), key.input_low, key.input_high, np.int16, "inputs")


def _outputs(y: np.ndarray, key: VerificationKey) -> np.ndarray:
    # Both y and y + p may fit into an int32: only the small one is an accumulator.
    return _integers(y, (key.real_rows, key.outputs), -(P // 2), P // 2, np.int32, "outputs")


def _integers(values: np.ndarray, shape: tuple[int, int], low: int, high: int, dtype: type,
              what: str) -> np.ndarray:
    demand(isinstance(values, np.ndarray) and values.dtype.kind in "iu", f"{what}: not an array of integers")
    values = np.asarray(values)  # a masked array's numbers, not those it shows
    demand(values.shape == shape, f"{what}: the shape is {values.shape} where the key's is {shape}")
    least, most = int(values.min()), int(values.max())
    demand(low <= least and most <= high, f"{what}: from {least} to {most}, beyond {low} to {high}")
    return values.astype(dtype, copy=False)
