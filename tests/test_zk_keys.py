"""The cache: atomic, shared by processes, checked on every load; the SRS file's format."""

from __future__ import annotations

import multiprocessing
import os
import struct
import time
from pathlib import Path

import pytest

from enclaveml import srs_file
from enclaveml.errors import EnvironmentFault
from enclaveml.zk import keys


def build_slowly(folder: Path) -> None:
    time.sleep(0.5)
    (folder / "made-by").write_text(str(os.getpid()))


def race(root: str, start, results) -> None:
    start.wait()
    entry = keys.Cache(Path(root)).entry("circuits", "k", build_slowly, 60)
    results.put((entry / "made-by").read_text())


def test_two_processes_make_an_entry_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Event(), spawn.Queue()
    jobs = [spawn.Process(target=race, args=(str(tmp_path), start, results)) for _ in range(2)]
    for job in jobs:
        job.start()
    start.set()
    found = [results.get(timeout=60) for _ in jobs]
    for job in jobs:
        job.join()
    assert found[0] == found[1]
    assert sorted(p.name for p in (tmp_path / "circuits").iterdir()) == ["k", "k.lock"]
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["flip", "missing", "extra", "digests"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    cache, made, told = keys.Cache(tmp_path), [], []

    def build(folder: Path) -> None:
        made.append(1)
        (folder / "a").write_bytes(b"key")
        (folder / "b").write_bytes(b"other")

    entry = cache.entry("circuits", "k" * 64, build, 10, told.append)
    assert cache.entry("circuits", "k" * 64, build, 10, told.append) == entry and len(made) == 1 and not told
    if damage == "flip":
        (entry / "a").write_bytes(b"kez")
    elif damage == "missing":
        (entry / "b").unlink()
    elif damage == "extra":
        (entry / "c").write_bytes(b"")
    else:
        (entry / "files.json").write_text("{")
    assert cache.entry("circuits", "k" * 64, build, 10, told.append) == entry
    assert len(made) == 2 and (entry / "a").read_bytes() == b"key" and not (entry / "c").exists()
    assert told[0] == f"cache entry circuits/{'k' * 16} is damaged and is made again"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="^stopped$"):
        keys.Cache(tmp_path).entry("circuits", "k", build, 10)
    assert [p.name for p in (tmp_path / "circuits").iterdir()] == ["k.lock"]


def test_waiting_for_another_process_has_an_end(tmp_path: Path) -> None:
    cache = keys.Cache(tmp_path)

    def build(folder: Path) -> None:
        cache.entry("circuits", "k", build_slowly, 0.3)  # held by the outer call

    with pytest.raises(EnvironmentFault) as caught:
        cache.entry("circuits", "k", build, 10)
    assert str(caught.value) == (
        f"{tmp_path / 'circuits' / 'k.lock'}: another process has been making this cache entry for more than 0.3 s"
    )


def test_where_the_cache_is(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENCLAVEML_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert keys.cache_root() == Path("/a")
    monkeypatch.delenv("ENCLAVEML_CACHE")
    assert keys.cache_root() == Path("/b/enclaveml")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keys.cache_root() == tmp_path / ".cache" / "enclaveml"


def test_the_verifiers_srs_is_cut_out_of_the_whole(tmp_path: Path) -> None:
    points = [bytes([i]) * 64 for i in range(8)]
    whole = struct.pack("<I", 2) + b"".join(points) + b"g" * 128 + b"s" * 128
    path = tmp_path / "srs"
    path.write_bytes(whole)
    cut = srs_file.verifier_srs(path)
    assert cut == struct.pack("<I", 0) + points[0] * 2 + b"g" * 128 + b"s" * 128
    assert len(cut) == srs_file.VERIFIER_BYTES == srs_file.file_bytes(0) == 388
    path.write_bytes(whole[:-1])
    with pytest.raises(EnvironmentFault) as caught:
        srs_file.verifier_srs(path)
    assert str(caught.value) == f"{path}: not an SRS file: logrows 2 and 771 bytes do not agree"
