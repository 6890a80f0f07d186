"""Journals for the tests of results: written as the aggregator writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enclaveml.journal import Journal
from enclaveml.results_schema import RowStatus

D = 3
CIRCUIT = "c" * 64


def start(rows: int, ranks: int, strategy: str = "by_capacity", **more) -> dict:
    return {
        "job": "name: test\n",
        "job_given": "name: test # mine\n",
        "inputs": "public",
        "strategy": strategy,
        "versions": {"numpy": np.__version__},
        "model_hash": "m" * 64,
        "dataset_fingerprint": "f" * 64,
        "rows": rows,
        "outputs": D,
        "started": "2026-01-01T00:00:00Z",
        "ranks": table(ranks),
        **more,
    }


def table(ranks: int) -> list[dict]:
    return [
        {
            "rank": r,
            "node_id": f"node-{r}",
            "host": "hé",
            "device": "cpu",
            "memory_gb": 4.0 * r,
            "share": r / 10,
        }
        for r in range(ranks)
    ]


class Case:
    """Appends records; outputs of a row by a rank are made from both, so that a mix-up shows."""

    def __init__(self, path: Path, rows: int, ranks: int, strategy: str = "by_capacity",
                 manifest: dict | None = None, **more) -> None:
        self.journal = Journal.create(path)
        self.journal.append("start", start(rows, ranks, strategy, **more))
        self.journal.append(
            "circuit",
            {"circuit_id": CIRCUIT, "manifest": {"rows": 4, **(manifest or {})}},
            vk=b"VK",
            settings=b"{}",
            srs=b"S" * 388,
        )
        self.bundles = 0

    def output(self, rows, rank, run=0) -> np.ndarray:
        return (np.asarray(rows)[:, None] * 100 + rank * 10 + np.arange(D) + run / 4).astype(np.float32)

    def outputs(self, rank: int, rows, run: int = 0) -> None:
        self.journal.append(
            "outputs",
            {"rank": rank, "attempt": 1, "round": 0},
            rows=np.asarray(rows, np.int64),
            outputs=self.output(rows, rank, run),
        )

    def bundle(
        self, rank: int, rows, status=RowStatus.VERIFIED, run: int = 0, envelope: bytes | None = None, **more
    ) -> None:
        self.bundles += 1
        n = len(rows)
        self.journal.append(
            "bundle",
            {
                "bundle": self.bundles,
                "rank": rank,
                "attempt": 1,
                "round": 0,
                "verdict": f"bundle {self.bundles}",
                "verify_seconds": 0.25,
                "circuit_id": CIRCUIT,
                **more,
            },
            rows=np.asarray(rows, np.int64),
            status=np.broadcast_to(np.uint8(status), n).copy(),
            proved=self.output(rows, rank, run).astype(np.float64) + 0.125,
            deviation=np.full(n, 0.125),
            argmax_differs=np.arange(n) == 0,
            envelope=b"envelope %d" % self.bundles if envelope is None else envelope,
        )

    def rows(self, rows, status, rank=None) -> None:
        meta = {"reason": "test"} if rank is None else {"reason": "test", "rank": rank, "attempt": 1}
        self.journal.append(
            "rows", meta, rows=np.asarray(rows, np.int64), status=np.full(len(rows), status, np.uint8)
        )

    def end(self, status: str = "complete", code: int = 0) -> None:
        self.journal.append("round", {"counter": 1, "start": 0, "rows": 1})
        self.journal.append(
            "end",
            {"status": status, "exit_code": code, "message": "done", "finished": "2026-01-02T00:00:00Z"},
        )
        self.journal.close()
