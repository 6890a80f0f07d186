"""``python -m benchmarks.digits``: the digits job's proved rows a second beside ezkl as documented."""

from __future__ import annotations

from pathlib import Path

from benchmarks.mlp import main

if __name__ == "__main__":
    main("digits", Path(__file__).resolve().parent.parent / "jobs/digits/job.yaml")
