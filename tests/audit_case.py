"""Results files for the tests of the audit: small real jobs, run once a session on one rank; and ways to change them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from small_job import SmallJob, dataset, write_small_job

from enclaveml import hdf5, seal
from enclaveml.audit import AuditOptions, audit
from enclaveml.audit_report import Report

ROOT = Path(__file__).resolve().parent.parent
N = 10
SECTIONS: dict[str, dict] = {
    "public": {},
    "committed": {"proof": {"inputs": "committed"}},
    "bounded": {"proof": {"inputs": "committed", "bounded_inputs": True}},
    "hashed": {"proof": {"inputs": "hashed"}},
    "sampled": {"proof": {"coverage": 0.5}},
}


def environment(cache: Path) -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "PYTHONPATH": path, "ENCLAVEML_CACHE": str(cache)}


def one_core() -> None:
    """One core makes one prover, so that bundles are in the file in the order of their rows."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def small_results(base: Path, mode: str) -> SmallJob:
    """The finished job of a mode in ``base``; its cache is ``base / "cache"``."""
    folder = base / mode
    if (folder / "results.h5").exists():
        return SmallJob(folder / "job.yaml", dataset(N))
    job = write_small_job(folder, N, SECTIONS[mode])
    done = subprocess.run([sys.executable, "-m", "enclaveml", "run", str(job.path)], env=environment(base / "cache"),
                          capture_output=True, text=True, timeout=900, check=False, preexec_fn=one_core)
    assert done.returncode == 0, done.stderr
    return job


def rebuilt_id(job: SmallJob, cache: Path) -> str:
    """``enclaveml hash --circuit --like results.h5``: in a process of its own, where JAX comes up afresh."""
    command = [sys.executable, "-m", "enclaveml", "hash", "--circuit", "--like", str(job.results), str(job.path)]
    done = subprocess.run(command, env=environment(cache), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    ((found, role),) = (line.split() for line in done.stdout.splitlines())
    assert role == "primary"
    return found


def copied(job: SmallJob, folder: Path) -> Path:
    return Path(shutil.copy(job.results, folder / "copy.h5"))


def reseal(path: Path) -> None:
    """What an adversary without the signing key can do: seal the file again as it is."""
    with h5py.File(path, "r+") as file:
        file.pop("seal", None)
        seal.write_seal(file)


def changed(job: SmallJob, folder: Path, change: Callable[[h5py.File], None], sealed: bool = True) -> Path:
    """A copy with ``change`` made, sealed again as an adversary would."""
    path = copied(job, folder)
    with h5py.File(path, "r+") as file:
        change(file)
        if not sealed:
            file.pop("seal", None)
    if sealed:
        reseal(path)
    return path


def replace(file: h5py.File, path: str, data: np.ndarray) -> None:
    """Another content for a dataset, of any shape, with its attributes."""
    attributes, dtype = dict(file[path].attrs), file[path].dtype
    del file[path]
    hdf5.write(file, path, np.asarray(data).astype(dtype), long_name="", units="")
    for name, value in attributes.items():
        file[path].attrs[name] = value


def findings(path: Path, **options) -> list[str]:
    return [str(failure) for failure in run(path, **options).failures]


def run(path: Path, **options) -> Report:
    return audit(AuditOptions(results=path, processes=1, **options))
