"""The id of a circuit in slices, made again from the model and an SRS: every slice set up anew, at the cuts and settings of a manifest."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enclaveml.errors import FormatError
from enclaveml.srs_file import verifier_srs
from enclaveml.zk import process
from enclaveml.zk.ezkl.plan import Progress
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.rebuild import choice_of, id_of, srs_for
from enclaveml.zk.ezkl.slices.bench import Whole, benches_of
from enclaveml.zk.ezkl.slices.format import circuit_id, slices_of
from enclaveml.zk.interface import ModelFunction, circuit_from_manifest
from enclaveml.zk.scratch import Scratch


def rebuilt_id(
    function: ModelFunction, manifest: Mapping[str, Any], settings: bytes, given: Path | None, progress: Progress, timeout_s: float = 3600.0
) -> tuple[str, bytes]:
    """The ``circuit_id`` of a model cut and set up as a manifest says, and the SRS's 388 bytes that it is bound to.

    settings: those of the circuit that it may be, for ``rebuild.COUNTS``. given: as in ``rebuild.rebuilt_id``.
    Raises FormatError for settings that this program never chooses, JobError for a model that cannot be cut or made such a
    circuit, EnvironmentFault.
    """
    slices = slices_of(circuit_from_manifest(manifest, Path()))
    choices = [choice_of({"settings": s.settings, "rows": s.rows, "inputs": s.inputs}, s.output_mode) for s in slices]
    try:
        documents = json.loads(settings)
        like = [document if isinstance(document, dict) else {} for document in documents]
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"its settings are not those of slices: {error}") from error
    like += [{}] * (len(slices) - len(like))
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(contextlib.closing(process.Child(EZKL, os.cpu_count() or 1)))
        scratches = [stack.enter_context(contextlib.closing(Scratch())) for _ in slices]
        benches = benches_of(Whole(function), [s.end for s in slices[:-1]], slices[0].inputs, child, scratches)
        whole = srs_for(slices[0].logrows, given, child, timeout_s, progress)
        ids = []
        for number, (bench, choice) in enumerate(zip(benches, choices, strict=True)):
            progress(f"slice {number + 1} of {len(slices)}: set-up")
            ids.append(id_of(bench, choice, like[number], whole, timeout_s))
        return circuit_id(ids), verifier_srs(whole)
