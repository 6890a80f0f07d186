"""A job in slices with ranks that join slices of different bundles: found out, made good by others; and its file before an auditor."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace as with_
from pathlib import Path

import h5py
import pytest
from conftest import Cast, Played, verified_rows_are_true
from small_job import TOLERANCE, floats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audit_case import changed, findings, run
from test_audit import envelopes, with_envelopes

from enclaveml.envelope import decode, encode
from enclaveml.report import report
from enclaveml.zk.ezkl.slices.format import parts_of, slices_of
from enclaveml.zk.interface import Circuit

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]

UNLINKED = "slice 1's commitment to its outputs is not slice 2's to its inputs"
CAUGHT = {"mismatched_middle": UNLINKED, "link_copied": "verification of slice 2 of 2: "}


@pytest.fixture(scope="module")
def played(stage: Callable[..., Played]) -> Played:
    return stage("slices", Cast(tuple(CAUGHT), {"slices": 2}))


def test_the_job_ends_well_and_the_liars_are_named(played) -> None:
    n = len(played.job.rows)
    assert played.code == 0, played.log
    assert f"complete (exit status 0): {n} of {n} rows verified" in played.log
    verified_rows_are_true(played, floats(played.job.rows), TOLERANCE)
    with played.open() as results:
        lines = {line["rank"]: line for line in results.ranks}
        for attack, reason in CAUGHT.items():
            line = lines[played.cast.rank_of(attack)]
            assert line["fate"] != "ok" and line["rejections"] == 1, attack
            assert re.search(re.escape(reason), line["fate_reason"]), line["fate_reason"]
        honest = lines[len(CAUGHT) + 1]
        assert (honest["fate"], honest["rejections"]) == ("ok", 0) and honest["rows_verified"] > 0


def circuit_of(played: Played) -> Circuit:
    from enclaveml.zk.interface import circuit_from_manifest

    with played.open() as results:
        (circuit_id,) = results.circuit_ids
        return circuit_from_manifest(results.circuit(circuit_id).manifest, Path())


def test_the_audit_takes_the_file(played) -> None:
    report = run(played.job.results)
    assert report.failures == []
    (circuit,) = report.circuits
    assert circuit["system"].endswith(", 2 linked slices") and circuit["system"].startswith("ezkl-slices ")
    assert f"{len(played.job.rows)} of {len(played.job.rows)} rows proved" in report.verdict


def test_the_report_says_so(played, capsys) -> None:
    assert report([played.job.results], None, "markdown") == 0
    assert ", 2 linked slices | " in capsys.readouterr().out


def test_the_audit_with_the_inputs_and_the_circuit(played) -> None:
    report = run(played.job.results, inputs=played.job.folder / "rows.npy", circuit_ids=(circuit_of(played).circuit_id,))
    assert report.failures == [] and "of the circuit given" in report.verdict


def test_the_audit_refuses_a_mismatched_middle(played, tmp_path) -> None:
    """An aggregator puts the later slice of one bundle into another, with the links as they are and with them copied."""
    slices = slices_of(circuit_of(played))
    with played.open() as results:
        good = [i for i in range(results.n_proofs) if (results.proof(i).status == 1).all()]
        rows = set(results.proof(good[0]).rows.tolist())

    def join(link: Callable[[bytes, bytes], bytes]) -> Callable[[h5py.File], None]:
        def change(file: h5py.File) -> None:
            made = envelopes(file)
            one, other = (decode(made[i]) for i in good[:2])
            first, later = parts_of(one.computation, slices)[0], parts_of(other.computation, slices)[1]
            made[good[0]] = encode(with_(one, computation=first + link(first, later)))
            with_envelopes(file, made)
        return change

    for link, said in ((lambda a, b: b, UNLINKED), (lambda a, b: a[:64] + b[64:], "slice 2 of 2 does not verify: ")):
        path = changed(played.job, tmp_path, join(link))
        assert any(said in line for line in findings(path)), findings(path)
        assert set(run(path).failed_rows) == rows


@pytest.fixture(scope="module")
def helped(stage: Callable[..., Played]) -> Played:
    """One bundle. Rank 1 holds it, rank 2 helps and lies, rank 3 helps; only slices of it are ever delivered by the first two."""
    return stage("slices-of-ranks", Cast(("wrong_later_slice", "wrong_later_slice"), {"slices": 2}, rows=4, shares=True,
                                         split={"strategy": "by_capacity", "capacity": "throughput"}))


def test_a_helper_with_a_wrong_slice_is_blamed_and_another_helps(helped) -> None:
    assert helped.code == 0, helped.log
    verified_rows_are_true(helped, floats(helped.job.rows), TOLERANCE)
    with helped.open() as results:
        lines = {line["rank"]: line for line in results.ranks}
    assert [lines[r]["fate"] for r in (1, 2, 3)] == ["ok", "expelled", "ok"], helped.log
    assert [lines[r]["rejections"] for r in (1, 2, 3)] == [0, 1, 0]
    assert lines[2]["fate_reason"] == f"1 rejected; last: slice 2 of a bundle that two ranks prove is wrong: {UNLINKED}"
    assert run(helped.job.results, inputs=helped.job.folder / "rows.npy").failures == []
