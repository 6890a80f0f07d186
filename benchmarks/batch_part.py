"""One case of ``benchmarks.batch`` in a process of its own; its peak memory is read when it has only proved.

Reads {"model": FILE.npz, "rows": N, "masks": m, "hidden": whether weights are too, "rounds": R, "cache": FOLDER} from standard input, writes its
findings as one line of JSON.
With "growth" in it, a list of numbers of proofs: these one after the other, and what they took until each number.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.batch_bound import best, bounds
from enclaveml.zk.batch.format import BLOWUP, PADS, SALT, Layer, VerificationKey
from enclaveml.zk.batch.integer import IntegerLayer, IntegerModel
from enclaveml.zk.batch.prove import code, inference, kernels, masked, parallel, proof, tree
from enclaveml.zk.batch.prove.api import BatchProver, commit_weights, prove_weights_range, register_weights
from enclaveml.zk.batch.prove.memory import memory_bytes
from enclaveml.zk.batch.prove.transcript import Transcript
from enclaveml.zk.batch.rows_of_a_proof import weight_rows_of
from enclaveml.zk.batch.verify.api import KnownInputs, verify, verify_masked, verify_weights

#: The label of a message to the stage whose work it ends (PROTOCOL.md, "The proof"). Before the first is inference.
STAGES = {"kind": "infer", "columns": "columns", "multiplicities": "count lookups", "helpers": "helpers", "sums": "zero-check", "rows": "zero-check",
          "table": "table", "multiplicity": "table",
          "layers": "features", "features": "features", "claims": "features", "output": "matrix products", "product": "matrix products",
          "product claims": "matrix products", "product sum": "matrix products", "residual": "matrix products", "outputs": "infer",
          "masks": "commit masks", "weight pads": "commit masks", "weights sum": "weights' rounds", "weights": "weights' rounds"}


class Watch:
    """Seconds of each stage, told apart by the transcript's labels."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def add(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def watched(watch: Watch, key: VerificationKey) -> type[Transcript]:
    """A transcript that tells ``watch`` when a stage ends."""
    # Which openings are of weights: those after all others, or the one before the last where they are hidden.
    of_weights = range(3, 4) if key.weight_rows else range(4 if key.masks else 1, 99)

    class Watched(Transcript):
        openings = 0

        def absorb(self, label: str, data: bytes) -> None:
            super().absorb(label, data)
            if label == "outputs" and "columns" in watch.seconds:
                watch.add("commit masks")  # the root of their mask rows
            elif label in STAGES:
                watch.add(STAGES[label])
            elif label in ("pad", "proximity", "evaluation", "leaves"):
                watch.add("open weights" if self.openings in of_weights else "open rows")
                self.openings += label == "leaves"
            else:
                watch.add("infer")

    return Watched


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Prove and verify the case's rounds; raises where a proof does not hold or an output is wrong."""
    with np.load(case["model"]) as given:
        shapes = tuple(Layer.from_json(layer) for layer in json.loads(str(given["layers"])))
        layers = [given[f"weights_{i}"].astype(np.int32) for i in range(len(shapes))]
        pool = given["x"].astype(np.int32)
        low, high, range_bits = (int(given[name]) for name in ("low", "high", "range_bits"))
    key = VerificationKey(case["rows"], low, high, shapes, range_bits, (bytes(32),) * len(shapes), case["masks"])
    seed = os.urandom(32) if case.get("hidden") else None
    started = time.perf_counter()
    if seed:
        # Each proof shows some of the registration's masks: enough for the rounds, the first two proofs and the weights'.
        key = register_weights(replace(key, roots=(bytes(32),), weight_rows=weight_rows_of(key, case["rounds"] + 3)), layers, seed)
    else:
        key = replace(key, roots=commit_weights(layers)[0])
    prover = BatchProver(key, layers, seed)
    first = prove(key, prover, pool, 0)
    found: dict[str, Any] = {"first_seconds": time.perf_counter() - started}
    second = prove(key, prover, pool, 1)
    # Until here the process has proved rows, and nothing else.
    found |= {"peak_bytes": peak_bytes(), "memory_bytes": memory_bytes(key)}
    check(key, layers, first)
    check(key, layers, second)
    if "growth" in case:
        return found | {"growth": _growth(key, layers, prover, pool, case["growth"])}
    found["rounds"] = [_round(key, prover, layers, pool, number) for number in range(1, case["rounds"] + 1)]
    found["infer_seconds"] = best(lambda: inference.infer(key, layers, pool[: key.real_rows]), 10)
    started = time.perf_counter()
    weights_proof = prove_weights_range(key, layers, seed)
    found |= {"weights_seconds": time.perf_counter() - started, "weights_proof_bytes": len(weights_proof), "weight_openings": key.weight_openings,
              "weights_peak_bytes": peak_bytes()}
    started = time.perf_counter()
    verify_weights(key, weights_proof)
    found["weights_verify_seconds"] = time.perf_counter() - started
    return found | {"stage_bounds": {name: asdict(bound) for name, bound in bounds(key).items()}} | _alone(key)


@dataclass(frozen=True)
class Made:
    """One proof, and what it was made of; seconds of each stage."""

    x: np.ndarray
    nonce: bytes
    input_key: bytes | None
    outputs: np.ndarray
    proof: bytes
    seconds: float
    cpu_seconds: float
    stages: dict[str, float]


def prove(key: VerificationKey, prover: BatchProver, pool: np.ndarray, number: int) -> Made:
    """Prove some of the pool's rows, others for every number."""
    x = np.roll(pool, 7 * number, axis=0)[: key.real_rows]
    nonce = f"benchmarks.batch, round {number}".encode()
    watch = Watch()
    proof.Transcript = masked.Transcript = watched(watch, key)
    input_key = os.urandom(32) if key.masks else None
    started, used = time.perf_counter(), time.process_time()
    y, made = prover.prove(x, nonce, input_key)
    return Made(x, nonce, input_key, y, made, time.perf_counter() - started, time.process_time() - used, watch.seconds)


def check(key: VerificationKey, layers: list[np.ndarray], made: Made) -> float:
    """Verify it, hold its outputs against the integer network's; seconds of verifying alone."""
    started = time.perf_counter()
    if made.input_key is None:
        verify(key, made.nonce, made.x, made.outputs, made.proof)
    else:
        verify_masked(key, made.nonce, made.outputs, made.proof, KnownInputs(made.x, made.input_key))
    seconds = time.perf_counter() - started
    if not (made.outputs == _outputs(key, layers, made.x)).all():
        raise SystemExit("outputs differ from the integer network's")
    return seconds


def _round(key: VerificationKey, prover: BatchProver, layers: list[np.ndarray], pool: np.ndarray, number: int) -> dict[str, Any]:
    made = prove(key, prover, pool, number)
    return {"prove_seconds": made.seconds, "prove_cpu_seconds": made.cpu_seconds, "verify_seconds": check(key, layers, made),
            "proof_bytes": len(made.proof), "stages": made.stages}


def _growth(key: VerificationKey, layers: list[np.ndarray], prover: BatchProver, pool: np.ndarray, counts: list[int]) -> list[dict[str, Any]]:
    """Proof after proof: until each of the counts the seconds of proving and verifying, and memory."""
    found, proving, verifying, size = [], 0.0, 0.0, 0
    for number in range(1, counts[-1] + 1):
        made = prove(key, prover, pool, number)
        proving, size = proving + made.seconds, size + len(made.proof)
        verifying += check(key, layers, made)
        if number in counts:
            found.append({"proofs": number, "rows": number * key.real_rows, "prove_seconds": proving, "verify_seconds": verifying,
                          "proof_bytes": size, "resident_bytes": _resident()})
    return found


def peak_bytes() -> int:
    """The most bytes that this program had in memory (proc(5), status). getrusage's are also those of who started it, before exec."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _resident() -> int:
    """Bytes of this process in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _outputs(key: VerificationKey, layers: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """The quantiser's integer network, a thousand rows at a time: slow, and nothing of the prover's."""
    made = tuple(IntegerLayer(w.astype(np.int8), layer.shift, layer.wirings, layer.residual) for w, layer in zip(layers, key.layers, strict=True))
    model = IntegerModel(made, 0, 0, key.input_low, key.input_high)
    return np.concatenate([model.run(some) for some in np.array_split(x.astype(np.int64), -(-len(x) // 1024))])


def _alone(key: VerificationKey) -> dict[str, Any]:
    """Encoding and hashing of as many codewords as a proof has, each by itself: what bounds a commitment."""
    width = 7 * key.units + (key.width + PADS if key.masks else 0)
    columns = np.random.default_rng(0).integers(0, 2**30, (key.rows, 256)).astype(np.uint32)
    leaves = np.random.default_rng(0).integers(0, 2**30, (256, width)).astype("<u4")
    block = max(16, min(256, (1 << 17) // key.rows))
    with parallel.pool() as threads:
        def encode() -> None:
            threads.map(lambda c: np.asarray(kernels.coset_values(columns[:, :block], code.scale_powers(key.rows, c))), range(BLOWUP))
        encode()
        encoding = best(encode) * width / block
        salts = np.zeros((len(leaves), SALT if key.masks else 0), np.uint8)
        hashing = best(lambda: tree.hashed(tree.LEAF, leaves, salts)) / len(leaves) * BLOWUP * key.rows
        nodes = np.zeros((4096, 32), np.uint8)
        return {"encode_alone_seconds": encoding, "leaves_alone_seconds": hashing,
                "nodes_alone_seconds": best(lambda: tree.Tree(nodes, threads)) / 4096 * 2 * BLOWUP * key.rows}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    jax.config.update("jax_compilation_cache_dir", asked["cache"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    print(json.dumps(measure(asked)))
