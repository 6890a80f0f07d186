"""A private folder for witnesses and proofs, in memory where there is room.

Witnesses hold inputs and activations, so the folder is 0700 and goes away with its owner: at close,
at exit, and, where the owner was killed, when the next owner starts (it holds a lock on a file in
its folder; a folder whose lock is free has no owner).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path

_PREFIX = "enclaveml-scratch-"
_ROOM_BYTES = 1 << 30


def _roots() -> list[Path]:
    return [Path("/dev/shm"), Path(tempfile.gettempdir())]


def _has_room(root: Path) -> bool:
    try:
        return os.access(root, os.W_OK | os.X_OK) and shutil.disk_usage(root).free >= _ROOM_BYTES
    except OSError:
        return False


def _remove_orphans(root: Path) -> None:
    """Remove this user's scratch folders whose owner is gone."""
    with contextlib.suppress(OSError):
        for folder in root.glob(f"{_PREFIX}{os.getuid()}-*"):
            with contextlib.suppress(OSError), open(folder / "lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _remove(path: str, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked copy of this process owns nothing
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def private(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open` whose files are 0600."""
    return os.open(path, flags, 0o600)


class Scratch:
    """A private folder; ``path`` inside the given root, else on /dev/shm or TMPDIR."""

    def __init__(self, root: Path | None = None) -> None:
        if root is None:
            root = next((r for r in _roots() if _has_room(r)), _roots()[-1])
        else:
            root = Path(root)
            root.mkdir(parents=True, exist_ok=True)
        _remove_orphans(root)
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getuid()}-", dir=root))  # mode 0700
        # named "lock" only once it is locked, so that nobody takes a new folder for an orphan
        lock = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(self.path / ".lock", self.path / "lock")
        self.close = weakref.finalize(self, _remove, str(self.path), lock, os.getpid())

    def file(self, name: str) -> Path:
        """A path in the folder."""
        return self.path / name

    def write(self, name: str, data: bytes | str) -> str:
        """Write a file, mode 0600, and return its path."""
        path = f"{self.path}/{name}"
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as handle:
            handle.write(data.encode() if isinstance(data, str) else data)
        return path

    def drop(self, *names: str) -> None:
        """Remove files of the folder, if they are there."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}/{name}")
