"""A process that proves with ezkl as its documentation shows: one row a proof, ezkl's own settings.

gen_settings, calibrate_settings(target="resources") or not, SRS, compile_circuit and setup once; then
gen_witness, prove and verify for each row. Reads one JSON command a line, answers one a line. All of
ezkl's defaults stay, its threads too (all cores); visibility is that of the circuits it is compared
with: public input and output, fixed weights.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from typing import Any


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def set_up(model: str, samples: list[list[float]], calibrate: bool) -> dict[str, Any]:
    """Everything that is done once; files go to the current folder."""
    import ezkl

    args = ezkl.PyRunArgs()
    args.input_visibility, args.param_visibility, args.output_visibility = "public", "fixed", "public"
    started = time.monotonic()
    assert ezkl.gen_settings(model, "settings.json", args)
    if calibrate:
        with open("calibration.json", "w", encoding="utf-8") as handle:
            json.dump({"input_data": [[value for row in samples for value in row]]}, handle)
        assert ezkl.calibrate_settings("calibration.json", model, "settings.json", "resources")
    with open("settings.json", encoding="utf-8") as handle:
        settings = json.load(handle)
    logrows = settings["run_args"]["logrows"]
    ezkl.gen_srs("srs", logrows)
    assert ezkl.compile_circuit(model, "model.circuit", "settings.json")
    assert ezkl.setup("model.circuit", "vk", "pk", "srs")
    return {
        "run_args": settings["run_args"], "logrows": logrows, "scale": settings["model_output_scales"][0],
        "seconds": time.monotonic() - started, "key_bytes": os.path.getsize("pk"),
    }


def outputs(row: list[float], scale: int) -> list[float]:
    """The witness's outputs of one row, as numbers; the witness stays in witness.json."""
    import ezkl

    with open("input.json", "w", encoding="utf-8") as handle:
        json.dump({"input_data": [row]}, handle)
    found = ezkl.gen_witness("input.json", "model.circuit", "witness.json")
    return [ezkl.felt_to_float(value, scale) for value in found["outputs"][0]]


def prove(row: list[float], scale: int) -> dict[str, Any]:
    """Witness, proof and verification of one row."""
    import ezkl

    started, used = time.monotonic(), _cpu()
    values = outputs(row, scale)
    ezkl.prove("witness.json", "model.circuit", "pk", "proof.json", "srs")
    valid = ezkl.verify("proof.json", "settings.json", "vk", "srs") is True
    seconds, cpu = time.monotonic() - started, _cpu() - used
    with open("proof.json", encoding="utf-8") as handle:
        instances = json.load(handle)["instances"][0]
    proved = [ezkl.felt_to_float(value, scale) for value in instances[-len(values):]]
    return {"seconds": seconds, "cpu_seconds": cpu, "valid": valid, "outputs": proved}


def peak() -> dict[str, int]:
    """Peak resident memory of this process so far, in bytes."""
    with open("/proc/self/status", encoding="ascii") as handle:
        return {"bytes": next(int(line.split()[1]) for line in handle if line.startswith("VmHWM:")) * 1024}


CALLS = {"set_up": set_up, "outputs": outputs, "prove": prove, "peak": peak}


def main() -> None:
    """Serve calls from standard input until it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphan goes on proving
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # ezkl prints
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = {"value": CALLS[call["call"]](**call["args"])}
        except BaseException as error:  # ezkl's panics are no Exception
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
