"""The file of a structured reference string (SRS), as ezkl reads it and ceremonies publish it (``kzgNN.srs``).

Format (halo2 ``ParamsKZG``, raw bytes; read off ezkl 23.0.5's files): logrows k (u32,
little-endian), 2^k points G of 64 bytes, the same 2^k in Lagrange form, then G2 and s*G2 of 128
bytes each. Verification reads the first G, G2 and s*G2 alone, so a file of logrows 0 with those
verifies everything: 4 + 64 + 64 + 128 + 128 = 388 bytes.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from enclaveml.errors import EnvironmentFault

POINT, POINT2 = 64, 128
VERIFIER_BYTES = 4 + 2 * POINT + 2 * POINT2

#: Logrows above which no file is taken (one of 2^26 is 8.6 GB; ceremonies end there).
MAX_LOGROWS = 26


@dataclass(frozen=True)
class SrsFile:
    """A ceremony's file and the SHA-256 (hex) that the ceremony publishes for it."""

    path: Path
    sha256: str

    @property
    def origin(self) -> str:
        """What is written of it in a circuit's manifest."""
        return f"the file with SHA-256 {self.sha256}"


def file_bytes(logrows: int) -> int:
    """The length of an SRS file."""
    return 4 + 2 * (POINT << logrows) + 2 * POINT2


def logrows_of(path: Path) -> int:
    """k of an SRS file of 2^k rows, whose length must agree. Raises EnvironmentFault."""
    try:
        with open(path, "rb") as handle:
            (logrows,) = struct.unpack("<I", handle.read(4))
            length = handle.seek(0, 2)
        if logrows > MAX_LOGROWS or length != file_bytes(logrows):
            raise ValueError(f"logrows {logrows} and {length} bytes do not agree")
    except (OSError, ValueError, struct.error) as error:
        raise EnvironmentFault(f"{path}: not an SRS file: {error}") from error
    return logrows


def srs_problem(path: Path, sha256: str | None) -> str:
    """Why a job cannot use the SRS in this file; empty if it can. Reads all of it."""
    try:
        logrows_of(path)
        with open(path, "rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
    except EnvironmentFault as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if sha256 is None:
        return f"its SHA-256 is {found}: give the one that the ceremony publishes as proof.srs_sha256"
    if found != sha256.lower():
        return f"its SHA-256 is {found}, proof.srs_sha256 says {sha256.lower()}"
    return ""


def verifier_srs(path: Path) -> bytes:
    """The 388-byte SRS that verifies every proof made with the SRS in ``path``.

    Raises EnvironmentFault if that is no SRS file.
    """
    logrows_of(path)
    try:
        with open(path, "rb") as handle:
            handle.seek(4)
            generator = handle.read(POINT)
            handle.seek(-2 * POINT2, 2)
            return struct.pack("<I", 0) + generator + generator + handle.read()
    except OSError as error:
        raise EnvironmentFault(f"{path}: not an SRS file: {error}") from error
