"""Weights from a file, held against what a model's state asks for.

A weight's name is its path in the model's state, joined with dots: ``hidden.kernel``,
``layers.0.bias``; for Linen the path in ``params``, and other collections with their name leading
(``batch_stats.BatchNorm_0.mean``). Nothing here imports JAX.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np

from enclaveml.errors import Fault, JobError

#: Weights files by suffix; ``read_weights`` reads the first, ``checkpoints.read_checkpoint`` the others
#: and Orbax checkpoints, which are folders.
FORMATS = (".safetensors", ".npz", ".msgpack")

#: safetensors' names of the element types that JAX computes with, and numpy's (all little-endian).
#: 64-bit ones are read so that a wrong dtype is named as such.
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "F64": "<f8", "I8": "<i1", "I16": "<i2",
          "I32": "<i4", "I64": "<i8", "U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "bool"}


#: Floating-point types whose every value float32 holds.
NARROW = ("float16", "bfloat16")


def read_weights(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Arrays by name from the bytes of a safetensors file.

    name: the file's name, for errors. Raises JobError where the bytes are no such file.
    References: https://huggingface.co/docs/safetensors
    """
    from safetensors import SafetensorError, deserialize

    try:
        arrays = deserialize(data)
    except SafetensorError as e:
        raise JobError(Fault(name, "model.weights", f"no readable safetensors file ({e}); "
                             "write it with safetensors.numpy.save_file or "
                             "safetensors.flax.save_file")) from e
    unknown = [f"{n} has dtype {a['dtype']}" for n, a in arrays if a["dtype"] not in DTYPES]
    if unknown:
        readable = ", ".join(DTYPES)
        raise JobError(*(Fault(name, "model.weights", f"{line}; readable are {readable}")
                         for line in unknown))
    return {n: np.frombuffer(a["data"], _dtype(DTYPES[a["dtype"]])).reshape(a["shape"]) for n, a in arrays}


def write_weights(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file that :func:`read_weights` reads back. Raises ValueError for other dtypes."""
    from safetensors.numpy import save

    known = {str(_dtype(name)) for name in DTYPES.values()}
    wrong = [f"{name} has dtype {a.dtype}" for name, a in arrays.items() if str(a.dtype) not in known]
    if wrong:
        raise ValueError("; ".join(wrong))
    # ascontiguousarray gives scalars an axis, which save needs not.
    return save({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()})


def match_weights(wanted: Mapping[str, Any], found: Mapping[str, np.ndarray],
                  name: str) -> dict[str, np.ndarray]:
    """``found`` in the order of ``wanted``, whose values need only ``shape`` and ``dtype``.

    Arrays of 16-bit floats become float32 where the model wants that, which is exact.
    Raises one JobError that lists every missing, unexpected, misshapen and mistyped array.
    """
    if prefix := _wrapped(wanted, found):
        first, *_ = prefix.split(".")
        raise JobError(Fault(name, "model.weights", f"every name in it begins with {prefix}, which the model's own names do not; save what is under "
                             f"it alone (checkpoint[{first!r}])"))
    found = {n: a.astype(np.float32) if str(a.dtype) in NARROW and n in wanted and str(wanted[n].dtype) == "float32" else a
             for n, a in found.items()}
    missing = [n for n in wanted if n not in found]
    extra = [n for n in found if n not in wanted]
    lines: list[str] = []
    for n in missing:
        near = difflib.get_close_matches(n, extra, 1, 0.6)
        lines.append(f"missing {_describe(n, wanted[n])}" + (f"; the file has {near[0]}" if near else ""))
    for n in extra:
        near = difflib.get_close_matches(n, missing or list(wanted), 1, 0.6)
        lines.append(f"unexpected {_describe(n, found[n])}" + (f"; did you mean {near[0]}?" if near else ""))
    for n, want in wanted.items():
        if n in found and tuple(found[n].shape) != tuple(want.shape):
            lines.append(f"{n} has shape {_shape(found[n])}; the model needs {_shape(want)}")
        if n in found and str(found[n].dtype) != str(want.dtype):
            lines.append(f"{n} has dtype {found[n].dtype}; the model needs {want.dtype}")
    lines += [f"{n} holds NaN or infinity" for n, a in found.items()
              if n in wanted and a.dtype.kind == "f" and not np.isfinite(a).all()]
    if lines:
        raise JobError(*(Fault(name, "model.weights", line) for line in lines))
    return {n: found[n] for n in wanted}


def _wrapped(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What all names of a file begin with, where the model's are the same without it: ``model.`` or ``model.params.``, say."""
    parts = next(iter(found), "").split(".")
    for depth in range(1, len(parts)):
        prefix = ".".join(parts[:depth]) + "."
        if all(n.startswith(prefix) for n in found) and {n.removeprefix(prefix) for n in found} & set(wanted) and not set(found) & set(wanted):
            return prefix
    return ""


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes  # comes with JAX

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _describe(name: str, array: Any) -> str:
    return f"{name} {_shape(array)} {array.dtype}"


def _shape(array: Any) -> str:
    return f"({', '.join(map(str, array.shape))})"
