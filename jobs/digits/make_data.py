"""Write digits.npz from the copy of the UCI digits that scikit-learn ships (no network).

    python jobs/digits/make_data.py

Arrays of digits.npz (N = 1797 images, T = 360 of them held out from training):

    x       (T, 64) float32   held-out images, pixel / 16, so 0..1: what job.yaml proves
    y       (T,) int32        their digits
    rows    (T,) int32        their positions among the N
    x_all   (N, 64) float32   every image, in scikit-learn's order: for training and benchmarks
    y_all   (N,) int32        every digit
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SEED = 1998
HELD_OUT = 360


def arrays() -> dict[str, np.ndarray]:
    """The arrays of digits.npz, from scikit-learn's copy and a split with a fixed seed."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    x_all = (pixels / 16).astype(np.float32)
    y_all = digits.astype(np.int32)
    rows = np.sort(np.random.Generator(np.random.PCG64(SEED)).permutation(len(x_all))[:HELD_OUT])
    return {"x": x_all[rows], "y": y_all[rows], "rows": rows.astype(np.int32), "x_all": x_all, "y_all": y_all}


if __name__ == "__main__":
    target = Path(__file__).with_name("digits.npz")
    np.savez_compressed(target, **arrays())
    print(f"{target.name}: {target.stat().st_size} bytes")
