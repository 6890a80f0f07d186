"""A circuit's id, made again from the model and an SRS: what ties a key in a results file to a model.

Set-up is deterministic, so whoever has the model gets the aggregator's ``circuit_id`` from the same
settings and SRS, and from no other model.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from enclaveml.errors import EnvironmentFault, FormatError, JobError, ProofError
from enclaveml.srs_file import logrows_of, verifier_srs
from enclaveml.zk import keys, process
from enclaveml.zk.ezkl import srs, statement
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.files import COMPILED, PK, SETTINGS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.onnx_bound import BOUNDS
from enclaveml.zk.ezkl.plan import Choice, Numerics, Progress
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.interface import ModelFunction
from enclaveml.zk.scratch import Scratch


def choice_of(manifest: Mapping[str, Any], outputs: str = "public") -> Choice:
    """The settings that a circuit's manifest says it was made with; ``outputs``: how it shows them.

    Raises FormatError for settings that this program never chooses (weights that are not fixed, say):
    an id is not to be had for those.
    """
    try:
        args = dict(manifest["settings"])
        args.pop("blocks", None)
        args.pop("weights", None)
        bound = str(args.pop("bound", ""))
        low, high = args["lookup_range"]
        choice = Choice(
            Numerics(int(args["param_scale"]), int(args["scale_rebase_multiplier"]), int(args["input_scale"])),
            int(args["decomp_base"]), int(args["decomp_legs"]), int(args["num_inner_cols"]), int(args["logrows"]), int(manifest["rows"]),
            (int(low), int(high)), bound,
        )
        same = choice.run_args(manifest["inputs"], outputs) == args and bound in ("", *BOUNDS)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"a circuit's manifest without its settings: {error!r}") from error
    if not same:
        raise FormatError("a circuit with settings that this program does not choose; its proofs may bind no model")
    return choice


#: Counts of the layout in ezkl's settings, which differ by a few from one ``gen_settings`` to the next of the same
#: model (ezkl 23.0.5; seen: 352, 353 and 354 rows of one circuit), and by how much they may.
COUNTS, COUNTS_APART = ("num_rows", "total_assignments"), 0.02


def counted_as(settings: dict[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the layout's counts of others of the same circuit, where they are about the same.

    The id covers them, and set-up is done with them: a key that is equal then is of this model and layout.
    """
    same = all(
        type(like.get(name)) is int and abs(like[name] - settings[name]) <= max(8, COUNTS_APART * settings[name])
        for name in COUNTS
    )
    return {**settings, **{name: like[name] for name in COUNTS}} if same else settings


def rebuilt_id(function: ModelFunction, choice: Choice, inputs: str, given: Path | None, progress: Progress,
               timeout_s: float = 3600.0, like: Mapping[str, Any] = {}) -> tuple[str, bytes]:
    """The ``circuit_id`` of a model at these settings, and the SRS's 388 bytes that it is bound to.

    given: an SRS file of at least 2^logrows rows; None: this machine's own, made if need be. like: ezkl's settings
    of the circuit that it may be, for their COUNTS.
    Raises JobError for a model that cannot be made such a circuit, EnvironmentFault.
    """
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(contextlib.closing(process.Child(EZKL, os.cpu_count() or 1)))
        scratch = stack.enter_context(contextlib.closing(Scratch()))
        whole = srs_for(choice.logrows, given, child, timeout_s, progress)
        return id_of(Bench(function, inputs, child, scratch), choice, like, whole, timeout_s), verifier_srs(whole)


def srs_for(logrows: int, given: Path | None, child: process.Child, timeout_s: float, progress: Progress) -> Path:
    """The SRS file ``given``, or this machine's own. Raises EnvironmentFault for one of fewer rows."""
    whole = given or srs.own_srs(keys.Cache(), child, logrows, timeout_s, progress)
    if (has := logrows_of(whole)) < logrows:
        raise EnvironmentFault(f"{whole}: has 2^{has} rows, the circuit needs 2^{logrows}")
    return whole


def id_of(bench: Bench, choice: Choice, like: Mapping[str, Any], whole: Path, timeout_s: float) -> str:
    """The id of the circuit that a bench's model is at a choice: set up anew. Raises JobError."""
    scratch = bench.scratch
    path = {name: str(scratch.file(name)) for name in (COMPILED, SETTINGS, PK, VK)}
    try:
        bench.compile(choice, counted_as(bench.settings(choice), like), path[COMPILED], path[SETTINGS])
        process.wait(bench.child, "setup", timeout_s, circuit=path[COMPILED], vk=path[VK], pk=path[PK], srs=str(whole))
    except ProofError as error:
        raise JobError(f"the model cannot be made this circuit: {error}") from error
    settings = statement.canonical_settings(json.loads(Path(path[SETTINGS]).read_text(encoding="utf-8")))
    digests = {VK: keys.sha256_file(Path(path[VK])),
               VERIFIER_SRS: keys.sha256_file(Path(scratch.write(VERIFIER_SRS, verifier_srs(whole))))}
    scratch.drop(PK)
    return statement.circuit_id(digests, settings, metadata.version("ezkl"), choice.bound)
