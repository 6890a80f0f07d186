"""Every byte and every field of a results file: a change is found, or it is without meaning; then re-sealed.

ENCLAVEML_MUTATIONS sets how many bytes are flipped (2,000 and more are the full test; 150 otherwise) and,
in proportion, how many of them by an adversary who seals the file again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import audit_case
import h5py
import numpy as np
import pytest
from audit_case import replace, reseal, run
from small_job import SmallJob

from enclaveml import hdf5, seal
from enclaveml.errors import EnclaveError

pytestmark = pytest.mark.ezkl

#: Seconds without a verdict on one file after which its process is held to hang.
HUNG_S = 120.0

FLIPS = int(os.environ.get("ENCLAVEML_MUTATIONS", "150"))
RESEALED = max(20, FLIPS // 20)

# What no proof covers, and a signature alone protects; AUDIT.md has the same list in words.
UNPROVED = (
    "ranks/", "row/attempts", "row/label", "proofs/witness_seconds", "proofs/prove_seconds", "proofs/verify_seconds",
    "proofs/judged", "proofs/verdict", "draws/",
)
UNPROVED_ATTRIBUTES = (
    "message", "job", "job_given", "versions", "started", "finished", "counter", "sessions", "exit_code",
)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> SmallJob:
    base = tmp_path_factory.mktemp("mutations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", str(base / "cache"))
        yield audit_case.small_results(base, "public")


def content(path: Path) -> dict[str, str]:
    """Everything that can be read from a file, its seal included."""
    with h5py.File(path, "r") as file:
        found = {}
        for name, kind, node in hdf5.walk(file):
            found[name] = hdf5.describe(kind, node)
            if kind in ("group", "dataset"):
                found |= {f"{name}@{a}": text for a, text in hdf5.describe_attributes(node).items()}
            if kind == "dataset":
                found[f"{name}#"] = np.asarray(node[()]).tobytes().hex()
        return found


def judged(path: Path, original: dict[str, str]) -> str:
    """found, meaningless or missed: what the seal says of a changed file."""
    try:
        with hdf5.open_read(path) as file:
            check = seal.check_seal(file)
        if check.changes or not check.sealed:
            return "found"
        return "meaningless" if content(path) == original else "missed"
    except EnclaveError:
        return "found"


def flip_some(source: str, folder: str, seed: int, number: int, outcome) -> None:
    """In a process of its own: HDF5 may die of a damaged file, or hang in it, which ``hdf5_probe`` finds too."""
    data = Path(source).read_bytes()
    original, rng, path = content(Path(source)), np.random.default_rng(seed), Path(folder) / f"flip-{seed}.h5"
    for _ in range(number):
        at, bit = int(rng.integers(len(data))), int(rng.integers(8))
        outcome.put((at, "died"))
        changed = bytearray(data)
        changed[at] ^= 1 << bit
        path.write_bytes(changed)
        outcome.put((at, judged(path, original)))
    outcome.put((-1, "end"))


def test_random_bytes(job, tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    counts = {"found": 0, "meaningless": 0, "missed": 0, "died": 0}
    done, seed, missed = 0, 0, []
    while done < FLIPS:
        outcome = context.SimpleQueue()
        number = min(50, FLIPS - done)
        child = context.Process(target=flip_some, args=(str(job.results), str(tmp_path), seed, number, outcome))
        child.start()
        results, heard = {}, time.monotonic()
        while child.is_alive() or not outcome.empty():
            if outcome.empty():
                child.join(0.05)
                if time.monotonic() - heard > HUNG_S:
                    child.kill()
                continue
            at, what = outcome.get()
            heard = time.monotonic()
            if what == "end":
                break
            results[len(results) if what == "died" else len(results) - 1] = (at, what)
        child.join()
        for at, what in results.values():
            counts[what] += 1
            missed += [at] if what == "missed" else []
        done, seed = done + len(results), seed + 1
    print(f"flipped bytes of {job.results.stat().st_size}: {json.dumps(counts)}")
    assert counts["missed"] == 0, missed
    assert done >= FLIPS and counts["found"] > FLIPS // 2


def fields(path: Path) -> list[str]:
    with h5py.File(path) as file:
        names = [f"@{name}" for name in file.attrs]
        names += [name for name, kind, node in hdf5.walk(file)
                  if kind == "dataset" and node.size and not name.startswith("seal/")]
        return names


def alter(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    """One bit of a dataset, or an attribute's value."""
    if name.startswith("@"):
        value = file.attrs[name[1:]]
        file.attrs[name[1:]] = value + 1 if isinstance(value, np.integer) else f"{value}x" if value else "x"
        return
    data = np.ascontiguousarray(file[name][()])
    raw = bytearray(data.tobytes())
    raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    replace(file, name, np.frombuffer(bytes(raw), data.dtype).reshape(data.shape))


def protected_by_signature_alone(name: str) -> bool:
    return name[1:] in UNPROVED_ATTRIBUTES if name.startswith("@") else name.startswith(UNPROVED)


def test_every_field(job, tmp_path) -> None:
    """With the seal every field is found; sealed again, all that follows from proofs is."""
    rng = np.random.default_rng(5)
    path, names = tmp_path / "field.h5", fields(job.results)
    escaped = []
    for name in names:
        path.write_bytes(job.results.read_bytes())
        with h5py.File(path, "r+") as file:
            alter(file, name, rng)
        with hdf5.open_read(path) as file:
            changes = seal.check_seal(file).changes
        place = f"/: attribute {name[1:]}" if name.startswith("@") else f"/{name}"
        assert place in [change.where for change in changes], name
        reseal(path)
        if not run(path).failures:
            escaped.append(name)
    print(f"{len(names)} fields, each found; sealed again {len(escaped)} escape: {', '.join(escaped)}")
    assert [name for name in escaped if not protected_by_signature_alone(name)] == []


def test_random_bytes_of_content_sealed_again(job, tmp_path) -> None:
    """An adversary changes one bit of what proofs cover and seals the file: always found."""
    rng = np.random.default_rng(9)
    path = tmp_path / "resealed.h5"
    covered = [name for name in fields(job.results) if not protected_by_signature_alone(name) and not name.startswith("@")]
    with h5py.File(job.results) as file:
        sizes = np.array([file[name].nbytes for name in covered], float)
    escaped = []
    for _ in range(RESEALED):
        name = covered[int(rng.choice(len(covered), p=sizes / sizes.sum()))]
        path.write_bytes(job.results.read_bytes())
        with h5py.File(path, "r+") as file:
            alter(file, name, rng)
        reseal(path)
        if not run(path).failures:
            escaped.append(name)
    print(f"{RESEALED} bits of proofs, rows and keys, sealed again: {len(escaped)} escape")
    assert escaped == []
