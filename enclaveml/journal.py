"""An append-only journal: what a job knows so far; a kill at any moment loses nothing before it.

An HDF5 file that its writer was killed over may be unreadable, and none can be read while it is
being written; so a running job appends here, beside its results file, and that file is made from
this one. The bytes are journal_format.py's.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml import records
from enclaveml.errors import EnvironmentFault, JobError
from enclaveml.journal_format import (
    FIRST,
    HEADER_LIMIT,
    MAGIC,
    SALT_BYTES,
    Record,
    hasher,
    preamble,
    read_start,
    scan,
)

#: Errors of a file system, and what the user can do about each.
REMEDIES = {
    errno.ENOSPC: "make room, then --resume",
    errno.EDQUOT: "your quota is used up: make room, then --resume",
    errno.EFBIG: "the file size limit (ulimit -f, or the file system's) is reached: raise it, then --resume",
    errno.EROFS: "the file system is mounted read-only: have it mounted writable, "
    "or give another output with -o",
    errno.EIO: "the disk or network file system fails: see the system's log, then --resume",
    errno.ESTALE: "the network file system went away: when it is back, --resume",
    errno.ENOENT: "the folder is not there: make it, or give another output with -o",
    errno.EACCES: "writing there is not permitted: give another output with -o",
}

#: A record's parts of fewer bytes are copied into one piece and written at once.
JOINED_BYTES = 1 << 20


class Journal:
    """The writing end. One process at a time has it open (an advisory lock on the file)."""

    def __init__(self, path: Path, descriptor: int, salt: bytes, end: int) -> None:
        self.path, self._fd, self._salt, self._end = path, descriptor, salt, end
        self._dirty = False  # bytes of a failed append lie behind the end
        self._refusal = ""

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False, private: bool = False) -> Journal:
        """Start a new journal; ``private`` makes it 0600 whatever the umask (inputs that are not public).

        Raises JobError if it exists (and ``overwrite`` is false), EnvironmentFault.
        """
        path = Path(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if overwrite else os.O_EXCL)
        try:
            descriptor = os.open(path, flags, 0o600 if private else 0o666)
        except FileExistsError as error:
            raise JobError(
                f"{path}: exists: --resume goes on with that job, --force starts afresh"
            ) from error
        except OSError as error:
            raise _fault(path, error) from error
        journal = cls(path, descriptor, os.urandom(SALT_BYTES), 0)
        try:
            _lock(path, descriptor)
            if private:
                os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
            journal._write([MAGIC + journal._salt])
            journal.flush()
            _sync_folder(path.parent)
        except OSError as error:
            journal.close()
            raise _fault(path, error) from error
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def open_append(cls, path: str | Path) -> Journal:
        """Open a journal to go on; a torn last record is cut off. Reads and checks the whole file.

        Raises FormatError for damage before the tail (nothing is cut off then), EnvironmentFault.
        """
        path = Path(path)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _fault(path, error) from error
        try:
            _lock(path, descriptor)
            with open(path, "rb") as stream:
                salt, end = read_start(path, stream), FIRST
                for _, after in scan(path, stream, salt, FIRST, 0):
                    end = after
            journal = cls(path, descriptor, salt, end)
            os.ftruncate(descriptor, end)
            journal.flush()
            return journal
        except OSError as error:
            os.close(descriptor)
            raise _fault(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise

    def append(self, kind: str, meta: Mapping[str, Any] | None = None, **parts: np.ndarray | bytes) -> None:
        """Append one record: JSON-able ``meta``, arrays (any shape, no objects) and bytes by name.

        Readers see it at once; it survives a crash of the machine after :meth:`flush`. A failed
        append leaves the journal as it was. Raises ValueError for a record that is not as
        ``records.KINDS`` says, EnvironmentFault.
        """
        meta = dict(meta or {})
        arrays = {
            k: np.ascontiguousarray(v) if np.ndim(v) else np.asarray(v)
            for k, v in parts.items()
            if not isinstance(v, (bytes, bytearray, memoryview))
        }
        blobs = {k: bytes(v) for k, v in parts.items() if k not in arrays}
        wrong = records.fault(kind, meta, arrays, blobs)
        if wrong:
            raise ValueError(wrong)
        described, body, length = [], [], 0
        for name, value in (*arrays.items(), *blobs.items()):
            if isinstance(value, bytes):
                described.append({"name": name, "dtype": "bytes", "shape": [len(value)], "offset": length})
                body.append(memoryview(value))
            else:
                if value.dtype.kind not in "biuf":
                    raise ValueError(f"{kind} record: array {name} is {value.dtype}, expected numbers")
                value = value.astype(value.dtype.newbyteorder("<"), copy=False)
                described.append(
                    {"name": name, "dtype": value.dtype.str, "shape": list(value.shape), "offset": length}
                )
                body.append(memoryview(value.reshape(-1).view(np.uint8)))
            length += len(body[-1])
        header = json.dumps(
            {"kind": kind, "time": time.time(), "meta": meta, "parts": described}, separators=(",", ":")
        ).encode()
        if len(header) > HEADER_LIMIT:
            raise ValueError(f"{kind} record: meta of {len(header)} bytes; at most {HEADER_LIMIT}")
        digest = hasher(self._salt, self._end, len(header), length)
        for piece in (header, *body):
            digest.update(piece)
        start = preamble(len(header), length, digest.digest())
        pieces = [start + header, *body]
        # One call of the kernel for a small record: a thousand ranks give rank 0 hundreds a second.
        self._write([b"".join(pieces)] if length < JOINED_BYTES else pieces)

    def flush(self) -> None:
        """Force everything appended to the disk. After a failure here the journal takes no more records,
        since the kernel may have dropped pages that it could not write. Raises EnvironmentFault."""
        if self._refusal:
            raise EnvironmentFault(self._refusal)
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS):
                return  # a file system without fsync
            fault = _fault(self.path, error)
            self._refusal = str(fault)
            raise fault from error

    def close(self) -> None:
        """Close and unlock; does nothing the second time."""
        if self._fd >= 0:
            descriptor, self._fd = self._fd, -1
            self._refusal = f"{self.path}: the journal is closed"
            os.close(descriptor)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, pieces: list[bytes | memoryview]) -> None:
        if self._refusal:
            raise EnvironmentFault(self._refusal)
        offset = self._end
        try:
            if self._dirty:
                os.ftruncate(self._fd, self._end)
                self._dirty = False
            self._dirty = True
            for piece in pieces:
                view = memoryview(piece)
                while len(view):
                    written = os.pwrite(self._fd, view[: 1 << 30], offset)
                    offset, view = offset + written, view[written:]
            self._dirty = False
        except OSError as error:
            try:
                os.ftruncate(self._fd, self._end)
                self._dirty = False
            except OSError:
                pass  # a reader takes what is left for a torn tail, the next append tries again
            raise _fault(self.path, error) from error
        self._end = offset


def read_records(path: str | Path, *, kinds: frozenset[str] | set[str] | None = None) -> Iterator[Record]:
    """Every whole record in order, one in memory at a time; stops quietly at a torn tail.

    The journal may be growing meanwhile. ``kinds`` passes over others (they are checked all the
    same). Raises FormatError for damage before the tail (with its offset), EnvironmentFault.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            for record, _ in scan(path, stream, read_start(path, stream), FIRST, 0):
                if kinds is None or record.kind in kinds:
                    yield record
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror or error}") from error


def holds_nothing(path: str | Path) -> bool:
    """Whether a journal has no whole record: its job was killed while it wrote the first, and nothing is lost with it.

    Raises FormatError for a file that is no journal and for damage with whole records after it, EnvironmentFault.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            if MAGIC.startswith(stream.read(FIRST)[: len(MAGIC)]) and os.fstat(stream.fileno()).st_size < FIRST:
                return True
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror or error}") from error
    return next(read_records(path), None) is None


def tail(
    path: str | Path, offset: int = FIRST, number: int = 0, salt: bytes = b""
) -> Iterator[tuple[Record, int, bytes]]:
    """Whole records from ``offset`` on, each with the offset behind it and the journal's salt.

    Where the file's salt is not ``salt``, another journal has taken its place: all of that one's records
    are given. ``number`` is that of the first record. Raises as :func:`read_records`.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            found = read_start(path, stream)
            if found != salt:
                offset, number = FIRST, 0
            for record, after in scan(path, stream, found, offset, number):
                yield record, after, found
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror or error}") from error


def written_here(path: str | Path, locks: Path = Path("/proc/locks")) -> bool:
    """Whether a process of this machine has the journal open for writing, as far as can be seen.

    Reads the kernel's table of locks instead of trying for one: a writer that starts at that moment
    would be refused. References: proc(5), /proc/locks.
    """
    try:
        there = os.stat(path)
        table = locks.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    name = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    return any(
        words[1] == "FLOCK" and words[3] == "WRITE" and words[5] == name
        for words in (line.split() for line in table.splitlines())
        if len(words) >= 6 and words[1] != "->"
    )


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise EnvironmentFault(
                f"{path}: another job is writing it; wait for that job or end it"
            ) from error
        # No locks on this file system (Lustre without -o flock, some NFS): go on without.


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # not every file system can; the file itself was synced
    finally:
        os.close(descriptor)


def _fault(path: Path, error: OSError) -> EnvironmentFault:
    remedy = REMEDIES.get(error.errno or 0, "")
    return EnvironmentFault(
        f"{path}: cannot be written: {error.strerror or error}" + (f"; {remedy}" if remedy else "")
    )
