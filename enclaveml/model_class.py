"""The Flax class that a job names, imported from bytes or from an installed package.

A job's ``model.flax`` is ``file.py:Class``, the file relative to the job, or ``package.module:Class``.
Whatever goes wrong inside the user's code becomes a JobError with the user's file and line.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import inspect
import linecache
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from enclaveml.errors import Fault, JobError
from enclaveml.zk.onnx_canonical import UNROLL

KEY = "model.flax"
PREPROCESS = "model.preprocess"  # the key of the other code that a job may name
_MESSAGE_LINES = 6  # of the user's exception; JAX's can fill a screen


@dataclass(frozen=True)
class ModelSource:
    """Where a model's code is: file (or module) and class. ``file`` is '' for an installed package."""

    file: str
    module: str
    name: str

    @staticmethod
    def parse(flax: str, key: str = KEY) -> ModelSource:
        """Split ``model.flax``, or the name of a function under another key. Raises JobError where it is neither form."""
        place, colon, name = flax.rpartition(":")
        if colon and name.isidentifier():
            if place.endswith(".py"):
                return ModelSource(place, "", name)
            if place and all(part.isidentifier() for part in place.split(".")):
                return ModelSource("", place, name)
        what = "Class" if key == KEY else "function"
        raise JobError(Fault(flax, key, f"is neither file.py:{what} (relative to the job file) "
                             f"nor package.module:{what}"))

    @property
    def where(self) -> str:
        """How errors name the place."""
        return self.file or self.module

    def filename(self, job_folder: Path | None) -> str:
        """How tracebacks name the model file: its path where the job's folder is, else as the job says."""
        return str(job_folder / self.file) if job_folder else self.file


def load_class(source: ModelSource, code: bytes | None, job_folder: Path | None = None) -> type:
    """The class; executes the user's module.

    code: the file's bytes, for ``file.py:Class``. job_folder: where that file's own imports of its
    neighbours are found, on ranks that have it.
    Raises JobError for code that does not compile or import, and for a name that is no Flax module.
    """
    module = load_module(source, code, job_folder)
    from flax import linen, nnx

    bases = (nnx.Module, linen.Module)
    found = getattr(module, source.name, None)
    if isinstance(found, type) and issubclass(found, bases):
        return found
    mine = [name for name, value in vars(module).items() if isinstance(value, type)
            and issubclass(value, bases) and value.__module__ == module.__name__]
    near = difflib.get_close_matches(source.name, mine, 1, 0.5)
    if found is not None:
        message = (f"{source.name} is a {type(found).__name__}, "
                   "no class derived from flax.nnx.Module or flax.linen.Module")
    else:
        message = f"has no class {source.name}"
    message += f"; did you mean {near[0]}?" if near else f"; it defines {', '.join(mine) or 'no Flax module'}"
    raise JobError(Fault(source.where, KEY, message))


def load_module(source: ModelSource, code: bytes | None, job_folder: Path | None, key: str = KEY) -> types.ModuleType:
    """The module that a job names under ``key``; executes the user's code. Arguments and errors as ``load_class``."""
    if code is not None:
        return _execute(source, code, job_folder, key)
    with user_code(source.where, "while importing it", key=key):
        return importlib.import_module(source.module)


def _execute(source: ModelSource, code: bytes, job_folder: Path | None, key: str) -> types.ModuleType:
    filename = source.filename(job_folder)
    digest = hashlib.sha256(filename.encode() + b"\0" + code).hexdigest()[:12]
    name = f"enclaveml_job_{PurePosixPath(source.file).stem}_{digest}".replace("-", "_")
    text = code.decode("utf-8", "replace")  # for tracebacks, also where no such file is
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    if name in sys.modules:
        return sys.modules[name]
    try:
        compiled = compile(code, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as e:
        line = f":{e.lineno}" if isinstance(e, SyntaxError) and e.lineno else ""
        text = f": {e.text.strip()}" if isinstance(e, SyntaxError) and e.text else ""
        reason = e.msg if isinstance(e, SyntaxError) else e
        raise JobError(Fault(f"{source.file}{line}", key, f"does not compile: {reason}{text}")) from None
    module = types.ModuleType(name)
    module.__file__ = filename
    sys.modules[name] = module  # where Linen's dataclass transform looks its class's module up
    neighbours = str((job_folder / source.file).parent) if job_folder else None
    if neighbours:
        sys.path.insert(0, neighbours)
    try:
        with user_code(source.where, "while importing it", filename, key):
            exec(compiled, module.__dict__)
    except JobError:
        del sys.modules[name]
        raise
    finally:
        if neighbours:
            sys.path.remove(neighbours)
    return module


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """Parameters of the constructor. Not ``inspect.signature(cls)``: NNX's metaclass hides them."""
    if cls.__init__ is object.__init__:
        return {}
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])


def check_arguments(cls: type, source: ModelSource, args: Mapping[str, Any], hidden: frozenset[str]) -> None:
    """Raise one JobError with every argument that ``cls`` does not take or lacks.

    hidden: parameters that EnclaveML or Flax gives itself (``rngs``, Linen's ``parent`` and ``name``).
    """
    parameters = {n: p for n, p in parameters_of(cls).items() if n not in hidden}
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    faults = []
    for name in args:
        if name not in named and not takes_any:
            near = difflib.get_close_matches(name, named, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(named) or 'none'}"
            faults.append(Fault(source.where, f"model.args.{name}",
                                f"{source.name} has no such argument; {hint}"))
    for name in named:
        if name not in args and parameters[name].default is inspect.Parameter.empty:
            faults.append(Fault(source.where, f"model.args.{name}", f"{source.name} needs this argument"))
    if faults:
        raise JobError(*faults)


@contextlib.contextmanager
def user_code(where: str, doing: str, filename: str | None = None, key: str = KEY) -> Iterator[None]:
    """Turn any exception of the user's code into a JobError at the user's file and line.

    where: the file or module as the job names it. filename: the user's file as tracebacks name it. key: the job's
    key that names the code.
    """
    try:
        yield
    except JobError:
        raise
    except Exception as e:
        own = str(Path(__file__).parent)
        frames = [f for f in traceback.extract_tb(e.__traceback__) if not f.filename.startswith(own)]
        users = [f for f in frames if f.filename == filename] if filename else []
        lines = [line for line in str(e).strip().splitlines() if line.strip()][:_MESSAGE_LINES]
        message = f"{doing}: {type(e).__name__}: " + "\n    ".join(lines)
        if isinstance(e, ModuleNotFoundError):
            message += ("; install it on every node, or keep the model in one file: "
                        "workers get that file alone, not its neighbours")
        if type(e).__name__ == "TraceContextError":  # Flax's own loops change their random state at each step
            message += f"\n    a loop of Flax's (nnx.RNN, nnx.scan) cannot be proved: {UNROLL}"
        for f in users[:-1]:
            message += f"\n    called from {where}:{f.lineno} in {f.name}: {f.line}"
        at = f"{where}:{users[-1].lineno}" if users else where
        if users:
            message += f"\n    {at} in {users[-1].name}: {users[-1].line}"
        raise JobError(Fault(at, key, message)) from e
