"""The cache of circuits and SRS files: entries by content hash, atomic, checked when loaded.

An entry is a folder under the user's cache folder. It is built in a temporary folder beside it and
renamed, so it is whole or not there; two jobs that start at once are kept apart by a lock, and the
second one finds what the first one made. Every file's SHA-256 is checked on loading; an entry that
is damaged is removed and built again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from enclaveml.errors import EnvironmentFault

_DIGESTS = "files.json"  # name -> SHA-256 of every other file of the entry


def cache_root() -> Path:
    """ENCLAVEML_CACHE, else XDG_CACHE_HOME/enclaveml, else ~/.cache/enclaveml."""
    if given := os.environ.get("ENCLAVEML_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "enclaveml"


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def key_of(document: dict[str, Any]) -> str:
    """The name of an entry: SHA-256 (hex) of the document that says what is in it."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder, but of the digests' own file."""
    return {p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.name != _DIGESTS}


class Cache:
    """The cache folder (0700). ``kind`` below is a subfolder: circuits, plans or srs."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = cache_root() if root is None else Path(root)
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chmod(self.root, 0o700)
        except OSError as error:
            raise EnvironmentFault(
                f"{self.root}: the cache folder cannot be made: {error.strerror}; set ENCLAVEML_CACHE"
            ) from error

    def entry(
        self, kind: str, key: str, build: Callable[[Path], None], timeout_s: float,
        progress: Callable[[str], None] = lambda line: None,
    ) -> Path:
        """The folder of an entry, made by ``build(folder)`` if it is not there whole.

        Waits at most ``timeout_s`` for another process that makes the same entry; then raises
        EnvironmentFault.
        """
        folder = self.root / kind
        folder.mkdir(exist_ok=True, mode=0o700)
        if found := self.load(kind, key, progress):
            return found
        with self._lock(folder / f"{key}.lock", timeout_s, progress):
            if found := self.load(kind, key, progress):
                return found
            temporary = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=folder))
            try:
                build(temporary)
                digests = file_digests(temporary)
                (temporary / _DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
                self._publish(temporary, folder / key)
            except OSError as error:
                raise EnvironmentFault(f"{folder}: the cache cannot be written: {error}") from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            return folder / key

    def new(self, kind: str, build: Callable[[Path], str]) -> Path:
        """The folder of an entry that is made now and is like no other: ``build(folder)`` returns its key."""
        folder = self.root / kind
        folder.mkdir(exist_ok=True, mode=0o700)
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        try:
            key = build(temporary)
            (temporary / _DIGESTS).write_text(json.dumps(file_digests(temporary), indent=1), encoding="utf-8")
            self._publish(temporary, folder / key)
        except OSError as error:
            raise EnvironmentFault(f"{folder}: the cache cannot be written: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder / key

    def load(self, kind: str, key: str, progress: Callable[[str], None] = lambda line: None) -> Path | None:
        """The folder of an entry whose every file has its SHA-256; None if there is none such."""
        folder = self.root / kind / key
        if not folder.is_dir():
            return None
        try:
            expected = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
            if file_digests(folder) == expected:
                return folder
        except (OSError, ValueError):
            pass
        progress(f"cache entry {kind}/{key[:16]} is damaged and is made again")
        return None

    @staticmethod
    def _publish(temporary: Path, final: Path) -> None:
        if final.exists():  # a damaged entry: out of the way first, a rename is atomic
            doomed = Path(tempfile.mkdtemp(prefix=".damaged-", dir=final.parent))
            os.rename(final, doomed / "entry")
            shutil.rmtree(doomed, ignore_errors=True)
        os.rename(temporary, final)

    @staticmethod
    @contextlib.contextmanager
    def _lock(path: Path, timeout_s: float, progress: Callable[[str], None]) -> Iterator[None]:
        deadline = time.monotonic() + timeout_s
        with open(path, "ab") as handle:
            told = False
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EnvironmentFault(
                            f"{path}: another process has been making this cache entry for more than "
                            f"{timeout_s:g} s"
                        ) from None
                    if not told:
                        progress("waiting for another process that makes the same keys")
                        told = True
                    time.sleep(0.2)
            yield
