"""A slow rank: ``python slow_rank.py MILLISECONDS run JOB`` waits so long for each row that it infers, then runs enclaveml.

What a slower device would do, whatever else the machine does meanwhile; the package has no hook for it.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from enclaveml import cli
from enclaveml.inference import Inference

if __name__ == "__main__":
    a_row, infer = float(sys.argv[1]) / 1e3, Inference.__call__

    def slowly(self: Inference, rows: np.ndarray) -> np.ndarray:
        time.sleep(a_row * len(rows))
        return infer(self, rows)

    Inference.__call__ = slowly
    raise SystemExit(cli.main(sys.argv[2:]))
