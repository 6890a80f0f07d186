"""What is fuzzed: a function per format that takes any bytes and raises nothing where all is well.

Own error classes are caught here; every other exception, a crash, or memory beyond the process's limit is a
finding. Each target reads everything that a user of the parser could ask for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from enclaveml.envelope import decode, encode
from enclaveml.errors import EnvironmentFault, FormatError, JobError
from enclaveml.job import load_job
from enclaveml.journal import read_records
from enclaveml.journal_format import FIRST, MAGIC, SALT_BYTES, hasher, preamble
from enclaveml.results import read_results
from enclaveml.results_schema import DRAWS, OUTPUTS, PROOFS, RANKS, REPLICAS, ROWS
from enclaveml.resume import Resume
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.verify.api import Rejected, proof_bytes, verify, verify_weights, weights_proof_bytes

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


def results_edits(folder: Path) -> Target:
    """A results file that HDF5 can read, in which four bytes of ``data`` each change one thing."""
    path, sound = folder / "e.h5", folder.joinpath("sound.h5")
    sound.write_bytes(made_results(folder))
    with h5py.File(sound) as file:
        names: list[str] = []
        file.visit(names.append)
        groups = [n for n in names if isinstance(file[n], h5py.Group)]
    values = [np.zeros(0), np.zeros((6, 3), np.float32), np.arange(6), np.array(7), np.full(6, 255, np.uint8), np.full(7, -1),
              np.array([b"\xff\xfe"] * 6), np.array([b"x"]), np.full((6, 3), np.nan), np.arange(3, dtype=np.uint64) << 62,
              "text", "{", "[" * 5000, h5py.Empty("f8"), np.array(["a", "b"], object), np.zeros(6, "i4,f8"), 1 << 63, -1.5]

    def one(data: bytes) -> None:
        path.write_bytes(sound.read_bytes())
        with h5py.File(path, "r+") as file:
            for what, where, value, which in zip(*[iter(data[:32])] * 4):
                try:
                    _edit(file, what % 6, names[where % len(names)], values[value % len(values)], groups, which)
                except (ValueError, KeyError, TypeError, OSError, RuntimeError, IndexError, ZeroDivisionError, AttributeError):
                    pass  # h5py does not do that
        read_everything(path)
    return one


def _edit(file: h5py.File, what: int, name: str, value: object, groups: list[str], which: int) -> None:
    if what in (0, 1, 2):
        del file[name]
    if what == 1:
        file[name] = value
    elif what == 2:
        file[name] = [h5py.SoftLink("/outputs"), h5py.ExternalLink("other.h5", "/x"), file["/"], file["row"]][which % 4]
    elif what == 3:
        node = file[name] if which & 1 else file
        keys = sorted(node.attrs)
        node.attrs[keys[which % len(keys)]] = value
    elif what == 4:
        node = file[name] if which & 1 else file
        del node.attrs[sorted(node.attrs)[which % len(node.attrs)]]
    elif what == 5:
        file[groups[which % len(groups)]].create_dataset(f"more{which}", data=value, chunks=True if which & 1 else None)


def made_results(folder: Path) -> bytes:
    """A results file of two bundles, three ranks and a redundant row."""
    from results_case import Case

    from enclaveml.results import RowStatus, build_results

    case = Case(folder / "made.journal", 6, 3, "redundant")
    case.outputs(1, [0, 1, 2])
    case.bundle(1, [0, 1, 2])
    case.outputs(2, [2, 3, 4, 5])
    case.bundle(2, [2, 3, 4, 5], [RowStatus.VERIFIED, RowStatus.REJECTED, RowStatus.VERIFIED, RowStatus.VERIFIED])
    case.end("complete")
    case.journal.close()
    build_results(folder / "made.journal", folder / "made.h5", labels=np.arange(6))
    return (folder / "made.h5").read_bytes()


def batch_key(folder: Path) -> Target:
    """A batch proof's verification key, and how long its proofs would be."""
    def one(data: bytes) -> None:
        try:
            key = VerificationKey.from_bytes(data)
        except ValueError:
            return
        if key.to_bytes() != data or proof_bytes(key) < 1 or weights_proof_bytes(key) < 1:
            raise AssertionError("a key has two encodings, or no proof")
    return one


def batch_edits(folder: Path) -> Target:
    """A batch proof in which each eight bytes of ``data`` put four at some place; of the weights if it begins odd."""
    from batch_reference import case
    from batch_reference.weights import WeightsProver

    prover = case.honest()
    x, y = np.array(prover.x), np.array(prover.y)
    weights = WeightsProver(prover.network, prover.key).prove()

    def one(data: bytes) -> None:
        sound = weights if data[:1] > b"\x7f" else prover.proof
        proof = bytearray(sound)
        for where, value in struct.iter_unpack("<I4s", data[1:len(data) - (len(data) - 1) % 8]):
            at = where % (len(proof) - 3)
            proof[at:at + 4] = value
        try:
            if sound is weights:
                verify_weights(prover.key, bytes(proof))
            else:
                verify(prover.key, prover.nonce, x, y, bytes(proof))
        except Rejected:
            return
        if proof != sound:
            raise AssertionError("a spoilt proof holds")
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
    "envelope": envelope, "job": job, "journal": journal, "journal_bytes": journal_bytes, "results": results,
    "results_edits": results_edits, "batch_key": batch_key, "batch_edits": batch_edits}
