"""The structured reference string: made once per size, and its 388 bytes that verification needs.

File format (halo2 ``ParamsKZG``, raw bytes; read off ezkl 23.0.5's files): logrows k (u32,
little-endian), 2^k points G of 64 bytes, the same 2^k in Lagrange form, then G2 and s*G2 of 128
bytes each. Verification reads the first G, G2 and s*G2 alone, so a file of logrows 0 with those
verifies everything: 4 + 64 + 64 + 128 + 128 = 388 bytes.

An SRS made here is "own": its secret was drawn on this machine and dropped, which convinces whoever
made it and nobody else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from enclaveml.errors import EnvironmentFault
from enclaveml.zk.ezkl import keys, process

POINT, POINT2 = 64, 128
VERIFIER_BYTES = 4 + 2 * POINT + 2 * POINT2

#: Logrows above which nothing is made (an SRS of 2^24 is 2 GB).
MAX_LOGROWS = 24


def file_bytes(logrows: int) -> int:
    """The length of an SRS file."""
    return 4 + 2 * (POINT << logrows) + 2 * POINT2


def verifier_srs(path: Path) -> bytes:
    """The 388-byte SRS that verifies every proof made with the SRS in ``path``.

    Raises EnvironmentFault if that is no SRS file.
    """
    try:
        with open(path, "rb") as handle:
            (logrows,) = struct.unpack("<I", handle.read(4))
            generator = handle.read(POINT)
            handle.seek(0, 2)
            if logrows > MAX_LOGROWS or handle.tell() != file_bytes(logrows):
                raise ValueError(f"logrows {logrows} and {handle.tell()} bytes do not agree")
            handle.seek(-2 * POINT2, 2)
            return struct.pack("<I", 0) + generator + generator + handle.read()
    except (OSError, ValueError, struct.error) as error:
        raise EnvironmentFault(f"{path}: not an SRS file: {error}") from error


def own_srs(
    cache: keys.Cache, child: process.Child, logrows: int, timeout_s: float,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """The cached SRS of this size, made first if need be (20 s and up at logrows 17)."""

    def build(folder: Path) -> None:
        progress(f"making the SRS for 2^{logrows} rows (once on this machine)")
        process.wait(child, "srs", timeout_s, path=str(folder / "srs"), logrows=logrows)

    return cache.entry("srs", f"own-{logrows}", build, timeout_s, progress) / "srs"
