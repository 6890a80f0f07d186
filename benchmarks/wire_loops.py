"""A bare jitted loop over half of a job's rows, for ``benchmarks.wire``; and the weights of its CNN.

``python -m benchmarks.wire_loops loop JSON`` prints one JSON document as its last line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

#: What two ways of computing float32 outputs of some tens may differ by.
ALLOWED = 1e-3


def weights(folder: str) -> dict[str, Any]:
    """The CNN's weights: as its class initialises them, but drawn by numpy."""
    from enclaveml.devices import bind_device

    bind_device("cpu", 0)
    import jax
    from flax import traverse_util
    from safetensors.numpy import save_file

    from benchmarks.resnet import ResNet
    from benchmarks.wire import CNN_ROW

    made = ResNet((1, 1, 1, 1), 16, 10)
    shapes = jax.eval_shape(lambda: made.init(jax.random.key(0), np.zeros((1, *CNN_ROW), np.float32)))
    rng, arrays = np.random.default_rng(0), {}
    for path, shape in traverse_util.flatten_dict(shapes).items():
        if path[-1] == "kernel":
            value = rng.standard_normal(shape.shape) * np.sqrt(2 / np.prod(shape.shape[:-1]))
        else:
            value = np.full(shape.shape, path[-1] in ("scale", "var"))
        arrays[".".join(path[1:] if path[0] == "params" else path)] = value.astype(np.float32)
    save_file(arrays, Path(folder) / "cnn.safetensors")
    return {}


def loop(folder: str, name: str, by_row: bool, half: int, gate: str, batch: int,
         expected: str | None = None) -> dict[str, Any]:
    """Infer half of the rows in batches, as a program without MPI would: jitted whole batches, or
    ``enclaveml.inference`` row by row. The settings of JAX are a rank's. ``expected``: an .npy of what all rows' outputs must be, within ALLOWED."""
    from enclaveml.devices import bind_device

    bind_device("cpu", half)
    import jax

    from benchmarks.wire import CNN_ROW
    from enclaveml.inference import Inference
    from enclaveml.models import build_model, package_model

    beside = Path(folder)
    if name == "cnn":
        args = {"blocks": [1, 1, 1, 1], "width": 16, "classes": 10}
        package = package_model("resnet.py:ResNet", args, beside / "cnn.safetensors", beside)
        made = build_model(package, CNN_ROW, np.float32, beside)
    else:
        package = package_model("digits_model.py:DigitsMLP", {}, beside / "digits.safetensors", beside)
        made = build_model(package, (64,), np.float32, beside)
    every = np.load(beside / f"{name}.npy")
    rows = np.split(every, [len(every) // 2])[half]
    if by_row:
        infer = Inference(made, batch)
    else:
        state, program = dict(made.state), jax.jit(made.apply_state)
        def infer(part: np.ndarray) -> np.ndarray:
            return np.asarray(program(state, part))
    parts = [rows[at: at + batch] for at in range(0, len(rows), batch)]
    infer(parts[0]), infer(parts[-1])
    Path(f"{gate}.{half}").touch()
    while not Path(f"{gate}.{1 - half}").exists():
        time.sleep(0.001)
    began = time.perf_counter()
    found = np.concatenate([infer(part) for part in parts])
    seconds = time.perf_counter() - began
    if expected is not None:
        off = float(np.abs(found - np.split(np.load(expected), [len(every) // 2])[half]).max())
        if not off <= ALLOWED:
            raise SystemExit(f"outputs {off:.3g} from what is expected, allowed {ALLOWED:g}")
    return {"rows": len(rows), "seconds": seconds}


def main() -> None:
    """Run what the command line names."""
    print(json.dumps({"weights": weights, "loop": loop}[sys.argv[1]](**json.loads(sys.argv[2]))), flush=True)


if __name__ == "__main__":
    main()
