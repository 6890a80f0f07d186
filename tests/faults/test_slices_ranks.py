"""One bundle whose slices different ranks prove: a rank that is killed with its part, and the file that comes of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from small_job import BUNDLE, TOLERANCE, floats, write_small_job
from small_runs import log_of
from test_faults import ULFM, play

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audit_case import run as audit

from enclaveml.envelope import decode
from enclaveml.results import read_results

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]


def test_two_ranks_make_one_proof_and_a_killed_helper_costs_its_slice(tmp_path) -> None:
    """One bundle, three workers of which none delivers a whole one: the second is killed, so the third's slice is joined."""
    job = write_small_job(tmp_path / "job", BUNDLE, {
        "proof": {"slices": 2, "timeout_s": 60},
        # By measured speed shares are whole bundles; the memory is stated, so that the circuit does not depend on the machine's.
        "split": {"strategy": "by_capacity", "capacity": "throughput"},
        "cluster": {"ranks": [{"node_id": f"node-{i}", "memory_gb": 2} for i in range(4)]},
    })
    done = play(job, ["sound", "slices_alone", "die_helping", "slices_alone"], {"ENCLAVEML_CACHE": str(tmp_path / "cache")}, ULFM)
    assert done.returncode == 0, log_of(done)
    with read_results(job.results) as results:
        assert (results.row("status") == 1).all() and (results.row("rank") == 1).all(), log_of(done)
        assert np.abs(results.proved_outputs() - floats(job.rows)).max() < TOLERANCE / 5
        assert results.n_proofs == 1
        proof = results.proof(0)
        envelope = decode(proof.envelope)
        assert (envelope.node_id, envelope.bundle, proof.rank) == ("node-1", proof.id, 1)
        lines = {line["rank"]: line for line in results.ranks}
    assert [lines[r]["fate"] for r in (1, 2, 3)] == ["ok", "lost", "ok"]
    assert [lines[r]["copies"] for r in (1, 2, 3)] == [0, 1, 1]
    assert [lines[r]["rows_verified"] for r in (1, 2, 3)] == [BUNDLE, 0, 0]
    assert [lines[r]["discarded"] for r in (1, 2, 3)] == [0, 0, 0] and not any(line["rejections"] for line in lines.values())
    assert re.search(r"bundle \d+ is bundle \d+ of rank 1 .*, whose slices 2 are of rank 3 ", done.stderr), log_of(done)
    report = audit(job.results, inputs=job.folder / "rows.npy")
    assert report.failures == [] and f"{BUNDLE} of {BUNDLE} rows proved" in report.verdict
