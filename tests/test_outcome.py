"""How a job ended, by its files and mpirun's status."""

from __future__ import annotations

from pathlib import Path

import pytest

from enclaveml import results_reader
from enclaveml.errors import FormatError
from enclaveml.job import journal_path
from enclaveml.outcome import Outcome, outcome
from enclaveml.results_schema import FileStatus


class _Results:
    """As much of an open results file as is read."""

    def __init__(self, status: FileStatus, code: int) -> None:
        self.status, self.code = status, code

    def __enter__(self) -> _Results:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def attribute(self, name: str) -> int:
        assert name == "exit_code"
        return self.code


NOTHING, JOURNAL = "nothing", "journal"
COMPLETE = _Results(FileStatus.COMPLETE, 0)
UNVERIFIED = _Results(FileStatus.COMPLETE_UNVERIFIED, 3)
RESUMABLE = _Results(FileStatus.RESUMABLE, 75)
RUNNING = _Results(FileStatus.RUNNING, -1)
FAILED = _Results(FileStatus.FAILED, 1)


@pytest.mark.parametrize(
    ("there", "launcher", "code", "words"),
    [
        (COMPLETE, 0, 0, "results.h5 is complete"),
        # A rank was lost and the job survived it.
        (COMPLETE, 137, 0, "results.h5 is complete"),
        (COMPLETE, 1, 0, "results.h5 is complete"),
        (UNVERIFIED, 0, 3, "results.h5 is complete_unverified"),
        (FAILED, 0, 1, "results.h5 is failed"),
        (RESUMABLE, 75, 75, "results.h5 is resumable"),
        (RESUMABLE, 0, 75, "results.h5 is resumable"),
        (RUNNING, 0, 75, "results.h5 is running"),
        # mpirun killed the job and says nothing.
        (JOURNAL, 0, 75, "killed before its end; results.h5.journal is there to go on with"),
        (JOURNAL, 137, 75, "killed before its end; results.h5.journal is there to go on with"),
        # Refused before anything was written: what is there is from an earlier run.
        (RESUMABLE, 2, 2, "mpirun ended with 2: the run was refused"),
        (COMPLETE, 4, 4, "mpirun ended with 4: the run was refused"),
        # Going on again would end the same way.
        (RESUMABLE, 1, 1, "mpirun ended with 1; results.h5 is resumable"),
        (
            JOURNAL,
            1,
            1,
            "mpirun ended with 1; killed before its end; results.h5.journal is there to go on with",
        ),
        (NOTHING, 0, 4, "mpirun ended with 0, but there is no results.h5"),
        (NOTHING, 1, 1, "mpirun ended with 1 and nothing was written"),
        (NOTHING, 75, 75, "mpirun ended with 75 and nothing was written"),
        (NOTHING, 137, 137, "mpirun ended with 137 and nothing was written"),
        # SIGUSR1 before the ranks handle it.
        (NOTHING, 138, 75, "stopped before anything was written"),
    ],
)
def test_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: object, launcher: int, code: int, words: str
) -> None:
    output = tmp_path / "results.h5"
    if there == JOURNAL:
        journal_path(output).write_bytes(b"")
    elif there != NOTHING:
        output.write_bytes(b"")
        monkeypatch.setattr(results_reader, "read_results", lambda path: there)
    assert outcome(output, launcher) == Outcome(code, words)


def test_what_is_no_results_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results.h5").write_bytes(b"nonsense")
    with pytest.raises(FormatError):
        outcome(tmp_path / "results.h5", 0)
