"""What is fuzzed: a function per format that takes any bytes and raises nothing where all is well.

Own error classes are caught here; every other exception, a crash, or memory beyond the process's limit is a
finding. Each target reads everything that a user of the parser could ask for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from enclaveml.envelope import decode, encode
from enclaveml.errors import EnvironmentFault, FormatError, JobError
from enclaveml.job import load_job
from enclaveml.journal import read_records
from enclaveml.journal_format import FIRST, MAGIC, SALT_BYTES, hasher, preamble
from enclaveml.results import read_results
from enclaveml.results_schema import DRAWS, OUTPUTS, PROOFS, RANKS, REPLICAS, ROWS
from enclaveml.resume import Resume

Target = Callable[[bytes], None]

#: Between the records of ``journal`` data: header length and body length, which the harness makes right.
FRAME = struct.Struct("<II")


def envelope(folder: Path) -> Target:
    def one(data: bytes) -> None:
        try:
            read = decode(data)
        except FormatError:
            return
        if encode(read) != data:
            raise AssertionError("an envelope has two encodings")
    return one


def job(folder: Path) -> Target:
    (folder / "model.py").write_text("class Net: ...\n")
    (folder / "rows.npy").write_bytes(b"")
    path = folder / "job.yaml"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            loaded = load_job(path, ())
        except JobError:
            return
        path.write_text(loaded.resolved_yaml())
        if load_job(path, ()).resolved() != loaded.resolved():
            raise AssertionError("a resolved job says something else")
    return one


def journal(folder: Path) -> Target:
    """Records of any content, with lengths and digests that hold, then a tail as it comes."""
    path = folder / "j"

    def one(data: bytes) -> None:
        path.write_bytes(framed(data))
        _read_journal(path)
    return one


def journal_bytes(folder: Path) -> Target:
    """A journal whose bytes are spoilt."""
    path = folder / "j"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        _read_journal(path)
    return one


def _read_journal(path: Path) -> None:
    for read in (lambda: list(read_records(path)), lambda: Resume.load(path)):
        try:
            read()
        except (FormatError, EnvironmentFault):
            pass


def framed(data: bytes) -> bytes:
    """A journal of the records in ``data``."""
    salt = bytes(SALT_BYTES)
    out, at = MAGIC + salt, 0
    assert len(out) == FIRST
    while at + FRAME.size <= len(data):
        header_length, body_length = FRAME.unpack_from(data, at)
        header = data[at + FRAME.size:][:header_length]
        body = data[at + FRAME.size + len(header):][:body_length]
        digest = hasher(salt, len(out), len(header), len(body))
        digest.update(header + body)
        out += preamble(len(header), len(body), digest.digest()) + header + body
        at += FRAME.size + len(header) + len(body)
    return out + data[at:]


def unframed(path: Path) -> bytes:
    """``data`` that ``framed`` makes the journal at ``path`` of."""
    raw, at, out = path.read_bytes(), FIRST, b""
    front = struct.Struct("<4sIQ16sI")
    while at + front.size <= len(raw):
        _, header, body, _, _ = front.unpack_from(raw, at)
        at += front.size
        out += FRAME.pack(header, body) + raw[at: at + header + body]
        at += header + body
    return out


def results(folder: Path) -> Target:
    path = folder / "r.h5"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        read_everything(path)
    return one


def read_everything(path: Path) -> None:
    """All that a results file can be asked."""
    try:
        with read_results(path) as r:
            asks: list[Callable[[], object]] = [
                lambda: (r.status, r.versions, r.labels, r.n_answers, r.proofs_verified, r.ranks, r.combined),
                *[lambda c=c: r.take(c.path, np.arange(min(3, r.dataset(c.path).shape[0])))
                  for c in (*OUTPUTS, *ROWS, *REPLICAS, *PROOFS, *RANKS, *DRAWS)],
                lambda: (r.outputs(), r.proved_outputs(), r.inputs),
                *[lambda n=n: r.proof(n) for n in range(min(4, r.n_proofs))],
                *[lambda i=i: r.circuit(i) for i in r.circuit_ids],
            ]
            for ask in asks:
                try:
                    ask()
                except FormatError:
                    pass
    except (FormatError, EnvironmentFault):
        pass


TARGETS: dict[str, Callable[[Path], Target]] = {
    "envelope": envelope, "job": job, "journal": journal, "journal_bytes": journal_bytes, "results": results}
