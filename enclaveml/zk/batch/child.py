"""The child process that proves: it imports JAX once, compiles once for a circuit, and then proves bundle after bundle.

What is compiled is kept in the cache folder, so that the next process (a worker's after rank 0's set-up) loads it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from enclaveml.zk import serve
from enclaveml.zk.batch.files import read_weights, shapes_of
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.keys import cache_root

if TYPE_CHECKING:
    from enclaveml.zk.batch.prove.api import BatchProver


def prepare_environment(cpuinfo: str = "/proc/cpuinfo") -> None:
    """Before JAX is imported: prove on the CPU, whatever the rank infers on; where JAX and numba keep what they compile; and vectors of 512 bits
    where the processor has them.

    What is compiled uses what this processor can. Nodes of another kind that share the cache folder have one of their own in it.
    """
    try:
        lines = Path(cpuinfo).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    can = next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    kind = hashlib.sha256(" ".join(sorted(can.split())).encode()).hexdigest()[:16]
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_root() / "jax" / kind))
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_root() / "numba" / kind))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    if "avx512f" in can.split() and "xla_cpu_prefer_vector_width" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_prefer_vector_width=512".strip()


class Calls:
    """The commands. Each takes JSON arguments and returns (JSON object, block of bytes); paths are of files."""

    def __init__(self) -> None:
        prepare_environment()
        import jax  # noqa: F401  now, not within the first call's time

        self._provers: dict[tuple[str, str], BatchProver] = {}

    def commit(self, weights: str, shapes: list[list[int]]) -> tuple[dict, bytes]:
        """Roots (hex) of the weights, one for each layer (K + 3, M)."""
        from enclaveml.zk.batch.prove.api import commit_weights

        roots, _ = commit_weights(read_weights(Path(weights), [(rows, columns) for rows, columns in shapes]))
        return {"roots": [root.hex() for root in roots]}, b""

    def register(self, key: str, weights: str, seed: str) -> tuple[dict, bytes]:
        """The root (hex) of hidden weights, of a key whose own root does not matter and the file with the seed that hides them."""
        from enclaveml.zk.batch.prove.api import register_weights

        known = _key(key)
        registered = register_weights(known, read_weights(Path(weights), shapes_of(known)), Path(seed).read_bytes())
        return {"root": registered.roots[0].hex()}, b""

    def weights_proof(self, key: str, weights: str, seed: str = "") -> tuple[dict, bytes]:
        """The proof that the weights under the key's roots are int8; ``seed``: the file, where they are hidden."""
        from enclaveml.zk.batch.prove.api import prove_weights_range

        known = _key(key)
        return {}, prove_weights_range(known, read_weights(Path(weights), shapes_of(known)), _seed(seed))

    def prove(self, key: str, weights: str, inputs: str, nonce: str, input_key: str = "", seed: str = "") -> tuple[dict, bytes]:
        """Outputs (N, D) as int32, then the proof, in the block; inputs are int16 (N, K) in a file. N without mask rows; where
        there are some, ``input_key`` (hex) is what those of the inputs follow from. ``seed``: the file, where weights are hidden."""
        from enclaveml.zk.batch.prove.api import BatchProver

        known = _key(key)
        prover = self._provers.get((key, weights))
        if prover is None:
            prover = self._provers[key, weights] = BatchProver(known, read_weights(Path(weights), shapes_of(known)), _seed(seed))
        x = np.fromfile(inputs, "<i2").reshape(known.real_rows, known.width)
        y, proof = prover.prove(x, bytes.fromhex(nonce), bytes.fromhex(input_key) or None)
        return {}, np.asarray(y).astype("<i4").tobytes() + proof


def _seed(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _key(path: str) -> VerificationKey:
    return VerificationKey.from_bytes(Path(path).read_bytes())


if __name__ == "__main__":
    serve.serve(sys.argv, Calls)
