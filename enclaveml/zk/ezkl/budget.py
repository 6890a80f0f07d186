"""How many proofs of a model were made, kept in the cache beside its keys, and how many may be.

Weights sit in columns that are not blinded: every proof opens each of them at one point, and so shows 254
bits about what it holds. Whoever has many proofs of one model can solve for its weights. They stay the same
under another key and another SRS, so the count is the model's (by its hash), over all of its circuits and jobs.
PRIVACY.md says where the limit comes from.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enclaveml.errors import EnvironmentFault, JobError
from enclaveml.zk import keys
from enclaveml.zk.ezkl import cost
from enclaveml.zk.ezkl.files import SETTINGS
from enclaveml.zk.ezkl.slices.format import slices_of
from enclaveml.zk.interface import SLICED, Circuit

#: Bits of one opened value: the scalar field's.
OPENED_BITS = 254

#: Part of what the weights hold that proofs may show of them.
PART = 0.5

#: Openings of values between slices that a proof of a slice may be about, counted as if each told of its weights: what goes in
#: and what comes out, each opened in two proofs.
LINKS = 4

_WIDTH = 20  # digits of a count, so that a new one overwrites the old


def allowed(weights: int, bits: int, columns: int) -> int:
    """The most proofs of a model whose ``weights`` of ``bits`` fractional bits fill that many columns.

    Half of what the weights hold at most: below that, no one set of weights follows from the proofs.
    """
    return int(PART * weights * bits / (OPENED_BITS * max(1, columns)))


def budget_of(circuits: Sequence[Circuit], private: bool) -> Budget:
    """The count of the proofs of these circuits' model in this machine's cache; limited where its weights are private.

    The limit is the least of the circuits' (primary, fallback): a proof counts the same whichever it is of.
    """
    most = min(map(_allowed, circuits)) if private else None
    return Budget(keys.cache_root() / "proofs" / circuits[0].model_hash, most)


def check_undisclosed(model_hash: str) -> None:
    """Raise JobError for a model of which proofs were made, as far as this machine's cache knows, that show its weights."""
    _refuse_disclosed(Budget(keys.cache_root() / "proofs" / model_hash, None).spent)


def _allowed(circuit: Circuit) -> int:
    if circuit.system == SLICED:
        return min(_allowed_of(circuit.folder / each.file(SETTINGS), circuit.logrows, each.settings, LINKS) for each in slices_of(circuit))
    return _allowed_of(circuit.folder / SETTINGS, circuit.logrows, circuit.settings, 0)


def _allowed_of(path: Path, logrows: int, settings: Mapping[str, Any], more: int) -> int:
    constants = json.loads(path.read_text(encoding="utf-8"))["total_const_size"]
    return allowed(int(settings["weights"]), int(settings["param_scale"]), cost.blocks(constants, logrows) + more)


#: Stands for the proofs of another system, each of which shows the weights to whoever has it.
DISCLOSED = 10**15


class Budget:
    """The count of one model's proofs in a file; several jobs may count at once.

    most: None counts without limit.
    """

    def __init__(self, path: Path, most: int | None) -> None:
        self._path, self.most = path, most

    @property
    def spent(self) -> int:
        """Proofs counted so far, by all jobs. Raises EnvironmentFault for a file that holds no count."""
        return self._add(0)

    def disclose(self) -> None:
        """Note that proofs are made which do not hide the weights (system batch): no job can keep them private any more."""
        if (spent := self.spent) < DISCLOSED:
            self._add(DISCLOSED - spent)

    def expect(self, proofs: int) -> None:
        """Raise JobError where so many more are not to be had, before any is made."""
        if self.most is not None and (spent := self.spent) + proofs > self.most:
            _refuse_disclosed(spent)
            raise JobError(
                f"proof.private_weights: this job needs about {proofs} proofs; {spent} were made of this model, and more than "
                f"{self.most} could give its weights away. Prove more rows at a time (proof.rows_per_proof) or fewer rows "
                "(proof.coverage), or set proof.private_weights: false if the weights may be known"
            )

    def spend(self) -> None:
        """Count one proof that is about to be made. Raises JobError where it would be one too many."""
        self._add(1)

    def _add(self, count: int) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EnvironmentFault(f"{self._path}: proofs cannot be counted: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for one read and one write
            text = os.pread(descriptor, _WIDTH + 2, 0)
            if text and not (len(text) == _WIDTH + 1 and text[:_WIDTH].isdigit() and text.endswith(b"\n")):
                raise EnvironmentFault(f"{self._path}: holds no count of proofs; restore it, or remove it if no proof of this "
                                       "model was ever shown to anybody")
            total = int(text or b"0") + count
            if count and self.most is not None and total > self.most:
                _refuse_disclosed(total)
                raise JobError(
                    f"proof.private_weights: {total - count} proofs were made of this model, and more than {self.most} could "
                    "give its weights away; what is proved is kept in the results file"
                )
            if count:
                os.pwrite(descriptor, b"%0*d\n" % (_WIDTH, total), 0)
                os.fsync(descriptor)
            return total
        finally:
            os.close(descriptor)


def _refuse_disclosed(spent: int) -> None:
    if spent >= DISCLOSED:
        raise JobError("proof.private_weights: proofs of this model were made with proof.system: batch that do not hide its weights, and "
                       "whoever has them can work these out; set proof.private_weights: false")
