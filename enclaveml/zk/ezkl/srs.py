"""The SRS that a circuit's keys are made with: this machine's own, or a public ceremony's.

One that is made here is "own": its secret was drawn on this machine and dropped, which convinces whoever
made it and nobody else. A ceremony's file convinces whoever trusts one of its participants. Where it is
larger than the circuit needs, the part that is needed is made of it once and cached.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from enclaveml.errors import EnvironmentFault
from enclaveml.srs_file import SrsFile, logrows_of
from enclaveml.zk import keys, process
from enclaveml.zk.ezkl import srs_reduce

#: What a manifest says of an SRS that was made here.
OWN = "own"


def origin(given: SrsFile | None) -> str:
    """What a circuit's manifest says of its SRS."""
    return OWN if given is None else given.origin


def whole_srs(
    cache: keys.Cache, child: process.Child, logrows: int, given: SrsFile | None, timeout_s: float,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """The SRS of exactly 2^logrows rows: from the ceremony's file, or (None) this machine's own. See both below."""
    if given is None:
        return own_srs(cache, child, logrows, timeout_s, progress)
    return part_of(cache, logrows, given, timeout_s, progress)


def part_of(
    cache: keys.Cache, logrows: int, given: SrsFile, timeout_s: float,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """The SRS of exactly 2^logrows rows out of a ceremony's file: that file, or what was made of it in the cache.

    Exactly, because ezkl 23.0.5's ``kzg_commit`` takes a larger file as it is and commits to something else;
    its ``setup`` and ``prove`` reduce it, in every call.
    Raises EnvironmentFault for a file that is too small, none, or not the one with that SHA-256.
    """
    has = logrows_of(given.path)
    if has < logrows:
        raise EnvironmentFault(f"{given.path}: has 2^{has} rows, the circuit needs 2^{logrows}")
    check(given)
    if has == logrows:
        return given.path

    def build(folder: Path) -> None:
        products = (logrows + 2) * 2 ** (logrows - 1)
        progress(f"making an SRS of 2^{logrows} rows out of {given.path.name}, which has 2^{has} (once on this machine; "
                 f"some {math.ceil(products * 1.5e-3)} s of a core)")
        try:
            srs_reduce.reduced(given.path, logrows, folder / "srs")
        except ValueError as error:
            raise EnvironmentFault(f"{given.path}: not an SRS file: {error}") from error

    return cache.entry("srs", f"{given.sha256[:32]}-{logrows}", build, timeout_s, progress) / "srs"


def check(given: SrsFile) -> None:
    """Raise EnvironmentFault unless the file has its SHA-256."""
    try:
        found = keys.sha256_file(given.path)
    except OSError as error:
        raise EnvironmentFault(f"{given.path}: cannot be read: {error.strerror}") from error
    if found != given.sha256.lower():
        raise EnvironmentFault(f"{given.path}: SHA-256 is {found}, expected {given.sha256.lower()}")


def own_srs(
    cache: keys.Cache, child: process.Child, logrows: int, timeout_s: float,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """The cached SRS of this size, made first if need be (20 s and up at logrows 17)."""

    def build(folder: Path) -> None:
        progress(f"making the SRS for 2^{logrows} rows (once on this machine)")
        process.wait(child, "srs", timeout_s, path=str(folder / "srs"), logrows=logrows)

    return cache.entry("srs", f"own-{logrows}", build, timeout_s, progress) / "srs"
