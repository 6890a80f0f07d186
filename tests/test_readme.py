"""What the README shows is what the program has."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from launch import ROOT, run

from enclaveml.cli import VERBS
from enclaveml.schema import keys_table

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_keys_is_the_schemas() -> None:
    assert keys_table().strip() in README


def test_every_verb_is_in_the_table_of_commands() -> None:
    section = README.partition("## Commands")[2].partition("\n## ")[0]
    shown = set(re.findall(r"^\| `(?:mpirun -np 4 )?enclaveml[ -](\w+)", section, re.MULTILINE))
    assert shown == {verb.name for verb in VERBS}


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"`?((?:jobs|configs|enclaveml|slurm|benchmarks)/[\w./-]+\.(?:md|yaml|py|sbatch))`?", README))
    assert named and not [name for name in named if not (ROOT / name).exists()]


def test_both_commands_are_there_once() -> None:
    for name in ("run", "test"):
        assert README.count(f"<!-- the {name} command -->") == 1


@pytest.mark.parametrize("arguments", [["run", "jobs/digits/job.yaml", "--dry-run", "--ranks", "4"],
                                       ["run", "jobs/cancer/job.yaml", "--dry-run", "--ranks", "4"]])
def test_the_dry_run_of_the_jobs(arguments: list[str]) -> None:
    done = run([sys.executable, "-m", "enclaveml", *arguments], 60, cwd=Path(ROOT))
    assert done.returncode == 0, done.stderr
    assert "rank" in done.stdout
