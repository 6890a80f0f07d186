"""The results file: which answer counts, what is in the file, what is refused, how a job goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results_case import CIRCUIT, Case, D, start, table

from enclaveml import hdf5
from enclaveml import results as module
from enclaveml import sampling
from enclaveml.errors import EnclaveError, EnvironmentFault, FormatError
from enclaveml.journal import Journal, read_records
from enclaveml.records import KINDS
from enclaveml.results import FileStatus, Resume, RowStatus, build_results, read_results, short_answer
from enclaveml.results_copy import write_rows
from enclaveml.results_schema import (
    ATTRIBUTES,
    BEACON,
    COMBINED,
    DRAWS,
    OUTPUTS,
    PROOFS,
    RANKS,
    RECHECKS,
    REPLICAS,
    ROWS,
)

VERIFIED, REJECTED, INCONSISTENT = RowStatus.VERIFIED, RowStatus.REJECTED, RowStatus.INCONSISTENT


def build(case: Case, tmp_path, **options):
    case.journal.close()
    build_results(tmp_path / "j", tmp_path / "results.h5", **options)
    return read_results(tmp_path / "results.h5")


def test_a_job_with_a_liar(tmp_path):
    """Rank 1 lies about rows 0 to 3, rank 2 takes them over; row 6 is lost, row 7 never answered."""
    case = Case(tmp_path / "j", 8, 3)
    case.outputs(1, [0, 1, 2, 3])
    case.outputs(2, [4, 5])
    case.bundle(1, [0, 1, 2, 3], REJECTED, envelope=b"")
    case.bundle(2, [4, 5], [VERIFIED, INCONSISTENT])
    case.outputs(2, [0, 1, 2, 3])
    case.bundle(2, [3, 1, 0], VERIFIED)
    case.rows([6], RowStatus.LOST)
    case.journal.append(
        "rank",
        {
            "rank": 1,
            "fate": "expelled",
            "fate_reason": "bundle 1: lie",
            "fate_time": "now",
            "evidence": ["lie"],
            "seconds_inferring": 0.5,
        },
    )
    case.end("complete_unverified")
    with build(case, tmp_path, labels=np.arange(8)) as results:
        assert results.row("status").tolist() == [1, 1, 0, 1, 1, 3, 6, 0]
        assert results.row("rank").tolist() == [2, 2, 2, 2, 2, 2, -1, -1]
        assert results.row("session").tolist() == [0, 0, 0, 0, 0, 0, -1, -1]
        assert results.row("bundle").tolist() == [2, 2, -1, 2, 1, 1, -1, -1]
        assert results.row("attempts").tolist() == [2, 2, 2, 2, 1, 1, 0, 0]
        np.testing.assert_array_equal(results.outputs(0, 6), case.output(range(6), 2))
        assert np.isnan(results.outputs(6)).all() and results.outputs().shape == (8, D)
        proved = results.proved_outputs()
        np.testing.assert_array_equal(proved[[0, 1, 3, 4, 5]], case.output([0, 1, 3, 4, 5], 2) + 0.125)
        assert np.isnan(proved[[2, 6, 7]]).all()
        np.testing.assert_array_equal(
            results.row("deviation"), [0.125, 0.125, np.nan, 0.125, 0.125, 0.125, np.nan, np.nan]
        )
        assert results.row("argmax_differs").tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
        assert results.labels.tolist() == list(range(8))
        assert not results.has_replicas and results.n_answers == 0
        assert (results.n_proofs, results.proofs_verified) == (3, 2)
        first, last = results.proof(0), results.proof(2)
        assert (
            first.envelope == b"" and first.status.tolist() == [2] * 4 and first.rows.tolist() == [0, 1, 2, 3]
        )
        assert last.envelope == b"envelope 3" and last.rows.tolist() == [3, 1, 0]
        assert (last.id, last.rank, last.session, last.attempt, last.round) == (3, 2, 0, 1, 0)
        assert (last.circuit_id, last.verify_seconds, last.verdict) == (CIRCUIT, 0.25, "bundle 3")
        ranks = results.ranks
        assert [line["rank"] for line in ranks] == [0, 1, 2] and ranks[1]["host"] == "hé"
        assert ranks[1]["fate"] == "expelled" and ranks[1]["fate_reason"] == "bundle 1: lie"
        assert (ranks[1]["rows"], ranks[1]["rows_verified"], ranks[1]["proofs"], ranks[1]["rejections"]) == (
            4,
            0,
            0,
            1,
        )
        assert (ranks[2]["rows"], ranks[2]["rows_verified"], ranks[2]["proofs"], ranks[2]["rejections"]) == (
            6,
            4,
            2,
            0,
        )
        assert ranks[2]["memory_gb"] == 8.0 and np.isnan(ranks[2]["seconds_proving"])
        assert results.file["ranks/evidence"].asstr()[:].tolist() == ["", '["lie"]', ""]
        keys = results.circuit(CIRCUIT)
        assert (keys.vk, keys.settings, keys.srs, keys.manifest) == (b"VK", b"{}", b"S" * 388, {"rows": 4})
        assert results.circuit_ids == [CIRCUIT]
        assert results.status is FileStatus.COMPLETE_UNVERIFIED
        assert results.attribute("message") == "done" and results.attribute("counter") == 1
        assert results.attribute("job_given") == "name: test # mine\n"
        assert results.attribute("dataset_fingerprint") == "f" * 64
        assert results.versions == {"numpy": np.__version__}


def test_replicas(tmp_path):
    """Each row goes to two ranks; a row is verified when one answer is, and the first verified one counts."""
    case = Case(tmp_path / "j", 3, 3, "redundant")
    for rank in (0, 1):
        case.outputs(rank, [0, 1, 2])
    case.bundle(1, [0, 1], VERIFIED)
    case.bundle(0, [0, 1], [VERIFIED, REJECTED])
    case.bundle(0, [2], INCONSISTENT)
    case.rows([2], RowStatus.UNPROVED, rank=1)
    case.end()
    with build(case, tmp_path) as results:
        assert results.row("status").tolist() == [1, 1, 4] and results.row("rank").tolist() == [1, 1, 1]
        assert results.replicas("row").tolist() == [0, 0, 1, 1, 2, 2]
        assert results.replicas("rank").tolist() == [0, 1, 0, 1, 0, 1]
        assert results.replicas("status").tolist() == [1, 1, 2, 1, 3, 4]
        assert results.replicas("bundle").tolist() == [1, 0, 1, 0, 2, -1]
        for line, (row, rank) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]):
            np.testing.assert_array_equal(results.replicas("output")[line], case.output([row], rank)[0])
        proved = results.replicas("proved_output")
        np.testing.assert_array_equal(
            proved[[0, 1, 3, 4]], results.replicas("output")[[0, 1, 3, 4]].astype(float) + 0.125
        )
        assert np.isnan(proved[[2, 5]]).all()
        np.testing.assert_array_equal(results.proved_outputs(0, 2), proved[[1, 3]])
        assert results.replicas("row", 2, 4).tolist() == [1, 1]


def test_outputs_said_again_after_a_proof_do_not_replace_what_it_proved(tmp_path):
    case = Case(tmp_path / "j", 2, 2)
    case.outputs(1, [0, 1], run=0)
    case.outputs(1, [0, 1], run=1)
    case.bundle(1, [0, 1], [VERIFIED, REJECTED], run=1)
    case.outputs(1, [0, 1], run=2)
    with build(case, tmp_path) as results:
        np.testing.assert_array_equal(
            results.outputs(), np.concatenate([case.output([0], 1, 1), case.output([1], 1, 2)])
        )
        assert results.row("status").tolist() == [1, 0] and results.status is FileStatus.RUNNING
        assert results.row("attempts").tolist() == [3, 3] and results.attribute("exit_code") == -1


def test_a_mark_neither_gives_nor_takes_verified(tmp_path):
    case = Case(tmp_path / "j", 3, 2)
    case.outputs(1, [0, 1, 2])
    case.bundle(1, [0], VERIFIED)
    case.rows([0, 1], RowStatus.LOST)
    case.rows([0, 2], RowStatus.SUSPECT, rank=1)
    with build(case, tmp_path) as results:
        assert results.row("status").tolist() == [1, 6, 5]
    with Journal.open_append(tmp_path / "j") as case.journal:
        case.rows([1], VERIFIED)
    with pytest.raises(FormatError) as caught:
        build_results(tmp_path / "j", tmp_path / "results.h5")
    last = list(read_records(tmp_path / "j"))[-1]
    assert str(caught.value) == (
        f"{tmp_path / 'j'}: record {last.number} at byte {last.offset}: "
        "rows record: calls rows verified without a proof"
    )


def test_sessions(tmp_path):
    """Rank 1 of the resumed job is another one than rank 1 before."""
    case = Case(tmp_path / "j", 3, 2)
    case.outputs(1, [0, 1])
    case.bundle(1, [0])
    case.rows([1], RowStatus.LOST, rank=1)
    case.journal.append(
        "end", {"status": "resumable", "exit_code": 75, "message": "stopped", "finished": "t"}
    )
    lines = table(2)
    lines[1]["node_id"] = "elsewhere"
    case.journal.append(
        "resume", {"started": "2026-02-01T00:00:00Z", "versions": {"numpy": "9"}, "ranks": lines}
    )
    case.outputs(1, [1, 2])
    case.bundle(1, [1, 2])
    with build(case, tmp_path) as results:
        assert results.status is FileStatus.RUNNING and results.attribute("finished") == ""
        assert results.row("status").tolist() == [1, 1, 1] and results.row("session").tolist() == [0, 1, 1]
        assert [
            (r["session"], r["rank"], r["node_id"], r["rows"], r["rows_verified"]) for r in results.ranks
        ] == [
            (0, 0, "node-0", 0, 0),
            (0, 1, "node-1", 2, 1),
            (1, 0, "node-0", 0, 0),
            (1, 1, "elsewhere", 2, 2),
        ]
        assert results.versions == {"numpy": "9"}
        assert [s["started"] for s in json.loads(results.attribute("sessions"))] == [
            "2026-01-01T00:00:00Z",
            "2026-02-01T00:00:00Z",
        ]


def test_resume_state(tmp_path):
    case = Case(tmp_path / "j", 4, 3, "redundant")
    case.outputs(1, [0, 1, 2])
    case.outputs(2, [0, 1])
    case.bundle(1, [1, 0])
    case.bundle(2, [0, 1], [VERIFIED, REJECTED])
    case.journal.append("rank", {"rank": 2, "fate": "expelled"})
    case.journal.append("round", {"counter": 1})
    case.journal.close()
    state = Resume.load(tmp_path / "j")
    assert state.start["model_hash"] == "m" * 64 and state.end is None and state.sessions == 1
    assert state.status.tolist() == [1, 1, 0, 0] and state.verified.tolist() == [True, True, False, False]
    assert state.attempts.tolist() == [2, 2, 1, 0]
    assert list(zip(state.rows.tolist(), state.ranks.tolist())) == [(0, 1), (0, 2), (1, 1)]
    np.testing.assert_array_equal(
        state.proved,
        np.concatenate([case.output([0], 1), case.output([0], 2), case.output([1], 1)]).astype(float) + 0.125,
    )
    assert state.rounds == {1} and state.next_bundle == 3 and state.circuit_ids == (CIRCUIT,)
    assert state.counts[0, 2] == {"rows": 2, "rows_verified": 1, "proofs": 1, "rejections": 1}
    assert state.expelled == ("node-2",)


def test_a_torn_journal_gives_the_file_without_its_tail(tmp_path):
    case = Case(tmp_path / "j", 2, 2)
    case.outputs(1, [0, 1])
    case.bundle(1, [0])
    size = (tmp_path / "j").stat().st_size
    case.bundle(1, [1])
    case.journal.close()
    whole = (tmp_path / "j").read_bytes()
    for cut in (size, size + 1, size + 40, len(whole) - 1):
        (tmp_path / "j").write_bytes(whole[:cut])
        with build(case, tmp_path) as results:
            assert results.row("status").tolist() == [1, 0]


def test_combined_and_the_short_answer(tmp_path):
    case = Case(tmp_path / "j", 2, 2)
    case.outputs(1, [0, 1])
    case.bundle(1, [0, 1])
    case.journal.append("rank", {"rank": 1, "seconds_inferring": 0.25})
    case.end()

    def combine(results):
        return {"result": results.proved_outputs().mean(axis=0), "count": np.int64(2)}

    with build(case, tmp_path, combined=combine, combined_attributes={"strategy": "average"}) as results:
        assert results.file["combined"].attrs["strategy"] == "average"
        assert (
            results.combined["result"].tolist() == [60.125, 61.125, 62.125] and results.combined["count"] == 2
        )
        assert short_answer(results) == {
            "result": [60.125, 61.125, 62.125],
            "proofs_verified": 1,
            "total_nodes": 2,
            "inference_time_ms": 250.0,
            "verified": True,
        }
    with build(case, tmp_path, combined={"result": np.array([np.nan, 1, 2])}) as results:
        assert short_answer(results)["result"] == [None, 1.0, 2.0]
    with build(case, tmp_path) as results:
        assert short_answer(results)["result"] is None and results.combined == {} and results.labels is None


def test_private_inputs_leave_no_fingerprint(tmp_path):
    case = Case(tmp_path / "j", 1, 1, inputs="committed")
    with build(case, tmp_path) as results:
        assert results.attribute("dataset_fingerprint") == ""
        assert results.attribute("inputs") == "committed"
    assert b"f" * 64 not in (tmp_path / "results.h5").read_bytes()


def test_draws(tmp_path):
    case = Case(tmp_path / "j", 4, 2)
    case.outputs(1, range(4))
    case.journal.append(
        "draw",
        {"rank": 1, "round": 0, "seed": "0f", "of": 4, "drawn": 1, "confidence": 0.9, "start": 0, "stop": 4},
        rows=np.array([2]),
    )
    case.rows([0, 1, 3], RowStatus.UNPROVED, rank=1)
    case.bundle(1, [2])
    with build(case, tmp_path) as results:
        assert results.row("status").tolist() == [4, 4, 1, 4] and results.row("rank").tolist() == [1] * 4
        assert results.file["draws/seed"].asstr()[:].tolist() == ["0f"] and results.file["draws/of"][0] == 4
        (line,) = [line for line in results.ranks if line["rank"] == 1]
        assert line["wrong_at_most"] == 3  # one of 4 is drawn: 3 wrong ones hide with a probability of 1/4
        assert line["claim"] == "at 90 % confidence, fewer than 4 of node-1's 4 rows can be wrong"
        assert [r["wrong_at_most"] for r in results.ranks if r["rank"] == 0] == [-1]


def test_claims_are_about_the_answers_that_the_file_shows(tmp_path):
    """A killed session's rows that ended unproved, and were answered again: found by the soak, whose audits failed."""
    from enclaveml.audit_draws import check_draws
    from enclaveml.audit_report import Report

    def draw(rank: int, of: list[int], seed: str) -> None:
        rows = np.array(of)[sampling.pick(np.array(of), 1, seed)]
        case.journal.append("draw", {"rank": rank, "round": 0, "start": 0, "stop": 8, "seed": seed, "of": len(of), "drawn": 1,
                                     "confidence": 0.99}, rows=rows)
        case.bundle(rank, rows)
        left = [r for r in of if r not in rows]
        case.rows(left, RowStatus.UNPROVED, rank)

    case = Case(tmp_path / "j", 8, 3)
    case.outputs(1, range(4))
    draw(1, [0, 1, 2, 3], "11" * 32)
    case.outputs(2, range(4, 8))
    draw(2, [4, 5, 6, 7], "22" * 32)
    gone = [r for r in range(4) if not np.isin(r, sampling.pick(np.arange(4), 1, "11" * 32))]
    case.journal.append("resume", {"started": "2026-02-01T00:00:00Z", "versions": {}, "ranks": table(3)})
    case.outputs(2, gone)  # all that rank 1 left unproved is rank 2's now
    draw(2, gone, "33" * 32)
    case.end()
    build_results(tmp_path / "j", tmp_path / "r.h5")
    with read_results(tmp_path / "r.h5") as results:
        claimed = {(line["session"], line["rank"]): line["wrong_at_most"] for line in results.ranks if line["claim"]}
        assert claimed == {(0, 2): 3, (1, 2): 2}
        report = Report("r.h5")
        lines = check_draws(results, report, {"proof": {"coverage": 0.25}})
    assert report.failures == [] and sum("node-2's" in line for line in lines) == 2


@st.composite
def histories(draw):
    n, ranks = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    rows = st.lists(st.integers(0, n - 1), unique=True, min_size=1)
    events = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["outputs", "bundle", "rows"]),
                st.integers(0, ranks - 1),
                rows,
                st.sampled_from([1, 2, 3, 4]),
            ),
            max_size=12,
        )
    )
    return n, ranks, draw(st.booleans()), events


@given(histories())
@settings(max_examples=40, deadline=None)
def test_any_history_as_a_simple_model_has_it(tmp_path_factory, history):
    """The vectorised choice of answers against a dictionary per row; and everything reads back."""
    n, ranks, redundant, events = history
    folder = tmp_path_factory.mktemp("history")
    case = Case(folder / "j", n, ranks, "redundant" if redundant else "equal")
    said: dict = {}  # (row, rank): output run
    state: dict = {}  # (row, rank): [status, time, output run, bundle]
    for time, (kind, rank, rows, status) in enumerate(events):
        if kind == "outputs":
            case.outputs(rank, rows, run=time)
            for row in rows:
                said[row, rank] = time
                if state.get((row, rank), [0])[0] != 1:
                    state[row, rank] = [0, time, time, -1]
            continue
        rows = [row for row in rows if (row, rank) in said]
        if not rows:
            continue
        if kind == "bundle":
            case.bundle(rank, rows, min(status, 3), run=time)
        elif status == 1:
            continue
        else:
            case.rows(rows, status, rank=rank)
        for row in rows:
            if state[row, rank][0] != 1:
                state[row, rank] = [
                    min(status, 3) if kind == "bundle" else status,
                    time,
                    said[row, rank],
                    case.bundles - 1 if kind == "bundle" else -1,
                ]
    with build(case, folder) as results:
        ranks_of, statuses, bundles, outputs = (
            *map(results.row, ("rank", "status", "bundle")),
            results.outputs(),
        )
        for row in range(n):
            own = {rank: s for (r, rank), s in state.items() if r == row}
            good = {rank: s for rank, s in own.items() if s[0] == 1}
            chosen = (
                min(good, key=lambda r: good[r][1])
                if good
                else max(own, key=lambda r: own[r][1])
                if own
                else -1
            )
            assert ranks_of[row] == chosen
            assert statuses[row] == (own[chosen][0] if own else 0)
            assert bundles[row] == (own[chosen][3] if own else -1)
            if own:
                np.testing.assert_array_equal(outputs[row], case.output([row], chosen, own[chosen][2])[0])
        if redundant:
            keys = sorted(state)
            assert list(zip(results.replicas("row").tolist(), results.replicas("rank").tolist())) == keys
            assert results.replicas("status").tolist() == [state[key][0] for key in keys]
            said_by = results.replicas("output")
            for line, (row, rank) in enumerate(keys):
                np.testing.assert_array_equal(said_by[line], case.output([row], rank, state[row, rank][2])[0])
        assert [results.proof(i).envelope for i in range(results.n_proofs)] == [
            b"envelope %d" % (i + 1) for i in range(case.bundles)
        ]


@pytest.mark.parametrize(
    "rows", [np.arange(50, 60), np.arange(0, 100, 3), np.array([0, 1, 99_000, 99_001]), np.arange(0)]
)
def test_write_rows(tmp_path, rows):
    with hdf5.create(tmp_path / "x.h5") as file:
        dataset = hdf5.write(
            file, "x", shape=(100_000, 20), dtype="f4", fill=np.nan, long_name="x", units="1"
        )
        write_rows(dataset, rows, np.broadcast_to(rows[:, None], (len(rows), 20)))
        whole = dataset[:]
    np.testing.assert_array_equal(whole[rows, 7], rows)
    assert np.isnan(whole).sum() == (100_000 - len(rows)) * 20


@pytest.mark.parametrize(
    "spoil, text",
    [
        (lambda c: c.outputs(1, [9]), "outputs record: row 9 of 2"),
        (lambda c: c.outputs(1, [0, 0]), "outputs record: a row is there twice"),
        (lambda c: c.rows([0], 7), "rows record: status 7 is no row status"),
        (lambda c: c.journal.append("start", start(2, 2)), "a second start record"),
        (
            lambda c: c.journal.append(
                "outputs", {"rank": 1, "round": 0}, rows=np.array([0]), outputs=np.zeros((1, 2), np.float32)
            ),
            "outputs record: 2 outputs a row, the start record says 3",
        ),
        (lambda c: c.end("finished"), "end record: unknown status 'finished'"),
    ],
)
def test_journals_that_make_no_sense(tmp_path, spoil, text):
    case = Case(tmp_path / "j", 2, 2)
    offset = (tmp_path / "j").stat().st_size
    spoil(case)
    case.journal.close()
    with pytest.raises(FormatError) as caught:
        build_results(tmp_path / "j", tmp_path / "results.h5")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'j'}: record ") and message.endswith(f": {text}")
    assert int(message.split(" at byte ")[1].split(":")[0]) >= offset
    assert not (tmp_path / "results.h5").exists()


def test_a_verified_row_without_outputs_is_refused(tmp_path):
    case = Case(tmp_path / "j", 2, 2)
    case.bundle(1, [1])
    case.journal.close()
    with pytest.raises(FormatError) as caught:
        Resume.load(tmp_path / "j")
    assert str(caught.value) == (
        f"{tmp_path / 'j'}: row 1 of rank 1 is verified, but no output of it was gathered before"
    )
    Journal.create(tmp_path / "empty").close()
    with pytest.raises(FormatError) as caught:
        Resume.load(tmp_path / "empty")
    assert str(caught.value) == f"{tmp_path / 'empty'}: holds no whole record"


def test_the_old_file_stays_when_the_new_one_fails(tmp_path, monkeypatch):
    case = Case(tmp_path / "j", 2, 2)
    build(case, tmp_path).close()
    before = (tmp_path / "results.h5").read_bytes()

    def fail(results):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="^no$"):
        build_results(tmp_path / "j", tmp_path / "results.h5", combined=fail)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(EnvironmentFault) as caught:
        build_results(tmp_path / "j", tmp_path / "results.h5")
    assert str(caught.value) == (
        f"{tmp_path / 'results.h5'}: cannot be written: it needs about 0.0 MB and 0.0 MB are "
        "free; make room, then --resume"
    )
    assert (tmp_path / "results.h5").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["j", "results.h5"]


def test_a_disk_that_fills_up_while_copying(tmp_path):
    """In a child under a file size limit: a clear error, the old file untouched, nothing left behind."""
    case = Case(tmp_path / "j", 2000, 2)
    case.outputs(1, range(2000))
    for start_row in range(0, 2000, 500):
        case.bundle(1, range(start_row, start_row + 500), envelope=b"x" * 50_000)
    case.journal.close()
    out = tmp_path / "results.h5"
    out.write_bytes(b"old")
    code = f"""
import resource
from enclaveml.errors import EnvironmentFault
from enclaveml.results import build_results
for limit in (3_000, 100_000, 200_000, 300_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        build_results({str(tmp_path / "j")!r}, {str(out)!r})
    except EnvironmentFault as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{out}: cannot be written: File too large; make room, then --resume\n" * 4
    assert out.read_bytes() == b"old" and sorted(p.name for p in tmp_path.iterdir()) == ["j", "results.h5"]


def test_a_folder_that_is_gone(tmp_path):
    case = Case(tmp_path / "j", 2, 2)
    case.journal.close()
    out = tmp_path / "gone" / "results.h5"
    with pytest.raises(EnvironmentFault) as caught:
        build_results(tmp_path / "j", out)
    assert str(caught.value) == f"{out}: cannot be written: No such file or directory"


def whole_file(tmp_path):
    case = Case(tmp_path / "j", 5, 3, "redundant")
    for rank in (1, 2):
        case.outputs(rank, range(5))
        case.bundle(rank, range(5))
    case.end()
    build(case, tmp_path, combined={"result": np.zeros(D)}, labels=np.arange(5)).close()
    return tmp_path / "results.h5"


def test_every_dataset_has_a_name_and_units(tmp_path):
    path = whole_file(tmp_path)
    with h5py.File(path) as file:
        found = {}
        file.visititems(
            lambda name, node: found.__setitem__(name, node) if isinstance(node, h5py.Dataset) else None
        )
        for name, dataset in found.items():
            assert dataset.attrs["long_name"] and dataset.attrs["units"], name
        expected = {c.path for c in (*OUTPUTS, *ROWS, *REPLICAS, *PROOFS, *RANKS)} | {
            "row/label",
            "combined/result",
            "seal/leaf",
            "seal/path",
            *(f"keys/{CIRCUIT}/{name}" for name in ("vk", "settings", "srs", "manifest")),
        }
        assert set(found) == expected and not any(c.path in found for c in DRAWS)
        assert list(file) == [
            "outputs",
            "proved_outputs",
            "row",
            "replicas",
            "proofs",
            "ranks",
            "keys",
            "combined",
            "seal",
        ]


@pytest.mark.parametrize(
    "spoil, text",
    [
        (lambda f: f.__delitem__("row/status"), "/row/status: missing"),
        (lambda f: f.attrs.__delitem__("job"), "/: attribute job: missing"),
        (
            lambda f: f.attrs.__setitem__("format_version", 2),
            "attribute format_version: is 2; this version reads 1",
        ),
        (lambda f: f.attrs.__setitem__("rows", "5"), "/: attribute rows: is str, expected int"),
        (lambda f: f.attrs.__setitem__("status", "done"), "attribute status: is 'done', no file status"),
        (
            lambda f: f.attrs.__setitem__("rows", 6),
            "attributes rows and outputs: are not the shape of /outputs",
        ),
        (lambda f: f["proofs/rows"].__setitem__(3, 5), "/proofs/rows[3]: is 5, expected 0 to 4"),
        (lambda f: f["row/bundle"].__setitem__(0, 2), "/row/bundle[0]: is 2, expected -1 to 1"),
        (lambda f: f["row/status"].__setitem__(2, 9), "/row/status[2]: is 9, expected 0 to 6"),
        (
            lambda f: f["proofs/offset"].__setitem__(1, 99),
            "/proofs/offset: does not ascend from 0 to 20, the length of /proofs/bytes",
        ),
        (
            lambda f: f.move(f"keys/{CIRCUIT}", "keys/other"),
            f"/proofs/circuit_id: names '{CIRCUIT}', which /keys has not",
        ),
        (
            lambda f: replace(f, "outputs", np.zeros((5, D))),
            "/outputs: is float64 with 2 dimensions, expected float32 (N, D)",
        ),
        (lambda f: replace(f, "row/rank", np.zeros(4, np.int32)), "/row/rank: has shape (4,), expected (5,)"),
        (
            lambda f: replace(f, "row/rank", h5py.SoftLink("/row/session")),
            "/row/rank: is a link to somewhere else",
        ),
        (
            lambda f: replace(f, "row/rank", h5py.ExternalLink("/etc/passwd", "/x")),
            "/row/rank: is a link to somewhere else",
        ),
        (lambda f: bomb(f), "/proofs/bytes: is not stored contiguously in this file"),
        (lambda f: hollow(f), "/proofs/bytes: claims 1099511627776 bytes that are not in the file"),
    ],
)
def test_refused_files(tmp_path, spoil, text):
    path = whole_file(tmp_path)
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(FormatError) as caught:
        read_results(path)
    assert str(caught.value) == f"{path}: {text}"


def replace(file, name, value):
    del file[name]
    file[name] = value


def bomb(file):
    del file["proofs/bytes"]
    file.create_dataset("proofs/bytes", shape=(1 << 40,), dtype="u1", chunks=(1 << 20,), compression="gzip")


def hollow(file):
    del file["proofs/bytes"]
    file.create_dataset("proofs/bytes", shape=(1 << 40,), dtype="u1")


def test_changed_keys_are_found_when_read(tmp_path):
    path = whole_file(tmp_path)
    with h5py.File(path, "r+") as file:
        file[f"keys/{CIRCUIT}/vk"][0] = 0
        wanted = file[f"keys/{CIRCUIT}/vk"].attrs["sha256"]
    with read_results(path) as results, pytest.raises(FormatError) as caught:
        results.circuit(CIRCUIT)
    assert str(caught.value) == f"{path}: /keys/{CIRCUIT}/vk: does not have its SHA-256 {wanted}"


def read_all(path) -> None:
    with read_results(path) as results:
        results.outputs(), results.proved_outputs(), results.labels, results.combined, results.ranks
        for name in ("output", "proved_output", "rank"):
            results.replicas(name)
        for i in range(results.n_proofs):
            results.proof(i)
        for circuit_id in results.circuit_ids:
            results.circuit(circuit_id)
        short_answer(results)


def test_flipped_bytes_raise_our_errors_only(tmp_path):
    """In a child, so that a crash inside the HDF5 library would show as one."""
    path = whole_file(tmp_path)
    code = f"""
import sys
sys.path[:0] = {[str(Path(module.__file__).parents[1]), str(Path(__file__).parent)]!r}
from pathlib import Path
import numpy as np
from enclaveml.errors import EnclaveError
from test_results import read_all
path = Path({str(path)!r})
whole = path.read_bytes()
rng = np.random.default_rng(5)
caught = 0
for i in range(200):
    data = bytearray(whole)
    for at in rng.integers(0, len(data), 1 + i % 4):
        data[at] = rng.integers(256)
    if i % 20 == 0:
        data = data[:rng.integers(len(data))]
    path.write_bytes(data)
    try:
        read_all(path)
    except EnclaveError:
        caught += 1
print(caught)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 10


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is not installed (Debian: hdf5-tools)")
def test_h5dump_reads_like_a_description(tmp_path):
    path = whole_file(tmp_path)
    header = subprocess.run(
        ["h5dump", "-H", str(path)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for name in (
        'DATASET "outputs"',
        'GROUP "row"',
        'DATASET "status"',
        'GROUP "replicas"',
        'GROUP "proofs"',
        'DATASET "verify_seconds"',
        'GROUP "ranks"',
        'DATASET "node_id"',
        'ATTRIBUTE "long_name"',
        'ATTRIBUTE "units"',
        'ATTRIBUTE "job"',
        f'GROUP "{CIRCUIT}"',
        'DATASET "vk"',
        'ATTRIBUTE "sha256"',
    ):
        assert name in header
    for status in RowStatus:
        assert f'"{status.name.lower()}"' in header
    status = subprocess.run(
        ["h5dump", "-d", "/row/status", str(path)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "(0): verified, verified, verified, verified, verified" in status
    said = subprocess.run(
        ["h5dump", "-a", "/outputs/long_name", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert '"what the model said on the device that computed the row"' in said


def test_unknown_names_are_programming_errors(tmp_path):
    with read_results(whole_file(tmp_path)) as results:
        with pytest.raises(KeyError):
            results.row("nothing")
        with pytest.raises(IndexError, match=r"^\[4, 9\) of 5$"):
            results.outputs(4, 9)
    assert issubclass(FormatError, EnclaveError)


def test_the_documentation_names_everything(tmp_path, monkeypatch, capsys):
    text = (Path(module.__file__).parent / "RESULTS.md").read_text(encoding="utf-8")
    for column in (*OUTPUTS, *ROWS, *REPLICAS, *PROOFS, *RANKS, *DRAWS, *BEACON, *RECHECKS, *COMBINED):
        line = next(
            line for line in text.splitlines() if line.startswith(f"| `/{column.path}` | {column.dtype} |")
        )
        assert column.long_name.replace("|", "\\|") in line and line.endswith(f"| {column.units} |")
    for name in ATTRIBUTES:
        assert f"\n| `{name}` | {ATTRIBUTES[name].__name__} |" in text
    for name, kind in KINDS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{name}` | {kind.meaning} |"))
        assert all(key in line for key in (*kind.meta, *kind.arrays, *kind.blobs))
    whole_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [
        line for line in text.split("```")[1].splitlines() if "import h5py" in line or "enclaveml" in line
    ]
    for command in commands:
        exec(command, {})  # noqa: S102
    said = capsys.readouterr().out
    assert len(commands) == 3 and "complete [[" in said and " columns]" in said and "complete bundle 1" in said
