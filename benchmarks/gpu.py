"""Inference on a GPU: rows a second, GPU beside CPU outputs, two ranks on one GPU, memory, and whole jobs; batch proofs by JAX's programs there.

``python -m benchmarks.gpu`` needs neither ezkl nor MPI, and takes CPU devices where there is no GPU. Every part runs
in a process of its own (``gpu_parts.py``); one that fails is told in the report, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_parts import ROOT, USUAL, rows_of
from benchmarks.machine import REPORTS, machine, sentence, table, write_report

#: What a float output may differ from rank 0's own before its rank is blamed: a quarter of the tolerance
#: (enclaveml/aggregator.py, HONEST_SHARE), at the tolerance that a job has when it says none.
ALLOWED = 0.25 * 0.01


def clean() -> dict[str, str]:
    """This environment without what chooses JAX's device and settings."""
    drop = ("JAX_", "XLA_", "NVIDIA_TF32", "NPROC")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def start(which: str, env: dict[str, str] = {}, /, **given: Any) -> subprocess.Popen[str]:
    """Start a part."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.gpu_parts", which, json.dumps(given)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean() | env)


def finish(process: subprocess.Popen[str], timeout: float) -> dict[str, Any]:
    """What a part said, or ``{"error": ...}``."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"error": f"longer than {timeout:g} s"}
    if process.returncode:
        lines = [line for line in err.strip().splitlines() if line.strip()]
        print(err[-3000:], file=sys.stderr, flush=True)
        return {"error": next((x for x in reversed(lines) if "Error" in x), lines[-1] if lines else "no word")[:400]}
    return json.loads(out.strip().splitlines()[-1])


def part(which: str, timeout: float, env: dict[str, str] = {}, /, **given: Any) -> dict[str, Any]:
    """Run a part to its end."""
    began = time.monotonic()
    found = finish(start(which, env, **given), timeout)
    print(f"{which} {given}: {time.monotonic() - began:.0f} s {found.get('error', '')}", flush=True)
    return found


def deviations(folder: Path, kind: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    """For each model: how far from the CPU's outputs those of the device are, as bound and at JAX's default."""
    found = []
    for name, count in counts.items():
        settings = {"cpu": ("cpu", "as bound"), "float64": ("cpu", "float64"), "as bound": (kind, "as bound"),
                    "default": ("jax", "default")}
        made: dict[str, np.ndarray] = {}
        for label, (device, precision) in settings.items():
            to = folder / f"{name}-{label.replace(' ', '-')}.npy"
            said = part("outputs", 200, folder=str(folder), name=name, device=device, count=count,
                        precision=precision, to=str(to))
            if "error" in said:
                found.append({"model": name, "setting": label, **said})
            else:
                made[label] = np.load(to).astype(np.float64)
        for label in [x for x in ("as bound", "default") if x in made and "cpu" in made]:
            other = np.abs(made[label] - made["cpu"])
            row = {"model": name, "rows": count, "setting": label, "deviation": float(other.max()),
                   "largest_output": float(np.abs(made["cpu"]).max()),
                   "argmax_differs": int((made[label].argmax(1) != made["cpu"].argmax(1)).sum()),
                   "rows_blamed": int((other.max(axis=1) > ALLOWED).sum())}
            if "float64" in made:
                row["from_float64"] = float(np.abs(made[label] - made["float64"]).max())
                row["cpu_from_float64"] = float(np.abs(made["cpu"] - made["float64"]).max())
            found.append(row)
    return found


def two_processes(folder: Path, kind: str, seconds: float) -> list[dict[str, Any]]:
    """Two processes on the one device at once: as ranks are bound, and at JAX's default, each taking 3/4 of it."""
    found = []
    for setting, device in (("as bound", kind), ("default", "jax")):
        gate = str(folder / f"gate-{device}")
        pair = [start("together", {"CUDA_VISIBLE_DEVICES": "0"} if kind == "cuda" else {}, folder=str(folder),
                      device=device, local_rank=i, seconds=seconds, gate=gate) for i in (0, 1)]
        for i, process in enumerate(pair):
            found.append({"setting": setting, "process": i, **finish(process, 200)})
        print(f"two processes, {setting}: {found[-2:]}", flush=True)
    return found


def write_job(folder: Path, name: str, count: int, device: str) -> Path:
    """A job at coverage 0 over ``count`` rows of one of the models; its job file."""
    beside = ROOT / ("jobs/digits" if name == "digits" else "benchmarks")
    file, cls = ("digits_model.py", "DigitsMLP") if name == "digits" else ("resnet.py", "ResNet")
    shutil.copy(beside / file, folder / file)
    if name == "digits":
        shutil.copy(beside / "digits.safetensors", folder / "digits.safetensors")
    np.save(folder / f"{name}.npy", rows_of(name, count, seed=4))
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({
        "model": {"flax": f"{file}:{cls}", "weights": f"{name}.safetensors"},
        "input": {"path": f"{name}.npy"}, "proof": {"coverage": 0}, "output": {"path": f"{name}.h5"},
    }), encoding="utf-8")
    return path


def jobs(folder: Path, kind: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    """Whole jobs at coverage 0 on 1 rank, and under mpirun on 2 and 3, if there is one."""
    from enclaveml.results import read_results

    mpirun = Path(sys.executable).with_name("mpirun")
    launcher = str(mpirun) if mpirun.exists() else shutil.which("mpirun")
    found = []
    for name, count in counts.items():
        path = write_job(folder, name, count, kind)
        for ranks in (1, 2, 3) if launcher else (1,):
            before = [launcher, "--oversubscribe", "-np", str(ranks)] if ranks > 1 else []
            out = folder / f"{name}-{ranks}.h5"
            began = time.monotonic()
            done = subprocess.run([*before, sys.executable, "-m", "enclaveml", "run", str(path), "-o", str(out)],
                                  env=clean(), capture_output=True, text=True, timeout=280)
            row: dict[str, Any] = {"model": name, "rows": count, "ranks": ranks, "exit_status": done.returncode,
                                   "seconds": time.monotonic() - began}
            print(done.stderr[-1500:], flush=True)
            if done.returncode == 0:
                with read_results(out) as results:
                    devices = [str(rank["device"]) for rank in results.ranks]
                    row["devices"] = devices
                    row["infer_s"] = [float(rank.get("infer_s", 0)) for rank in results.ranks]
                    values = np.asarray(results.outputs(), np.float64)
                first = values if not [r for r in found if r["model"] == name and "outputs" in r] else None
                row["finite"] = bool(np.isfinite(values).all())
                np.save(folder / f"{name}-{ranks}-out.npy", values)
                row["deviation_from_one_rank"] = (
                    0.0 if first is None else float(np.abs(values - np.load(folder / f"{name}-1-out.npy")).max()))
                rates = re.findall(r"\(100 %\).*?([\d.e+]+) rows/s", done.stderr)
                row["rows_s"] = float(rates[-1]) if rates else 0.0
            else:
                row["error"] = done.stderr.strip().splitlines()[-1][:300] if done.stderr.strip() else "no word"
            found.append(row)
    return found


def speeds(folder: str, kind: str, gpu: bool) -> list[dict[str, Any]]:
    """The speed of each model over a range of batches."""
    batches = {"digits": [256, 4096, 65536], "resnet": [1, 8, 32, 64, 256] if gpu else [1, 4]}
    return [part("speed", 280, folder=folder, name=m, device=kind, batches=b, seconds=1.0) for m, b in batches.items()]


def lines_of(document: dict[str, Any]) -> list[str]:
    """The report."""
    device = document["device"]
    text = ["# gpu", "", f"Inference at float32 on {device['name']} ({device['kind']}, {device['memory_gb']:.1f} GB for "
            "JAX), as ranks do it: bound by `enclaveml.devices`, batches by `enclaveml.inference`.", "",
            sentence(document["machine"], "gpu"), ""]
    if "speed" in document:
        text += ["## Rows a second", "", "From host memory to outputs in host memory, and the program alone with its "
                 "rows on the device. Medians.", ""]
        rows = [[one["model"], f"{b['batch']}{' (by memory)' if b['by_memory'] else ''}", f"{b['rows_s']:.0f}",
                 f"{b['device_rows_s']:.0f}", f"{b['row_bytes'] / 1e6:.3g} MB", f"{b['compile_s']:.1f}"]
                for one in document["speed"] if "error" not in one for b in one["batches"]]
        text += table(("model", "batch", "rows/s", "on the device", "memory a row", "compiled in s"), rows)
        resnet = next((s for s in document["speed"] if s.get("model") == "resnet"), None)
        if resnet:
            text += ["", "By this footprint the rule gives a ResNet-50: " + ", ".join(
                f"{batch} rows on {gb} GB (usual: {USUAL[int(gb)][0]} to {USUAL[int(gb)][1]})"
                for gb, batch in resnet["batch_for_gb"].items()) + "."]
    if "deviations" in document:
        text += ["", "## Beside the CPU's outputs", "",
                 "`as bound` is what ranks compute with: matmul precision `highest`, TF32 off. `default` is JAX's own "
                 f"setting. An honest rank is blamed beyond {ALLOWED:g} at the tolerance 0.01.", ""]
        text += table(("model", "setting", "rows", "largest deviation", "largest output", "argmax differs",
                       "rows beyond", "from float64", "CPU from float64"),
                      [[d["model"], d["setting"], d["rows"], f"{d['deviation']:.2g}", f"{d['largest_output']:.3g}",
                        d["argmax_differs"], d["rows_blamed"], f"{d.get('from_float64', np.nan):.2g}",
                        f"{d.get('cpu_from_float64', np.nan):.2g}"]
                       for d in document["deviations"] if "error" not in d])
    if "two" in document:
        text += ["", "## Two processes on one device", "",
                 *table(("setting", "process", "rows/s", "peak memory", "error"),
                        [[t["setting"], t["process"], f"{t.get('rows_s', 0):.0f}", f"{t.get('peak_gb', 0):.2f} GB",
                          t.get("error", "")] for t in document["two"]])]
    if "out_of_memory" in document:
        o = document["out_of_memory"]
        if "error" not in o:
            text += ["", "## Out of memory", "", f"Asked for {o['asked']} rows a batch (256 kB of activations each), it "
                     f"went on with {o['batch']}; the outputs are those of small batches (difference "
                     f"{o['difference']:.2g}, largest output {o['scale']:.2g}).", "", *(f"> {x}" for x in o["said"])]
    if "jobs" in document:
        text += ["", "## Whole jobs at coverage 0", "", "`enclaveml run`, from start to end; rows/s is what its log "
                 "says last.", "",
                 *table(("model", "ranks", "devices", "rows", "seconds in all", "rows/s", "exit status",
                         "difference to one rank"),
                        [[j["model"], j["ranks"], ", ".join(j.get("devices", [])), j["rows"], f"{j['seconds']:.1f}",
                          f"{j.get('rows_s', 0):.0f}", j["exit_status"],
                          f"{j.get('deviation_from_one_rank', np.nan):.2g}"] for j in document["jobs"]])]
    if "proofs" in document:
        text += ["", "## Batch proofs", "", "Masked, of random weights, each verified; the least of 3 rounds after two. On a CPU a prover takes numba's "
                 "kernels, where a device is JAX's programs; a job's prover is on the CPU. Hashing is the host's.", "",
                 *table(("model", "rows a proof", "device", "by", "us a row", "first proof, s", "device memory, GB", "SHA-256 of the proof"),
                        [[p["model"], p["real_rows"], p["device"], p["by"], f"{1e6 * p['seconds'] / p['real_rows']:.1f}",
                          f"{p['first_seconds']:.1f}", f"{p['peak_gb']:.2f}", p["sha256"][:16]] for p in document["proofs"] if "error" not in p])]
    errors = [f"- {x}" for x in failures(document)]
    return text + (["", "## Failed", "", *errors] if errors else [])


def proofs(folder: Path, kind: str, gpu: bool) -> list[dict[str, Any]]:
    """Masked batch proofs of two nets with random weights: on the CPU by numba's kernels and by JAX's programs, and by those on the device."""
    from itertools import pairwise

    from benchmarks.batch import random_model

    found: list[dict[str, Any]] = []
    for name, widths, rows in (("64-32-10", (64, 32, 10), 16384), ("4-256-256-3", (4, 256, 256, 3), 2048 if gpu else 1024)):
        path = random_model(folder / f"{name}.npz", [(k, m, ()) for k, m in pairwise(widths)], widths[0], rows)
        for device, programs in dict.fromkeys([("cpu", False), ("cpu", True), (kind, True)]):
            said = part("prove", 280, device=device, model=str(path), rows=rows, masks=256, programs=programs, rounds=3)
            found.append({"model": name, "rows": rows, "kind": device, "by": "programs" if programs else "kernels", **said})
    return found


def failures(document: dict[str, Any]) -> list[str]:
    """What failed that should not have. (JAX's default is there to show what it does.)"""
    listed = [*document.get("speed", ()), *document.get("deviations", ()), *document.get("jobs", ()),
              *document.get("proofs", ()), *(t for t in document.get("two", ()) if t["setting"] != "default"), document.get("out_of_memory", {})]
    wrong = [json.dumps(x) for x in listed if "error" in x]
    wrong += [f"{d['model']}: {d['rows_blamed']} rows beyond {ALLOWED:g} from the CPU's outputs"
              for d in document.get("deviations", ()) if d.get("setting") == "as bound" and d.get("rows_blamed")]
    for name in dict.fromkeys(p["model"] for p in document.get("proofs", ())):
        digests = {p["sha256"] for p in document["proofs"] if p["model"] == name and "error" not in p}
        if len(digests) > 1:
            wrong.append(f"{name}: the proofs differ from device to device")
    found = document.get("out_of_memory", {})
    if found.get("difference", 0) > 1e-3 * found.get("scale", 1):
        wrong.append(f"out of memory: other outputs, by {found['difference']:.2g}")
    return wrong


def main() -> None:
    """Run the parts and write the report."""
    parser = argparse.ArgumentParser(description="inference on a GPU, or on CPU devices where there is none")
    parser.add_argument("--parts", default="deviations,two,out_of_memory,speed,jobs,proofs", help="which, by commas")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="enclaveml-gpu-") as name:
        folder = Path(name)
        print(part("draw_weights", 300, folder=name), flush=True)
        probe = ("import json; from benchmarks.gpu_parts import bind; print(json.dumps(bind('auto')))")
        device = json.loads(subprocess.run([sys.executable, "-c", probe], env=clean(), check=True, text=True,
                                           stdout=subprocess.PIPE).stdout.strip().splitlines()[-1])
        kind, gpu = device["kind"], device["kind"] == "cuda"
        document: dict[str, Any] = {"benchmark": "gpu", "device": device, "machine": machine()}
        parts: dict[str, Callable[[], Any]] = {
            "deviations": lambda: deviations(folder, kind, {"digits": 360, "resnet": 16 if gpu else 2}),
            "two": lambda: two_processes(folder, kind, 5.0),
            "out_of_memory": lambda: part("out_of_memory", 120, device=kind),
            "speed": lambda: speeds(name, kind, gpu),
            "proofs": lambda: proofs(folder, kind, gpu),
            "jobs": lambda: jobs(folder, kind, {"digits": 200_000 if gpu else 20_000, "resnet": 1500 if gpu else 8}),
        }
        for wanted in options.parts.split(","):
            document[wanted] = parts[wanted]()
            write_report("gpu", document, lines_of(document), options.out)  # what is there, if the rest is cut off
        print("\n".join(lines_of(document)))
    sys.exit(1 if failures(document) else 0)


if __name__ == "__main__":
    main()
