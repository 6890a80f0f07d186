"""``enclaveml status``: journals that grow, end, fall silent, are replaced; the file; what is printed."""

from __future__ import annotations

import io
import json
import os
import random

import numpy as np
import pytest
from results_case import Case, start, table

from enclaveml import cli
from enclaveml import status as module
from enclaveml.errors import EnvironmentFault, FormatError
from enclaveml.heartbeat import Heartbeat
from enclaveml.job_state import line, text
from enclaveml.job_tracker import Tracker
from enclaveml.journal import Journal, read_records
from enclaveml.journal_index import index_journal, rank_counts
from enclaveml.results import build_results
from enclaveml.results_schema import RowStatus
from enclaveml.status import Watch, print_status

VERIFIED, REJECTED = RowStatus.VERIFIED, RowStatus.REJECTED


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path / "results.h5.journal", 8, 3, name="digits")


def track(path, now=None):
    tracker = Tracker(path)
    tracker.read()
    return tracker.state(tracker.state(0).written if now is None else now)


def beat(case: Case, every: float = 10.0) -> None:
    case.journal.append("heartbeat", {"columns": ["infer_s", "witness_s", "prove_s", "wait_s"], "every_s": every},
                        ranks=np.array([1, 2], np.int32), values=np.array([[1, 2, 3, 4], [0, 0, 5, 1.0]]))


def test_a_running_job(case, tmp_path):
    case.outputs(1, [0, 1, 2, 3])
    case.outputs(2, [4, 5])
    case.bundle(1, [0, 1, 2, 3], REJECTED)
    case.bundle(2, [4, 5])
    beat(case)
    state = track(case.journal.path)
    assert (state.name, state.state, state.rows, state.sessions) == ("digits", "running", 8, 1)
    assert {k: v for k, v in state.rows_by_status.items() if v} == {"pending": 2, "verified": 2, "rejected": 4}
    assert (state.answers_ended, state.answers_wanted) == (2, 8)
    assert (state.proofs_verified, state.proofs_rejected, state.verify_seconds) == (1, 1, 0.5)
    assert state.rate > 0 and state.left == pytest.approx(6 / state.rate)
    one, two = state.ranks[1:]
    assert (one.rows, one.verified, one.proofs, one.rejections, one.capacity) == (4, 0, 1, 1, 0.1)
    assert (two.rows, two.verified, two.proofs, two.rejections) == (2, 2, 1, 0)
    assert (one.seconds_inferring, one.seconds_proving, one.seconds_waiting) == (1, 5, 4)
    assert state.ranks[0].seconds_proving is None


def test_a_verified_row_stays_so_and_a_row_answered_again_waits_again(case):
    case.outputs(1, [0, 1])
    case.bundle(1, [0], VERIFIED)
    case.rows([0, 1], RowStatus.LOST, rank=1)
    assert track(case.journal.path).rows_by_status["lost"] == 1
    case.outputs(2, [0, 1])
    state = track(case.journal.path)
    assert {k: v for k, v in state.rows_by_status.items() if v} == {"pending": 7, "verified": 1}
    assert state.answers_ended == 1


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_counted_as_the_results_file_will_have_them(case, seed):
    """Whatever happens in which order: the same statuses and counts as the index that results are made from."""
    draw = random.Random(seed)
    said: set[tuple[int, int]] = set()
    for _ in range(30):
        rank, rows = draw.choice([1, 2]), draw.sample(range(8), draw.randint(1, 4))
        if draw.random() < 0.5:
            case.outputs(rank, rows)
            said |= {(rank, row) for row in rows}
        elif draw.random() < 0.7:
            status = [VERIFIED if (rank, row) in said and draw.random() < 0.4 else draw.choice([2, 3]) for row in rows]
            case.bundle(rank, rows, np.array(status, np.uint8))
        else:
            case.rows(rows, draw.choice([RowStatus.UNPROVED, RowStatus.SUSPECT, RowStatus.LOST]),
                      draw.choice([None, rank]))
    state, index = track(case.journal.path), index_journal(case.journal.path)
    wanted = np.bincount(index.states.status, minlength=len(RowStatus)).tolist()
    assert list(state.rows_by_status.values()) == wanted
    assert state.answers_ended == wanted[1] + wanted[3] + wanted[4]
    for (_, rank), counts in rank_counts(index).items():
        assert (state.ranks[rank].proofs, state.ranks[rank].rejections) == (counts["proofs"], counts["rejections"])


def test_replicas_are_counted_as_answers(tmp_path):
    case = Case(tmp_path / "results.h5.journal", 4, 3, "redundant", replicas=2)
    for rank in (1, 2):
        case.outputs(rank, [0, 1])
        case.bundle(rank, [0, 1])
    case.bundle(2, [0, 1], run=1)  # a third verified answer is more than was asked for
    state = track(case.journal.path)
    assert (state.answers_ended, state.answers_wanted, state.rows_by_status["verified"]) == (4, 8, 2)
    assert "answers   4 of 8 (rows times replicas)\n" in text(state)


def test_it_reads_on_where_it_stopped_and_begins_anew_with_another_journal(case, tmp_path):
    case.outputs(1, [0, 1])
    tracker = Tracker(case.journal.path)
    tracker.read()
    case.bundle(1, [0, 1])
    tracker.read()
    assert tracker.state(0).rows_by_status["verified"] == 2
    case.journal.close()
    with Journal.create(case.journal.path, overwrite=True) as journal:
        journal.append("start", start(5, 2, name="other"))
        tracker.read()
        state = tracker.state(0)
    assert (state.name, state.rows, state.rows_by_status["pending"], len(state.ranks)) == ("other", 5, 5, 2)


def test_a_journal_that_says_nonsense_is_refused(case):
    case.bundle(1, [0, 99])
    with pytest.raises(FormatError, match="record 2 at byte .*: bundle record: index 99 is out of bounds"):
        track(case.journal.path)


def test_silence(case):
    beat(case, every=20.0)
    written = list(read_records(case.journal.path))[-1].time
    tracker = Tracker(case.journal.path)
    tracker.read()
    assert tracker.state(written + 119).state == "running"
    silent = tracker.state(written + 121)
    assert (silent.state, silent.over, silent.quiet) == ("silent", True, 121)
    assert text(silent).startswith("digits: nothing was written for 2:01, and no end: killed, or stuck. If it runs no "
                                   "more, go on with `enclaveml run JOB --resume`\n")
    # Whoever holds its lock on this machine is alive, however long a step takes.
    assert tracker.state(written + 9999, writer_here=True).state == "running"
    assert tracker.state(written - 50).quiet == 0  # another machine's clock is behind


def test_resumed_and_ended(case, tmp_path):
    case.outputs(1, [0, 1, 2, 3])
    case.bundle(1, [0, 1, 2, 3])
    case.journal.append("rank", {"rank": 2, "fate": "lost", "fate_reason": "died: here\nand there", "fate_time": "now"})
    case.end("resumable", 75)
    state = track(tmp_path / "results.h5.journal")
    assert (state.state, state.exit_code, state.over, state.rounds) == ("resumable", 75, True, 1)
    assert "lost      rank 2 (node-2): died: here\n" in text(state)
    with Journal.open_append(tmp_path / "results.h5.journal") as journal:
        journal.append("resume", {"started": "later", "versions": {}, "ranks": table(2)})
    state = track(tmp_path / "results.h5.journal")
    assert (state.state, state.sessions, state.rows_by_status["verified"], state.rate) == ("running", 2, 4, None)
    assert "rate      not known yet\n" in text(state)
    assert "ranks     2 on 1 host: 2 ok\n" in text(state)


def finished(case, tmp_path):
    case.outputs(1, range(8))
    case.bundle(1, range(8))
    case.journal.append("rank", {"rank": 1, "fate": "ok", "seconds_proving": 3.5})
    case.end()
    build_results(tmp_path / "results.h5.journal", tmp_path / "results.h5")
    os.unlink(tmp_path / "results.h5.journal")


def test_a_finished_file(case, tmp_path, capsys):
    finished(case, tmp_path)
    assert cli.main(["status", str(tmp_path / "results.h5"), "--detailed"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("results.h5: complete (exit status 0): done\nrows      8: 8 verified\n"
                           "proofs    1 verified, 0 rejected; rank 0 spent 0.250 s on verifying\n")
    assert said.splitlines()[-2].split() == [
        "1", "node-1", "hé", "cpu", "0.100", "8", "8", "1", "0", "-", "3.50", "-", "ok"]


def test_json_is_the_whole_state(case, tmp_path, capsys):
    finished(case, tmp_path)
    assert cli.main(["status", str(tmp_path / "results.h5"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "complete" and said["rows_by_status"]["verified"] == 8 and len(said["ranks"]) == 3


def test_following_ends_with_the_job(case, tmp_path):
    """Lines while it runs; the whole state once the file is there."""
    case.outputs(1, [0, 1])
    stream, naps = io.StringIO(), []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            finished(case, tmp_path)
        elif len(naps) == 1:
            case.bundle(1, [0, 1])

    assert print_status(tmp_path / "results.h5", follow=True, stream=stream, sleep=sleep) == 0
    lines = stream.getvalue().splitlines()
    assert naps == [module.LINES_S] * 2
    assert lines[0].endswith("running: 0/8 rows (0 %), 0 proofs, 0 rejected")
    assert "running: 2/8 rows (25 %), 1 proofs, 0 rejected, " in lines[1]
    assert lines[2] == "results.h5: complete (exit status 0): done"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1


def test_on_a_terminal_it_is_drawn_in_place(case, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((40, 6)))
    stream = Terminal()
    print_status(tmp_path / "results.h5", follow=True, stream=stream,
                 sleep=lambda seconds: case.end("failed", 1))
    first, second = stream.getvalue().split("\x1b[J")[1:]
    assert second.startswith("digits: failed (exit status 1)")
    assert len(first.splitlines()) == 5 + 1 and max(map(len, first.splitlines())) <= 39  # and the way up
    assert first.endswith("\x1b[5F")


def test_nothing_there(tmp_path):
    with pytest.raises(EnvironmentFault) as caught:
        Watch(tmp_path / "results.h5").look()
    assert str(caught.value) == (
        f"{tmp_path}/results.h5: there are neither results nor a journal (results.h5.journal) beside it: the job was "
        "not started, writes elsewhere (output.path, -o), or is still preparing its circuit")


def test_a_line_names_ranks_that_were_lost(case):
    case.journal.append("rank", {"rank": 2, "fate": "expelled", "fate_reason": "x", "fate_time": "now"})
    assert line(track(case.journal.path)) == "running: 0/8 rows (0 %), 0 proofs, 0 rejected, rank 2 expelled"


def test_heartbeats_come_when_due_and_a_full_disk_is_not_theirs_to_tell(case, monkeypatch):
    now = [0.0]
    stats = {0: np.zeros(2), 1: np.array([1.5, 2.0])}
    heartbeat = Heartbeat(case.journal, ("infer_s", "prove_s"), stats, lambda: now[0])

    def beats() -> list:
        return [r for r in read_records(case.journal.path) if r.kind == "heartbeat"]

    for now[0] in (1.0, 9.9, 10.0, 15.0, 20.0):
        heartbeat.tick()
    assert [b.meta["every_s"] for b in beats()] == [10.0, 10.0]
    now[0] = 5000.0
    heartbeat.tick()
    assert beats()[-1].meta["every_s"] == 50.0
    now[0] = 1e6
    heartbeat.tick()
    assert beats()[-1].meta == {"columns": ["infer_s", "prove_s"], "every_s": 300.0}
    assert beats()[-1].arrays["ranks"].tolist() == [0, 1] and beats()[-1].arrays["values"].tolist() == [[0, 0], [1.5, 2]]

    def full(*arguments: object) -> None:
        raise EnvironmentFault("no space left")

    monkeypatch.setattr(case.journal, "_write", full)
    now[0] = 2e6
    heartbeat.tick()
    assert len(beats()) == 4
