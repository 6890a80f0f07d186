"""What names an order to prove: every label in it, one encoding."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from fakes import Cluster

from enclaveml.nonce import nonce_of

LABELS = {"job_id": "job-1", "node_id": "node-2", "rank": 2, "circuit_id": "c1" * 32, "round_": 3, "bundle": 4, "attempt": 1,
          "rows": np.array([7, 9, 8])}


def test_it_is_the_hash_of_the_labels_as_written() -> None:
    text = (b"enclaveml nonce 1" + struct.pack("<I", 5) + b"job-1" + struct.pack("<I", 6) + b"node-2" + struct.pack("<i", 2)
            + b"\xc1" * 32 + struct.pack("<QQIQ", 3, 4, 1, 3) + struct.pack("<qqq", 7, 9, 8))
    assert nonce_of(**LABELS) == hashlib.sha256(text).digest()


@pytest.mark.parametrize(("name", "other"), [
    ("job_id", "job-2"), ("job_id", "job-1n"), ("node_id", "node-3"), ("rank", 3), ("circuit_id", "c2" * 32), ("round_", 4), ("bundle", 5),
    ("attempt", 2), ("rows", np.array([7, 8, 9])), ("rows", np.array([7, 9])),
])
def test_every_label_counts(name: str, other: object) -> None:
    assert nonce_of(**{**LABELS, name: other}) != nonce_of(**LABELS)


def test_texts_do_not_run_into_each_other() -> None:
    assert nonce_of(**{**LABELS, "job_id": "ab", "node_id": "c"}) != nonce_of(**{**LABELS, "job_id": "a", "node_id": "bc"})


def test_the_prover_is_told_what_the_verifier_holds_it_to(tmp_path: Path) -> None:
    c = Cluster(tmp_path, 24, 3).run()
    checked = c.verifier.nonces
    assert len(set(checked.values())) == len(checked) > 4
    for task, nonce in checked.items():
        rank, rows = c.bundles[task]
        assert c.ranks[rank].prover.nonces[task] == nonce
        assert nonce == nonce_of("job-1", c.members[rank].node_id, rank, c.circuit.circuit_id, 0, task, 1, np.array(rows))
