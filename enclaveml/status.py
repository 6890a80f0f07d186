"""``enclaveml status``: a running or ended job, from the journal beside its file, else from the file.

Reading takes no lock and writes nothing, so a job is never disturbed by who watches it, and a shared
file system is all that the watching machine needs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np

from enclaveml.errors import EnvironmentFault
from enclaveml.job import journal_path
from enclaveml.job_state import JobState, RankState, line, text
from enclaveml.job_tracker import Tracker
from enclaveml.journal import written_here
from enclaveml.results_schema import RowStatus

#: Seconds between two looks with ``--follow``: on a terminal, and as lines.
TERMINAL_S, LINES_S = 2.0, 10.0


class Watch:
    """Looks at one job, again and again; what was read of the journal is kept between looks."""

    def __init__(self, path: Path) -> None:
        suffix = journal_path(Path("x")).name[1:]
        self.results = path.with_name(path.name.removesuffix(suffix)) if path.name.endswith(suffix) else path
        self._tracker = Tracker(journal_path(self.results))

    def look(self, now: Callable[[], float] = time.time) -> JobState:
        """The job now. The journal comes first: a job that is resumed has an older file beside it.

        Raises:
            EnvironmentFault: neither is there, or cannot be read.
            FormatError: what is there is no journal, or no results file.
        """
        journal = journal_path(self.results)
        for last in (False, True):  # a job that ends meanwhile removes its journal once the file is there
            if journal.exists():
                try:
                    self._tracker.read()
                    return self._tracker.state(now(), written_here(journal))
                except EnvironmentFault:
                    if last or journal.exists():
                        raise
            if self.results.exists():
                return _of_file(self.results)
        raise EnvironmentFault(
            f"{self.results}: there are neither results nor a journal ({journal.name}) beside it: the job was not "
            "started, writes elsewhere (output.path, -o), or is still preparing its circuit"
        )


def _of_file(path: Path) -> JobState:
    from enclaveml.hdf5_probe import check_readable
    from enclaveml.results_reader import read_results

    check_readable(path)
    with read_results(path) as results:
        counts = np.bincount(results.row("status"), minlength=len(RowStatus))
        seconds = np.asarray(results.proofs("verify_seconds"), np.float64)
        sessions = json.loads(results.attribute("sessions"))
        ranks = tuple(
            RankState(
                session=int(one["session"]), rank=int(one["rank"]), node_id=str(one["node_id"]), host=str(one["host"]),
                device=str(one["device"]), capacity=_number(one["share"]) or 0.0, rows=int(one["rows"]),
                verified=int(one["rows_verified"]), proofs=int(one["proofs"]), rejections=int(one["rejections"]),
                seconds_inferring=_number(one["seconds_inferring"]), seconds_proving=_number(one["seconds_proving"]),
                seconds_waiting=_number(one["seconds_waiting"]), fate=str(one["fate"]) or "ok",
                fate_reason=str(one["fate_reason"]),
            )
            for one in results.ranks
        )
        n, verified = results.n_rows, int(counts[RowStatus.VERIFIED])
        answers = results.n_answers or n
        ended = int((results.replicas("status") == RowStatus.VERIFIED).sum()) if results.n_answers else verified
        rejected = int(np.asarray([one.rejections for one in ranks]).sum())
        return JobState(
            name=path.name, source=str(path), state=results.status.value,
            exit_code=int(results.attribute("exit_code")), message=str(results.attribute("message")),
            started=str(results.attribute("started")), finished=str(results.attribute("finished")),
            sessions=max(1, len(sessions)), rows=n, rows_by_status={s.name.lower(): int(counts[s]) for s in RowStatus},
            answers_ended=ended, answers_wanted=answers, rate=None, left=None, elapsed=None,
            proofs_verified=results.proofs_verified, proofs_rejected=rejected, verify_seconds=float(seconds.sum()),
            rounds=int(results.attribute("counter")), circuits=tuple(results.circuit_ids), ranks=ranks,
        )


def _number(value: object) -> float | None:
    """None for NaN: nothing was told."""
    number = float(value)  # type: ignore[arg-type]
    return None if np.isnan(number) else number


def print_status(path: Path, detailed: bool = False, follow: bool = False, as_json: bool = False,
                 stream: TextIO | None = None, sleep: Callable[[float], None] = time.sleep) -> int:
    """Show the job; with ``follow`` until it has ended or has fallen silent. Returns 0.

    On a terminal ``follow`` shows the state in place; otherwise, and as JSON, a line at a time.
    """
    stream = sys.stdout if stream is None else stream
    watch = Watch(path)
    in_place = follow and not as_json and stream.isatty()
    shown = 0
    while True:
        state = watch.look()
        if as_json:
            stream.write(json.dumps(state.document()) + "\n")
        elif in_place:
            shown = _draw(stream, text(state, detailed), shown)
        elif follow and not state.over:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line(state)}\n")
        else:
            stream.write(text(state, detailed))
        stream.flush()
        if not follow or state.over:
            return 0
        sleep(TERMINAL_S if in_place else LINES_S)


def _draw(stream: TextIO, words: str, lines_above: int) -> int:
    """Write over the last drawing, cut to the terminal. Returns how many lines it has.

    References: ECMA-48, CPL (cursor to the start of a line above) and ED (erase to the end of the display).
    """
    size = os.get_terminal_size(stream.fileno()) if stream.isatty() else os.terminal_size((80, 24))
    lines = [one[: size.columns - 1] for one in words.splitlines()][: max(1, size.lines - 1)]
    up = f"\x1b[{lines_above}F" if lines_above else ""
    stream.write(f"{up}\x1b[J" + "\n".join(lines) + "\n")
    return len(lines)
