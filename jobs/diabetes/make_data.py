"""Write diabetes.npz from the copy of the data that scikit-learn ships (no network).

    python jobs/diabetes/make_data.py

Arrays of diabetes.npz (N = 442 patients, T = 88 of them held out from training):

    x          (T, 10) float32   held-out rows, standardised: what job.yaml proves
    y          (T,) float32      their progression in a year, standardised
    rows       (T,) int32        their positions among the N
    x_all      (N, 10) float32   every row, in scikit-learn's order
    y_all      (N,) float32
    mean, std  () float64        of the training rows' progression, in the study's own units (25 to 346)

scikit-learn's features are centred and scaled already; times sqrt(N) each has a variance of 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SEED = 2004
HELD_OUT = 88


def arrays() -> dict[str, np.ndarray]:
    """The arrays of diabetes.npz, from scikit-learn's copy and a split with a fixed seed."""
    from sklearn.datasets import load_diabetes

    features, progression = load_diabetes(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(SEED)).permutation(len(features))
    rows, train = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    mean, std = progression[train].mean(), progression[train].std()
    x_all = (features * np.sqrt(len(features))).astype(np.float32)
    y_all = ((progression - mean) / std).astype(np.float32)
    return {"x": x_all[rows], "y": y_all[rows], "rows": rows.astype(np.int32), "x_all": x_all, "y_all": y_all,
            "mean": np.float64(mean), "std": np.float64(std)}


if __name__ == "__main__":
    target = Path(__file__).with_name("diabetes.npz")
    np.savez_compressed(target, **arrays())
    print(f"{target.name}: {target.stat().st_size} bytes")
