"""Which circuits of the cache were made for which model file and weights: found without building the model.

Under the cache folder, ``models/KEY/NAME`` is an empty file for each circuit ``circuits/NAME`` (or ``registrations/NAME``, whose weights are
hidden) that was prepared for a model package and row shape whose digest is KEY. It is a hint: the forecast reads it, no proof depends on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from enclaveml.errors import EnclaveError
from enclaveml.zk.interface import Circuit, load_circuit
from enclaveml.zk.keys import cache_root


def model_key(package: bytes, row_shape: Sequence[int], dtype: np.dtype) -> str:
    """SHA-256 (hex) over the model package's bytes and the rows that the model takes."""
    rows = json.dumps([list(row_shape), str(np.dtype(dtype))]).encode()
    return hashlib.sha256(hashlib.sha256(package).digest() + rows).hexdigest()


def remember(key: str, circuit: Circuit) -> None:
    """Note that a circuit of the cache is of this model. A cache that cannot be written is left alone."""
    with contextlib.suppress(OSError):
        folder = cache_root() / "models" / key
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / circuit.folder.name).touch()


def circuits_of(key: str) -> list[Circuit]:
    """The circuits that are noted for a model and still there, as their manifests say; digests are not checked."""
    root = cache_root()
    found = []
    with contextlib.suppress(OSError):
        for note in sorted((root / "models" / key).iterdir()):
            for kind in ("circuits", "registrations"):
                with contextlib.suppress(EnclaveError):
                    found.append(load_circuit(root / kind / note.name))
    return found
