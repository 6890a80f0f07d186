"""What the rest of the package asks the prover for: commit to weights, prove their range, prove rows."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import numpy as np

from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.prove import weights as weights_of
from enclaveml.zk.batch.prove.allocation import keep_freed_memory
from enclaveml.zk.batch.prove.commitment import Committed
from enclaveml.zk.batch.prove.masked import prove_masked
from enclaveml.zk.batch.prove.parallel import Pool, pool
from enclaveml.zk.batch.prove.proof import Network, prove
from enclaveml.zk.batch.prove.weights_range import prove_range


def commit_weights(layers: Sequence[np.ndarray]) -> tuple[tuple[bytes, ...], tuple[Committed, ...]]:
    """Roots (32 bytes each) of the layers' weights, int8 values of shape (K + 3, M), and the commitments themselves.

    Raises ValueError where a layer has another shape or other values.
    """
    checked = weights_of.checked_weights(layers)
    with jax.enable_x64(True), pool() as threads:
        committed = tuple(weights_of.committed_weights(layer, threads) for layer in checked)
    return tuple(layer.root for layer in committed), committed


def prove_weights_range(key: VerificationKey, layers: Sequence[np.ndarray]) -> bytes:
    """The proof that the weights under the key's roots are int8. ValueError where ``layers`` aren't those."""
    with jax.enable_x64(True), pool() as threads:
        network = _network(key, layers, threads)
        return prove_range(key, network.weights, network.committed, threads)


class BatchProver:
    """Proves batches of the key's N rows under committed weights; what it compiles serves every batch.

    Changes how the process allocates memory (``allocation``): meant for a process of its own.
    """

    def __init__(self, key: VerificationKey, layers: Sequence[np.ndarray]) -> None:
        """ValueError where ``layers``, int8 values of shape (K + 3, M), are not those of the key's roots."""
        keep_freed_memory()
        self._key = key
        with jax.enable_x64(True), pool() as threads:
            self._network = _network(key, layers, threads)

    def prove(self, x: np.ndarray, nonce: bytes, input_key: bytes | None = None, seed: bytes | None = None) -> tuple[np.ndarray, bytes]:
        """Outputs int64 (N, D) for inputs of integers (N, K), and the proof of both under this nonce.

        With a key that has masks there are N - m rows; ``input_key``, 32 bytes, is what the inputs' masks follow from, and ``seed``, 32
        bytes, what all others do: drawn from the system if not given, which is for tests. Two proofs of one seed show what they hide.

        Raises ValueError where x has another shape or type, is outside the key's range, or gives a rescaled value outside the
        key's range bits. Where there are masks no value stands in it.
        """
        x = np.asarray(x)
        shape = (self._key.real_rows, self._key.width)
        if x.shape != shape or x.dtype.kind not in "iu":
            raise ValueError(f"inputs are {x.dtype} {x.shape}; integers of the shape {shape} are expected")
        if x.min() < self._key.input_low or x.max() > self._key.input_high:
            found = "inputs are out of range" if self._key.masks else f"inputs are between {x.min()} and {x.max()}"
            raise ValueError(f"{found}; the key allows {self._key.input_low} to {self._key.input_high}")
        if bool(self._key.masks) != (input_key is not None):
            raise ValueError("an input key is given where the key has masks, and only there")
        with jax.enable_x64(True), pool() as threads:
            if input_key is not None:
                return prove_masked(self._network, x.astype(np.int32), nonce, input_key, seed or os.urandom(32), threads)
            return prove(self._network, x.astype(np.int32), nonce, threads)


def _network(key: VerificationKey, layers: Sequence[np.ndarray], threads: Pool) -> Network:
    checked = weights_of.checked_weights(layers)
    shapes = [(layer.inputs + 3, layer.outputs) for layer in key.layers]
    if [layer.shape for layer in checked] != shapes:
        raise ValueError(f"weights have the shapes {[layer.shape for layer in checked]}; the key's are {shapes}")
    committed = tuple(weights_of.committed_weights(layer, threads) for layer in checked)
    for number, (layer, root) in enumerate(zip(committed, key.roots, strict=True), 1):
        if layer.root != root:
            raise ValueError(f"layer {number}: the root of these weights is {layer.root.hex()}; the key has {root.hex()}")
    return Network(key, tuple(checked), committed)
