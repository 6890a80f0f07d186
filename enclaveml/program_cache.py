"""Compiled programs that are kept between runs: a model's inference is compiled once for a kind of CPU, not at every start.

JAX's own compilation cache does it (https://docs.jax.dev/en/latest/persistent_compilation_cache.html), over a folder that
is this process's alone: JAX writes an entry in place, where a process that is killed leaves half of one, which
nobody would ever mend. What a process that ended well has made is renamed into the folder that all ranks and runs share. (A disk that
was full meanwhile can leave part of an entry all the same: JAX warns of it at each start and compiles anew, until it is removed.)

On the CPU only. XLA compiles for the very CPU, whose features its cache does not ask for: each kind has a folder, and in it
each model, so that a rank finds a few entries and not those of every job that ever was.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

#: Models of one kind of CPU whose programs are kept at most, those that ran last, and programs of one model, those that
#: were made last; one takes 10 kB to some MB.
MOST_MODELS, MOST = 100, 20
#: What a killed process left behind goes after so many seconds.
STALE_S = 24 * 3600.0
#: JAX's name for an entry ends so.
ENTRY = "*-cache"


def cpu_kind(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """A name of this CPU's kind, by its model and its features; "" where the system does not tell."""
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return ""
    told = sorted(line for line in first.splitlines() if line.split("\t")[0].strip() in (
        "model name", "flags", "Features", "CPU implementer", "CPU part"))
    return hashlib.sha256("\n".join([platform.machine(), *told]).encode()).hexdigest()[:16] if told else ""


@contextlib.contextmanager
def kept_programs(root: Path, model: str) -> Iterator[None]:
    """What JAX compiles inside for the CPU is taken from ``root``/programs, or put there, under the model's name (a digest).

    Where that cannot be (no such folder, one that others may write to, a full disk, a system that tells nothing of its
    CPU, a cache that the user gave JAX) everything goes on without.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    kind = cpu_kind()
    mine = _own_folder(root, root / "programs" / kind / model) if kind and not jax.config.jax_compilation_cache_dir else None
    if mine is None:
        yield
        return
    settings = {"jax_compilation_cache_dir": str(mine), "jax_persistent_cache_min_compile_time_secs": 0.0,
                "jax_persistent_cache_min_entry_size_bytes": 0,
                # GPUs' caches, whose path would be part of what an entry is found by.
                "jax_persistent_cache_enable_xla_caches": "none"}
    before = {name: getattr(jax.config, name) for name in settings}
    whole = False
    try:
        _configure(settings)
        compilation_cache.reset_cache()  # it looks at its settings once
        yield
        whole = True
    finally:
        _configure(before)
        compilation_cache.reset_cache()
        if whole:  # else a program may be half written
            _share(mine)
        shutil.rmtree(mine, ignore_errors=True)


def _configure(settings: dict[str, object]) -> None:
    import jax

    for name, value in settings.items():
        jax.config.update(name, value)


def _own_folder(root: Path, shared: Path) -> Path | None:
    """A folder with links to what is shared. None where there can be none."""
    kind = shared.parent
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (kind.parent, kind, shared):
            folder.mkdir(exist_ok=True, mode=0o700)
        for folder in (root, kind.parent, kind, shared):
            found = folder.stat()
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:  # what is in there is run
                log.debug("compiled programs are not kept: others may write to %s", folder)
                return None
        for left in shared.glob(".run-*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_S:
                    shutil.rmtree(left, ignore_errors=True)
        mine = Path(tempfile.mkdtemp(prefix=".run-", dir=shared))  # which dates the model's folder: it ran last
        for entry in shared.glob(ENTRY):
            with contextlib.suppress(OSError):  # removed meanwhile, or no links here: compiled anew
                os.link(entry, mine / entry.name)
        return mine
    except OSError as error:
        log.debug("compiled programs are not kept: %s", error)
        return None


def _share(mine: Path) -> None:
    """Rename what is new into the shared folder, and drop what is old there."""
    shared = mine.parent
    with contextlib.suppress(OSError):
        for entry in mine.glob(ENTRY):
            if not (shared / entry.name).exists():
                entry.rename(shared / entry.name)
        made = sorted(shared.glob(ENTRY), key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in made[MOST:]:
            entry.unlink(missing_ok=True)
        models = sorted((each for each in shared.parent.iterdir() if each.is_dir()),
                        key=lambda each: each.stat().st_mtime, reverse=True)
        for each in models[MOST_MODELS:]:
            shutil.rmtree(each, ignore_errors=True)
