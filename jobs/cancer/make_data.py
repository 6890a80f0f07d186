"""Write cancer.npz from the copy of the Wisconsin data that scikit-learn ships (no network).

    python jobs/cancer/make_data.py

Arrays of cancer.npz (N = 569 patients, T = 114 of them held out from training):

    x          (T, 30) float32   held-out rows, standardised: what job.yaml proves
    y          (T,) int32        0 malignant, 1 benign
    rows       (T,) int32        their positions among the N
    x_all      (N, 30) float32   every row, standardised, in scikit-learn's order
    y_all      (N,) int32
    mean, std  (30,) float64     of the 455 training rows, in the features' own units
    clip       () float64        standardised values are clipped to +-clip

Standardised is clip((feature - mean) / std, -8, 8). It is done here, outside the proved function.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SEED = 1995
HELD_OUT = 114
CLIP = 8.0  # standard deviations: keeps fixed-point inputs small whatever a feature's outliers


def arrays() -> dict[str, np.ndarray]:
    """The arrays of cancer.npz, from scikit-learn's copy and a split with a fixed seed."""
    from sklearn.datasets import load_breast_cancer

    features, malignant_0_benign_1 = load_breast_cancer(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(SEED)).permutation(len(features))
    rows, train = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    mean, std = features[train].mean(axis=0), features[train].std(axis=0)
    x_all = np.clip((features - mean) / std, -CLIP, CLIP).astype(np.float32)
    y_all = malignant_0_benign_1.astype(np.int32)
    return {"x": x_all[rows], "y": y_all[rows], "rows": rows.astype(np.int32), "x_all": x_all,
            "y_all": y_all, "mean": mean, "std": std, "clip": np.float64(CLIP)}


if __name__ == "__main__":
    target = Path(__file__).with_name("cancer.npz")
    np.savez_compressed(target, **arrays())
    print(f"{target.name}: {target.stat().st_size} bytes")
