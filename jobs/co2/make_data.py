"""Write co2.npz from co2_monthly.csv, which lies beside it (no network).

    python jobs/co2/make_data.py

Arrays of co2.npz (M = 513 windows of the monthly means, T = 96 of them, the last, held out from training):

    x          (T, 12) float32   changes of twelve months, ppm: what job.yaml proves
    y          (T,) float32      the change in the month after, ppm
    x_all      (M, 12) float32   every window, in the order of time
    y_all      (M,) float32
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

WINDOW = 12
HELD_OUT = 96
HERE = Path(__file__).parent


def arrays() -> dict[str, np.ndarray]:
    """The arrays of co2.npz, from the monthly means."""
    with open(HERE / "co2_monthly.csv", encoding="utf-8", newline="") as file:
        ppm = np.array([float(line["ppm"]) for line in csv.DictReader(file)])
    change = np.diff(ppm).round(4).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(change, WINDOW + 1)
    x_all, y_all = np.ascontiguousarray(windows[:, :WINDOW]), np.ascontiguousarray(windows[:, WINDOW])
    return {"x": x_all[-HELD_OUT:], "y": y_all[-HELD_OUT:], "x_all": x_all, "y_all": y_all}


if __name__ == "__main__":
    target = HERE / "co2.npz"
    np.savez_compressed(target, **arrays())
    print(f"{target.name}: {target.stat().st_size} bytes, {len(arrays()['x_all'])} windows")
