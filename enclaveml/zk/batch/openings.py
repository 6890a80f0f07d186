"""How many proofs may open a registration's hidden weights: as many as its uniform rows hide, and not one more.

A registration is one job's (``prepare.py``). Its count is in a file beside its folder in rank 0's cache: each order of a proof, of any session
of the job, whatever became of it. Where seed and count are not both there nothing is proved: a count is never begun a second time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from enclaveml.errors import EnvironmentFault, JobError
from enclaveml.zk.batch.files import KEY, MODEL_HASH, REGISTRATIONS
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.interface import Circuit
from enclaveml.zk.keys import cache_root

_WIDTH = 20  # digits of a count, so that a new one overwrites the old
_ANEW = "run the rows that are left as a job of their own, which registers the weights anew"


def begin_count(folder: Path) -> None:
    """Count from 0 for a registration that was made just now. Raises FileExistsError where one was begun."""
    descriptor = os.open(_path(folder), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, _text(0))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hidden_by(model_hash: str) -> list[str]:
    """The registrations (circuit ids) of this machine's cache that hide the weights of the model with this hash."""
    found = []
    for path in sorted((cache_root() / REGISTRATIONS).glob(f"*/{MODEL_HASH}")):
        with contextlib.suppress(OSError, UnicodeDecodeError):  # one that somebody takes away, or a file of something else
            if path.read_text(encoding="ascii") == model_hash:
                found.append(path.parent.name)
    return found


class Openings:
    """The count of a registration's proofs of rows, by the job that has it."""

    def __init__(self, circuit: Circuit) -> None:
        # One opening is the weights proof's.
        self.most = VerificationKey.from_bytes((circuit.folder / KEY).read_bytes()).weight_openings - 1
        self._path = _path(circuit.folder)

    @property
    def spent(self) -> int:
        """Orders so far. Raises EnvironmentFault where there is no count."""
        return self._add(0)

    def reach(self, proofs: int) -> None:
        """Raise EnvironmentFault where fewer were counted than the job's journal has: the count is an older copy, and what it lost is not known."""
        if (spent := self.spent) < proofs:
            raise EnvironmentFault(f"{self._path}: {spent} proofs were counted that open hidden weights, and the job's journal has {proofs}: the count was "
                                   f"put back to what it was earlier, and more may be lost; put the latest back, or {_ANEW}")

    def expect(self, proofs: int) -> None:
        """Raise JobError where so many more are not to be had, before any is made."""
        if (spent := self.spent) + proofs > self.most:
            raise JobError(f"proof.private_weights: this job needs about {proofs} proofs; {spent} were ordered with its registration of the weights, "
                           f"and more than {self.most} give them away: {_ANEW}")

    def spend(self) -> None:
        """Count one proof that is about to be ordered. Raises JobError where it would be one too many."""
        self._add(1)

    def _add(self, count: int) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise EnvironmentFault(f"{self._path}: how often hidden weights were opened cannot be read: {error.strerror}; {_ANEW}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for one read and one write
            text = os.pread(descriptor, _WIDTH + 2, 0)
            if not (len(text) == _WIDTH + 1 and text[:_WIDTH].isdigit() and text.endswith(b"\n")):
                raise EnvironmentFault(f"{self._path}: holds no count of how often hidden weights were opened; {_ANEW}")
            total = int(text) + count
            if count and total > self.most:
                raise JobError(f"proof.private_weights: {total - count} proofs were ordered with this job's registration of the weights, and more than "
                               f"{self.most} give them away; what is proved is kept in the results file: {_ANEW}")
            if count:
                os.pwrite(descriptor, _text(total), 0)
                os.fsync(descriptor)
            return total
        finally:
            os.close(descriptor)


def _path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.openings")


def _text(count: int) -> bytes:
    return b"%0*d\n" % (_WIDTH, count)
