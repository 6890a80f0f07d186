"""What the rest of the package asks the prover for: commit to weights, prove their range, prove rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.prove import weights as weights_of
from enclaveml.zk.batch.prove.allocation import keep_freed_memory
from enclaveml.zk.batch.prove.commitment import Committed
from enclaveml.zk.batch.prove.hidden import HiddenProver
from enclaveml.zk.batch.prove.hidden_range import prove_hidden_range
from enclaveml.zk.batch.prove.masked import MaskedProver, prove_masked
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


def register_weights(key: VerificationKey, layers: Sequence[np.ndarray], weight_seed: bytes) -> VerificationKey:
    """The key that hides weights with the root of these, int8 values of shape (K + 3, M), in the place of its own.

    ``weight_seed``, 32 bytes, is as secret as the weights. Raises ValueError where they are not weights of the key's layers.
    """
    checked = _checked(key, layers)
    with jax.enable_x64(True), pool() as threads:
        return replace(key, roots=(weights_of.Registered.of(key, checked, weight_seed, threads).committed.root,))


def prove_weights_range(key: VerificationKey, layers: Sequence[np.ndarray], weight_seed: bytes | None = None,
                        seed: bytes | None = None) -> bytes:
    """The proof that the weights under the key's roots are int8. ValueError where ``layers`` aren't those.

    weight_seed: where the key hides weights, what they are committed under; ``seed``: what this proof's masks follow from, drawn from
    the system if not given, which is for tests. Such a proof counts as one of ``key.weight_openings``.
    """
    with jax.enable_x64(True), pool() as threads:
        network = _network(key, layers, weight_seed, threads)
        if key.weight_rows:
            return prove_hidden_range(network, seed or os.urandom(32), threads)
        return prove_range(key, network.weights, network.committed, threads)


class BatchProver:
    """Proves batches of the key's N rows under committed weights; what it compiles serves every batch.

    Changes how the process allocates memory (``allocation``): meant for a process of its own.
    """

    def __init__(self, key: VerificationKey, layers: Sequence[np.ndarray], weight_seed: bytes | None = None) -> None:
        """ValueError where ``layers``, int8 values of shape (K + 3, M), are not those of the key's roots; where it hides them, under
        ``weight_seed``, 32 bytes."""
        keep_freed_memory()
        self._key, self._weight_seed = key, weight_seed
        with jax.enable_x64(True), pool() as threads:
            self._network = _network(key, layers, weight_seed, threads)

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
                prover = HiddenProver if self._key.weight_rows else MaskedProver
                return prove_masked(self._network, x.astype(np.int32), nonce, input_key, seed or self._fresh_seed(x, nonce), threads, prover)
            return prove(self._network, x.astype(np.int32), nonce, threads)


    def _fresh_seed(self, x: np.ndarray, nonce: bytes) -> bytes:
        """Of the system's randomness; of the secret and of what is proved too, should that be the same a second time."""
        known = hashlib.sha256(np.ascontiguousarray(x, "<i2").tobytes()).digest()
        return hashlib.sha256(os.urandom(32) + (self._weight_seed or b"") + known + nonce).digest()


def _network(key: VerificationKey, layers: Sequence[np.ndarray], weight_seed: bytes | None, threads: Pool) -> Network:
    if bool(key.weight_rows) != (weight_seed is not None):
        raise ValueError("a seed of the weights is given where the key hides them, and only there")
    checked = _checked(key, layers)
    if weight_seed is not None:
        hidden = weights_of.Registered.of(key, checked, weight_seed, threads)
        if hidden.committed.root != key.roots[0]:
            raise ValueError(f"the root of these weights under this seed is {hidden.committed.root.hex()}; the key has {key.roots[0].hex()}")
        return Network(key, tuple(checked), (hidden.committed,), hidden.columns)
    committed = tuple(weights_of.committed_weights(layer, threads) for layer in checked)
    for number, (layer, root) in enumerate(zip(committed, key.roots, strict=True), 1):
        if layer.root != root:
            raise ValueError(f"layer {number}: the root of these weights is {layer.root.hex()}; the key has {root.hex()}")
    return Network(key, tuple(checked), committed)


def _checked(key: VerificationKey, layers: Sequence[np.ndarray]) -> list[np.ndarray]:
    checked = weights_of.checked_weights(layers)
    shapes = [(layer.inputs + 3, layer.outputs) for layer in key.layers]
    if [layer.shape for layer in checked] != shapes:
        raise ValueError(f"weights have the shapes {[layer.shape for layer in checked]}; the key's are {shapes}")
    return checked
