"""``python -m benchmarks.large_mlp``: MLPs of 21,000 and 250,000 parameters; what does not fit says so before it starts.

``--slices 2 784-640-780-10`` is for a million parameters, cut into slices, with a report of its own (20 minutes).

Weights are random with a fixed seed: cost does not depend on them. The bar is the deviation from the
float model. What the plan predicts of memory, key and time stands beside what was measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import time

import numpy as np

from benchmarks.common import REPORTS, Data, Planned, machine
from enclaveml.errors import JobError
from enclaveml.zk.rows import float_outputs
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import Circuit, CircuitRequest, ModelFunction

#: Widths of the layers, and rows of the job that the plan is made for.
MODELS = {
    "100-100-100-10": ((100, 100, 100, 10), 200),
    "400-400-200-50": ((400, 400, 200, 50), 16),
    "1200-1000-10": ((1200, 1000, 10), 32),
    "784-640-780-10": ((784, 640, 780, 10), 16),
}
SEED = 7
SAMPLES = 32
TOLERANCE = 0.01


def mlp(widths: tuple[int, ...]) -> ModelFunction:
    """A ReLU network of these widths, weights as He initialisation has them, without a cached circuit."""
    import jax

    random = np.random.Generator(np.random.PCG64(SEED))
    layers = [
        ((random.normal(size=(a, b)) * math.sqrt(2 / a)).astype(np.float32),
         (random.normal(size=b) * 0.1).astype(np.float32))
        for a, b in itertools.pairwise(widths)
    ]

    def apply(x):  # type: ignore[no-untyped-def]
        for i, (weights, bias) in enumerate(layers):
            x = x @ weights + bias
            if i < len(layers) - 1:
                x = jax.nn.relu(x)
        return x

    return ModelFunction(apply, widths[:1])


def parameters(widths: tuple[int, ...]) -> int:
    """Weights and biases."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def measure(name: str, memory_gb: float, children: int, slices: int = 1, scale: int | None = None) -> dict[str, object]:
    """One model's plan, predictions and measurements; ``refused`` where it does not fit."""
    widths, expected = MODELS[name]
    function = mlp(widths)
    rows = np.random.Generator(np.random.PCG64(SEED + 1)).random((SAMPLES, widths[0]), np.float32)
    request = CircuitRequest(
        tolerance=TOLERANCE, agreement=0.0, expected_rows=expected, cores=children, children=children,
        memory_gb=memory_gb, slices=slices, scale=scale,
    )
    line: dict[str, object] = {"model": name, "parameters": parameters(widths), "memory_gb": memory_gb, "slices": slices}
    began = time.monotonic()
    try:
        circuit = EzklSystem().prepare(function, rows, request, lambda text: print(text, flush=True))
    except JobError as error:
        print(f"{name}: refused after {time.monotonic() - began:.0f} s: {error}", flush=True)
        return {**line, "refused": str(error), "refused_seconds": time.monotonic() - began}
    prepared = time.monotonic() - began
    planned = Planned(name, circuit, Data(rows, float_outputs(function, rows, 32)), children, TOLERANCE, warm=False)
    try:
        turn = planned.turn(0)
    finally:
        planned.close()
    return {
        **line, "prepare_seconds": prepared, "plan": planned.result.detail, "rows": turn.rows,
        "seconds": turn.seconds, "cpu_seconds": turn.cpu_seconds, "deviation": turn.deviation, "load": turn.load,
        "verify_seconds": turn.verify_seconds, "turn_peak_bytes": planned.result.peak_bytes,
        "rows_per_proof": circuit.rows, **_measured(circuit),
    }


def _measured(circuit: Circuit) -> dict[str, float]:
    names = (
        "key_bytes", "setup_seconds", "setup_peak_bytes", "prove_peak_bytes", "predicted_peak_bytes",
        "prove_cpu_seconds", "predicted_prove_cpu_seconds",
    )
    return {name: circuit.measured[name] for name in names}


def main() -> None:
    """Run the benchmark and write its report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory-gb", type=float, default=12.0, help="what the provers may take together")
    parser.add_argument("--children", type=int, default=2)
    parser.add_argument("--slices", type=int, default=1, help="into how many slices each model is cut")
    parser.add_argument("--scale", type=int, help="bits; the plan's choice if left out")
    parser.add_argument("models", nargs="*", default=list(MODELS)[:3], metavar="MODEL", help=f"of {', '.join(MODELS)}")
    options = parser.parse_args()
    here = machine()
    found = []
    for name in options.models:
        found.append(measure(name, options.memory_gb, options.children, options.slices, options.scale))
        print(json.dumps(found[-1]), flush=True)
    title = "large_mlp" if options.slices == 1 else "large_mlp_slices"
    command = " ".join(["python -m benchmarks.large_mlp", *sys.argv[1:]])
    cut = f" Each model is cut into {options.slices} linked slices, of which a prover holds one key at a time." if options.slices > 1 else ""
    lines = [
        f"# {title}", "",
        f"MLPs with random weights (`{command}`), {options.children} provers that may take "
        f"{options.memory_gb:g} GB together, on {here['cores']} cores of {here['cpu']}, {here['memory_gb']} GB. Deviation "
        f"from the float model at most {TOLERANCE:g}; every proof verified inside the timed turn.{cut}", "",
        "| model | parameters | rows proved | s a row | CPU s a row | verifying, ms a row | deviation | load | "
        "CPU s a proof, predicted | key | set-up s | peak of set-up | of one proof | predicted with margin | plan |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in found:
        if "refused" in line:
            lines.append(
                f"| {line['model']} | {line['parameters']:,} | 0: {line['refused']} (said after "
                f"{line['refused_seconds']:.0f} s) |" + " |" * 12
            )
            continue
        gb = {part: f"{line[f'{part}_peak_bytes'] / 1e9:.2f} GB" for part in ("setup", "prove", "predicted")}
        lines.append(
            f"| {line['model']} | {line['parameters']:,} | {line['rows']} | {line['seconds'] / line['rows']:.3f} | "
            f"{line['cpu_seconds'] / line['rows']:.3f} | {1000 * line['verify_seconds'] / line['rows']:.2g} | "
            f"{line['deviation']:.2g} | {line['load']:.1f} | {line['prove_cpu_seconds']:.0f}, "
            f"{line['predicted_prove_cpu_seconds']:.0f} | {line['key_bytes'] / 1e9:.2f} GB | "
            f"{line['setup_seconds']:.0f} | {gb['setup']} | {gb['prove']} | {gb['predicted']} | {line['plan']} |"
        )
    REPORTS.mkdir(exist_ok=True)
    document = {"benchmark": title, "machine": here, "load_after": os.getloadavg()[0], "results": found}
    (REPORTS / f"{title}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (REPORTS / f"{title}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
