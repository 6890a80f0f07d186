"""Weights as people have them, made into named arrays: .npz, Flax msgpack, Orbax folders.

Rank 0 reads them and sends safetensors (``model_package``), so that workers need neither Orbax nor the
file. Names become those of ``weights``: the path in the model's state, joined with dots; a leading
``params`` is left out, as are optimiser state, step and random keys, which are of training and not of the
model.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.errors import Fault, JobError

log = logging.getLogger(__name__)

#: Names at the top of a training state (``flax.training.train_state.TrainState`` and its like) that
#: hold no weights.
TRAINING = frozenset({"opt_state", "step", "tx", "apply_fn", "rng", "rngs", "key"})

#: What an Orbax checkpoint's folder has in it (orbax-checkpoint 0.5 and later).
ORBAX_MARKS = ("_METADATA", "_CHECKPOINT_METADATA")


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Arrays by weight name from an .npz or .msgpack file or an Orbax checkpoint's folder.

    Raises JobError for what is none of these, and for what cannot be read.
    """
    readers: dict[str, Callable[[Path], Mapping[str, Any]]] = {".npz": _npz, ".msgpack": _msgpack}
    reader = _orbax if path.is_dir() else readers[path.suffix]
    arrays = dict(_flatten(reader(path)))
    return _of_the_model(arrays, path.name)


def names_of_the_model(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file under their names in the model's state, where Flax's own paths are given instead.

    ``params/Dense_0/kernel`` and ``params.Dense_0.kernel`` become ``Dense_0.kernel``. Names without ``params`` stay, but for
    slashes: a model may have a part called ``key`` or ``step``. Raises JobError where two names become one.
    """
    plain = [n.replace("/", ".") for n in arrays]
    ours = [n.removeprefix("params.") for n in plain]
    if twice := sorted(n for n, times in Counter(ours).items() if times > 1):
        raise JobError(Fault(name, "model.weights", f"has {', '.join(twice)} twice: with params and without, or with slashes and with dots"))
    found = dict(_flatten(arrays))
    return found if ours == plain else _of_the_model(found, name)


def _npz(path: Path) -> Mapping[str, Any]:
    """References: numpy.lib.format; no pickle is ever loaded."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise _unreadable(path, f"no .npz file of plain arrays: {error}") from error


def _msgpack(path: Path) -> Mapping[str, Any]:
    """References: flax.serialization.to_bytes, whose bytes these are."""
    from flax.serialization import msgpack_restore

    try:
        tree = msgpack_restore(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except Exception as error:  # msgpack raises its own kinds, and numpy's, for damaged bytes
        raise _unreadable(path, f"no file of flax.serialization.to_bytes: {error}") from error
    if not isinstance(tree, Mapping):
        raise _unreadable(path, f"holds {type(tree).__name__}, expected a mapping of names to arrays")
    return tree


def _orbax(path: Path) -> Mapping[str, Any]:
    """References: orbax.checkpoint.PyTreeCheckpointHandler, which StandardCheckpointer's folders are read by too."""
    folder = _orbax_folder(path)
    import jax
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            found = checkpointer.metadata(folder.absolute())
            tree = getattr(getattr(found, "item_metadata", found), "tree", None)
            plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            # As numpy arrays: the devices that it was saved from need not be here.
            return checkpointer.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=plain))
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise _unreadable(path, f"no readable Orbax checkpoint: {str(error).splitlines()[0]}") from error


def _orbax_folder(path: Path) -> Path:
    """The folder with the arrays: ``path``, or the one item of a CheckpointManager's step in it."""
    def marked(folder: Path) -> bool:
        return (folder / ORBAX_MARKS[0]).is_file()

    if marked(path):
        return path
    items = [child for child in sorted(path.iterdir()) if child.is_dir() and marked(child)]
    if len(items) == 1:
        return items[0]
    steps = sorted((child.name for child in path.iterdir() if child.is_dir() and child.name.isdigit()), key=int)
    if steps:
        raise _unreadable(path, f"holds the checkpoints of steps {', '.join(steps[-5:])}; name one of them")
    held = f"; it holds several: {', '.join(i.name for i in items)}; name one of them" if items else ""
    raise _unreadable(path, f"a folder that is no Orbax checkpoint (no {ORBAX_MARKS[0]} in it){held}")


def _flatten(tree: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Dotted names of the arrays in nested mappings and lists; None is nothing."""
    for key, value in tree.items():
        name = before + str(key).replace("/", ".")
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            yield from _flatten(dict(enumerate(value)), f"{name}.")
        elif value is not None:
            yield name, np.asarray(value)


def _of_the_model(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays by their names in the model's state."""
    kept = {n: a for n, a in arrays.items()
            if n.split(".")[0] not in TRAINING and "rngs" not in n.split(".") and a.dtype.kind not in "OUS"}
    left_out = sorted({n.split(".")[0] for n in arrays if n not in kept})
    if left_out:
        log.info("weights %s: left out %s: of training, not of the model", name, ", ".join(left_out))
    if kept and all(n.endswith(".value") for n in kept):  # nnx.State as a pure dict: a leaf is {"value": array}
        kept = {n.removesuffix(".value"): a for n, a in kept.items()}
    return {n.removeprefix("params."): a for n, a in kept.items()}


def _unreadable(path: Path, text: str) -> JobError:
    return JobError(Fault(path.name, "model.weights", text))
