"""The parts of the GPU benchmark: each runs in a process of its own (``python -m benchmarks.gpu_parts NAME ARGS``)
and prints one JSON document as its last line.

A part binds its device as a rank does (``enclaveml.devices``), unless it is told to take JAX's own settings.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESNET_ROW = (224, 224, 3)

#: Without normalising statistics of its own the ResNet's features grow block by block; its last product is made
#: smaller by this, so that its logits have the size that logits have, and a tolerance of 0.01 means something.
LAST = 200.0

#: Devices of the seed's table, in GB, and the batches that are usual for a ResNet-50 on them.
USUAL = {6: (32, 64), 12: (64, 128), 16: (64, 96), 48: (256, 512)}


def bind(device: str, local_rank: int = 0) -> dict[str, Any]:
    """Bind as a rank does; ``jax`` takes JAX's own settings instead. What came up."""
    if device == "jax":
        import jax

        found = jax.devices()[0]
        return {"name": found.device_kind, "kind": "cuda" if found.platform == "gpu" else found.platform,
                "memory_gb": (found.memory_stats() or {}).get("bytes_limit", 0) / 1e9}
    from enclaveml.devices import bind_device

    info = bind_device(device, local_rank)
    return {"name": info.name, "kind": info.kind, "memory_gb": info.memory_gb}


def draw_weights(folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Weights for the ResNet by He's rule from seed 0, so that every process has the same."""
    bind(device)
    import jax
    from flax import traverse_util
    from safetensors.numpy import save_file

    from benchmarks.resnet import ResNet

    shapes = jax.eval_shape(lambda: ResNet().init(jax.random.key(0), np.zeros((1, *RESNET_ROW), np.float32)))
    rng, arrays = np.random.default_rng(0), {}
    for path, shape in traverse_util.flatten_dict(shapes).items():
        name = ".".join(path[1:] if path[0] == "params" else path)
        if path[-1] == "kernel":
            spread = np.sqrt(2 / np.prod(shape.shape[:-1])) / (LAST if "Dense" in name else 1)
            arrays[name] = (rng.standard_normal(shape.shape) * spread).astype(np.float32)
        else:
            arrays[name] = np.full(shape.shape, path[-1] in ("scale", "var"), np.float32)
    save_file(arrays, folder / "resnet.safetensors")
    return {"weights": int(sum(a.size for a in arrays.values()))}


def model(name: str, folder: Path) -> Any:
    """The digits' MLP with its own weights, or the ResNet."""
    from enclaveml.models import build_model, package_model

    if name == "digits":
        beside = ROOT / "jobs" / "digits"
        package = package_model("digits_model.py:DigitsMLP", {}, beside / "digits.safetensors", beside)
        return build_model(package, (64,), np.float32, beside)
    package = package_model("resnet.py:ResNet", {}, folder / "resnet.safetensors", ROOT / "benchmarks")
    return build_model(package, RESNET_ROW, np.float32, ROOT / "benchmarks")


def rows_of(name: str, count: int, seed: int = 1) -> np.ndarray:
    """Rows to infer: pixels in 0..1 for the digits, normal ones for the ResNet."""
    rng = np.random.default_rng(seed)
    if name == "digits":
        return rng.random((count, 64), np.float32)
    return rng.standard_normal((count, *RESNET_ROW), np.float32)


def _timed(call: Any, seconds: float) -> float:
    """The median time of a call, of at least 3 and for about that long."""
    taken: list[float] = []
    began = time.monotonic()
    while len(taken) < 3 or time.monotonic() - began < seconds:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def speed(name: str, folder: Path, device: str, batches: list[int], seconds: float) -> dict[str, Any]:
    """Rows a second at each batch, and at the batch that the device's memory gives.

    ``rows_s``: from host memory to outputs in host memory, four batches a call. ``device_rows_s``: the
    compiled program alone, its rows on the device already.
    """
    info = bind(device)
    import jax

    from enclaveml.inference import Inference, batch_that_fits

    made = model(name, folder)
    found = []
    for batch in [*batches, None]:
        start = time.monotonic()
        inference = Inference(made, batch, memory=info["memory_gb"] * 1e9)
        compiled = time.monotonic() - start
        rows = rows_of(name, inference.batch)
        several = np.concatenate([rows] * 4)
        once = jax.device_put(rows)
        inference(several)
        whole = len(several) / _timed(lambda: inference(several), seconds)  # noqa: B023
        alone = len(rows) / _timed(
            lambda: jax.block_until_ready(inference._start(once, len(rows))), seconds)  # noqa: B023
        found.append({"batch": inference.batch, "by_memory": batch is None, "rows_s": whole, "device_rows_s": alone,
                      "compile_s": compiled, "row_bytes": inference.footprint.row,
                      "weight_bytes": inference.footprint.weights})
        print(f"{name} batch {inference.batch}: {whole:.0f} rows/s, {alone:.0f} on the device", file=sys.stderr)
    usual = {gb: batch_that_fits(inference.footprint, gb * 1e9) for gb in USUAL}
    return {"device": info, "model": name, "batches": found, "batch_for_gb": usual}


def outputs(name: str, folder: Path, device: str, count: int, precision: str, to: str) -> dict[str, Any]:
    """Save the float outputs of ``count`` rows: as the package computes them (``as bound``), in JAX's default
    precision (``default``), or in float64 (``float64``)."""
    if precision == "float64":
        os.environ["JAX_ENABLE_X64"] = "1"
    info = bind(device)
    import jax

    from enclaveml.inference import Inference

    made, rows = model(name, folder), rows_of(name, count, seed=2)
    if precision == "as bound":
        found = Inference(made, min(count, 32))(rows)
    else:
        kind = np.float64 if precision == "float64" else np.float32
        state = {key: jax.numpy.asarray(np.asarray(a).astype(kind)) for key, a in made.state.items()}
        with jax.default_matmul_precision("default" if precision == "default" else "highest"):
            found = np.asarray(jax.jit(made.call)(state, rows.astype(kind)))
    np.save(to, found)
    return {"device": info, "dtype": str(found.dtype)}


def together(folder: Path, device: str, local_rank: int, seconds: float, gate: str) -> dict[str, Any]:
    """One of several processes on one device: wait for all, then infer for a while."""
    info = bind(device, local_rank)
    import jax

    from enclaveml.inference import Inference

    Path(gate + f".{local_rank}").touch()
    until = time.monotonic() + 120
    while not all(Path(gate + f".{i}").exists() for i in (0, 1)) and time.monotonic() < until:
        time.sleep(0.01)
    inference = Inference(model("resnet", folder), 32 if info["kind"] == "cuda" else 2)
    rows = rows_of("resnet", 2 * inference.batch)
    inference(rows)
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        inference(rows)
        done += len(rows)
    rate = done / (time.monotonic() - began)
    stats = jax.devices()[0].memory_stats() or {}
    return {"device": info, "rows_s": rate, "peak_gb": stats.get("peak_bytes_in_use", 0) / 1e9}


def out_of_memory(device: str) -> dict[str, Any]:
    """A batch that cannot fit, on purpose: 256 kB of activations a row and half as many rows again as there is
    memory for. It must end with the outputs that a small batch gives."""
    info = bind(device)
    import jax.numpy as jnp

    from enclaveml.inference import Inference
    from enclaveml.zk.interface import ModelFunction

    rng, wide = np.random.default_rng(3), 1 << 16
    first = jnp.asarray(rng.standard_normal((16, wide)) / 4, jnp.float32)
    last = jnp.asarray(rng.standard_normal((wide, 4)) / 256, jnp.float32)
    function = ModelFunction(lambda x: jnp.tanh(x @ first) @ last, (16,))
    on_gpu = info["kind"] == "cuda"
    batch = 1 << int(np.ceil(np.log2(1.5 * info["memory_gb"] * 1e9 / (4 * wide)))) if on_gpu else 64
    said: list[str] = []
    logger, handler = logging.getLogger("enclaveml"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    rows = rng.standard_normal((batch + 100, 16)).astype(np.float32)
    inference = Inference(function, batch)
    found = inference(rows)
    small = Inference(function, 64)(rows[-200:])
    return {"device": info, "asked": batch, "batch": inference.batch, "said": said,
            "difference": float(np.abs(found[-200:] - small).max()), "scale": float(np.abs(small).max())}


def prove(device: str, model: str, rows: int, masks: int, programs: bool, rounds: int) -> dict[str, Any]:
    """Batch proofs of a file's integer model on the device, each verified: the least seconds of the rounds, and the SHA-256 of the last proof,
    which follows from fixed seeds and must be the same everywhere. ``programs``: by JAX's programs, as on a GPU, and not by numba's kernels.
    """
    if programs:
        sys.modules["numba"] = None  # type: ignore[assignment]  # importing it raises ImportError
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    info = bind(device)
    import hashlib

    import jax

    from enclaveml.zk.batch.format import Layer, VerificationKey
    from enclaveml.zk.batch.prove.api import BatchProver, commit_weights
    from enclaveml.zk.batch.verify.api import KnownInputs, verify_masked

    with np.load(model) as given:
        shapes = tuple(Layer.from_json(layer) for layer in json.loads(str(given["layers"])))
        layers = [given[f"weights_{i}"].astype(np.int32) for i in range(len(shapes))]
        x, low, high, range_bits = given["x"].astype(np.int32), *(int(given[name]) for name in ("low", "high", "range_bits"))
    key = VerificationKey(rows, low, high, shapes, range_bits, commit_weights(layers)[0], masks)
    prover, x, seed, taken = BatchProver(key, layers), x[: key.real_rows], bytes(range(32)), []
    for number in range(rounds + 2):  # two are compiled in
        nonce = f"benchmarks.gpu {number}".encode()
        began = time.perf_counter()
        y, proof = prover.prove(x, nonce, seed, seed)
        taken.append(time.perf_counter() - began)
        verify_masked(key, nonce, y, proof, KnownInputs(x, seed))
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9
    return {"device": info["name"], "seconds": min(taken[2:]), "first_seconds": taken[0], "real_rows": key.real_rows, "peak_gb": peak,
            "sha256": hashlib.sha256(proof).hexdigest()}


def main() -> None:
    """Run the part that the command line names; its arguments are a JSON object."""
    name, given = sys.argv[1], json.loads(sys.argv[2])
    if "folder" in given:
        given["folder"] = Path(given["folder"])
    parts = {"prove": prove, "draw_weights": draw_weights, "speed": speed, "outputs": outputs, "together": together,
             "out_of_memory": out_of_memory}
    print(json.dumps(parts[name](**given)), flush=True)


if __name__ == "__main__":
    main()
