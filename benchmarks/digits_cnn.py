"""``python -m benchmarks.digits_cnn``: a small convolutional network's proved rows a second beside ezkl as documented."""

from __future__ import annotations

from pathlib import Path

from benchmarks.mlp import main

if __name__ == "__main__":
    main("digits_cnn", Path(__file__).resolve().parent.parent / "jobs/digits_cnn/job.yaml", goal=10.0)
