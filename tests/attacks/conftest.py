"""Casts of lying and honest ranks, each played once in a session under mpirun."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from launch import launcher, run
from small_job import SmallJob, write_small_job

from enclaveml.results_reader import Results, read_results

LIAR = Path(__file__).with_name("liar.py")
#: Two bundles for each of four liars and an honest rank.
ROWS = 40
TIMEOUT_S = 300


@dataclass(frozen=True)
class Cast:
    """Who plays what: rank 0 aggregates, ranks 1, 2, ... play ``attacks`` of liar.py, ``honest`` more are honest.

    Unless it ``shares``, rank 0 leaves each rank its rows, however slow it is: each liar is to have its say.
    """

    attacks: tuple[str, ...]
    proof: Mapping[str, Any] = field(default_factory=dict)
    rows: int = ROWS
    honest: int = 1
    shares: bool = False
    split: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        return 1 + len(self.attacks) + self.honest

    def rank_of(self, attack: str) -> int:
        """The rank that plays an attack, by its name without argument."""
        return 1 + [a.partition("=")[0] for a in self.attacks].index(attack)


@dataclass(frozen=True)
class Played:
    """What is left of a run."""

    cast: Cast
    job: SmallJob
    code: int
    log: str

    def open(self) -> Results:
        return read_results(self.job.results)


def play(cast: Cast, folder: Path, cache: Path, fill: Mapping[str, str] = {}) -> Played:
    """Run a cast's job; ``fill`` replaces names in braces in the attacks' arguments."""
    job = write_small_job(folder, cast.rows, {
        "proof": cast.proof,
        "split": cast.split,
        # Stated, so that circuits do not depend on the machine's free memory.
        "cluster": {"ranks": [{"node_id": f"node-{i}", "memory_gb": 2} for i in range(cast.ranks)]},
    })
    honest = [sys.executable, "-m", "enclaveml"]
    root = honest if cast.shares else [sys.executable, str(LIAR), "leaves_rows_where_they_are"]
    command = [*launcher(), "-np", "1", *root, "run", str(job.path)]
    for attack in (*cast.attacks, *[None] * cast.honest):
        program = honest if attack is None else [sys.executable, str(LIAR), attack.format(**fill)]
        command += [":", "-np", "1", *program, "run", str(job.path)]
    done = run(command, TIMEOUT_S, {"ENCLAVEML_CACHE": str(cache)})
    return Played(cast, job, done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Played]:
    """``stage(name, cast)`` plays a cast, once however often it is asked for."""
    cache = Path(os.environ.get("ENCLAVEML_CACHE") or tmp_path_factory.getbasetemp() / "zk-cache")
    played: dict[str, Played] = {}

    def get(name: str, cast: Cast, fill: Mapping[str, str] = {}) -> Played:
        if name not in played:
            played[name] = play(cast, tmp_path_factory.mktemp(name), cache, fill)
        return played[name]
    return get


def verified_rows_are_true(played: Played, truth: np.ndarray, tolerance: float) -> None:
    """Every row is verified, and what is proved of it is what the model says."""
    with played.open() as results:
        assert set(results.row("status").tolist()) == {1}, played.log
        proved = results.proved_outputs()
    assert np.abs(proved - truth).max() < tolerance / 5
