"""The fallback circuit: finer scale, far more range and few rows per proof, for what the primary cannot prove.

The margins of both circuits, documented here alone:

- The primary holds values of twice the size of those that the sample rows gave (``plan.HEADROOM_BITS``), and
  more where a decomposition's table has room anyway (up to ``plan.HEADROOM_LEG_BITS`` for each leg).
- The fallback's scale is finer by 4 bits, so that rounding is 16 times less, and it holds values of 4,096 times
  the size (12 bits), outputs too. Where that is not to be had, :data:`RUNGS` says what is tried instead: lookup tables
  (tanh, sigmoid) double with each bit of either, so models with such get less.

It has at most :data:`ROWS` rows a proof, and is no dearer than a proof of the primary (or :data:`SECONDS`): its keys
are some MB, and its set-up takes seconds. A rank's provers must fit its memory beside it. It has the primary's
tolerance and input mode and is held against the float model on the same sample rows.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np

from enclaveml.errors import JobError, ProofError
from enclaveml.zk import keys
from enclaveml.zk.ezkl import field
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.build import set_up_best
from enclaveml.zk.ezkl.plan import Candidate, Progress
from enclaveml.zk.ezkl.probes import Probe
from enclaveml.zk.ezkl.search import Search
from enclaveml.zk.interface import FALLBACK, MANIFEST, Circuit, CircuitRequest, load_circuit
from enclaveml.zk.rows import float_outputs

#: Bits that the scale is finer by than the primary's, and bits of headroom over the sample rows, in order.
RUNGS = ((4, 12), (4, 8), (2, 12), (2, 8), (4, 5), (2, 5), (0, 8), (0, 5), (0, 3))

#: Most rows in one proof: rows that need it are few.
ROWS = 8

#: Predicted CPU seconds that a proof may take, even where the primary's takes less.
SECONDS = 4.0

#: The finest scale that is tried: inputs of 2^52 / 2^SCALE still have a fixed-point value.
SCALE = 24

#: In the cache instead of a circuit, where there is no fallback: why.
NONE = "no-fallback.txt"


def fallback_request(request: CircuitRequest, primary: Circuit, finer: int) -> CircuitRequest:
    """What is asked of the fallback of ``primary`` at a scale finer by so many bits; its memory may be below 0."""
    beside = primary.measured["prove_peak_bytes"] * request.children
    return dataclasses.replace(
        request, tolerance=primary.tolerance, rows_per_proof=None, expected_rows=ROWS,
        scale=min(SCALE, int(primary.settings["param_scale"]) + finer), memory_gb=request.memory_gb - beside / 1e9,
        cores=1, children=1, processors=1,
    )


def build_fallback(
    folder: Path, bench: Bench, rows: np.ndarray, request: CircuitRequest, primary: Circuit, cache: keys.Cache,
    progress: Progress,
) -> None:
    """Set up the first of RUNGS that serves; its files into ``folder``, or a file NONE with the reasons."""
    searches: dict[int, _Rung] = {}
    reasons: dict[str, None] = {}
    truth = float_outputs(bench.function, rows, min(64, max(2, len(rows))))
    most = max(SECONDS, primary.measured["prove_cpu_seconds"])
    for finer, headroom in RUNGS:
        wanted = fallback_request(request, primary, finer)
        try:
            if wanted.memory_gb <= 0:
                raise JobError(f"{request.memory_gb:g} GB of memory are taken by the primary circuit's provers")
            rung = searches.setdefault(wanted.scale, _Rung(bench, wanted, rows, truth, progress))
            found = rung.candidates(headroom, most)
            if request.srs is not None:  # a file of so many rows: it had enough for the primary
                found = [candidate for candidate in found if candidate.choice.logrows <= primary.logrows]
            if not found:
                raise JobError(f"the SRS given is known to have 2^{primary.logrows} rows, and it takes more")
            set_up_best(folder, rung.search, found, cache)
        except (JobError, ProofError) as error:
            reasons[f"{wanted.scale} bits, headroom {headroom}: {error}"] = None
            continue
        circuit = dataclasses.replace(load_circuit(folder), role=FALLBACK)
        (folder / MANIFEST).write_text(json.dumps(circuit.manifest(), indent=1), encoding="utf-8")
        return
    (folder / NONE).write_text("\n".join(reasons), encoding="utf-8")


class _Rung:
    """The search at one scale; its probes serve every headroom."""

    def __init__(
        self, bench: Bench, request: CircuitRequest, rows: np.ndarray, truth: np.ndarray, progress: Progress
    ) -> None:
        self.search = Search(bench, request, rows, truth, progress, thorough=True)
        self._bench, self._truth = bench, truth
        self._probes: list[Probe] | None = None

    def candidates(self, headroom: int, most_seconds: float) -> list[Candidate]:
        """Layouts with that headroom, for outputs too, whose proof takes no longer. Raises JobError for none."""
        if self._probes is None:
            self._probes = self.search.accurate()
        self.search.headroom = headroom
        probes = [p for p in self._probes if self._output_bits(p) + headroom <= math.log2(field.MAX_MAGNITUDE)]
        if not probes:
            raise JobError("outputs of that size exceed the field's signed range")
        found = [c for c in self.search.candidates(probes) if c.prove_seconds <= most_seconds]
        if not found:
            raise JobError(f"a proof would take more than {most_seconds:.0f} CPU s")
        return found

    def _output_bits(self, probe: Probe) -> float:
        """Bits of the largest output on the sample rows, as these numerics scale it."""
        (scale,) = self.search.settings_of(probe)["model_output_scales"]
        return scale + math.log2(max(1.0, float(np.abs(self._truth).max(initial=0.0))))
