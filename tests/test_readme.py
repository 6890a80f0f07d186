"""What the README shows is what the program has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from launch import ROOT, run
from results_case import D, Case

from enclaveml.cli import VERBS
from enclaveml.results import build_results
from enclaveml.schema import keys_table, short_table

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_keys_are_the_schemas() -> None:
    assert keys_table().strip() in (ROOT / "enclaveml/JOB.md").read_text(encoding="utf-8")
    assert short_table().strip() in README


def test_every_verb_is_in_the_table_of_commands() -> None:
    section = README.partition("## Commands")[2].partition("\n## ")[0]
    shown = set(re.findall(r"^\| `(?:mpirun -np 4 )?enclaveml[ -](\w+)", section, re.MULTILINE))
    assert shown == {verb.name for verb in VERBS}


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"`?((?:jobs|configs|enclaveml|slurm|benchmarks)/[\w./-]+\.(?:md|yaml|py|sbatch))`?", README))
    assert named and not [name for name in named if not (ROOT / name).exists()]


MARKDOWN = sorted(path for folder in (ROOT, ROOT / "enclaveml", ROOT / "jobs", ROOT / "slurm", ROOT / "benchmarks")
                  for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
                  if not path.relative_to(ROOT).parts[0].startswith("."))


def links(path: Path) -> list[str]:
    """What a Markdown file links to beside it, pictures too; outside of code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", lambda m: "" if m[0].startswith("```") else m[0].replace("](", ""), path.read_text(encoding="utf-8"),
                  flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|#", target)]


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_is_dead(path: Path) -> None:
    assert not [target for target in links(path) if not (path.parent / target.partition("#")[0]).exists()]


def test_every_longer_file_is_linked_once_from_the_readme_or_for_a_report_from_the_benchmarks_own() -> None:
    index = ROOT / "benchmarks/README.md"
    found = [(index.parent / target).resolve() for target in links(index)] + [(ROOT / target).resolve() for target in links(ROOT / "README.md")]
    counts = {str(path.relative_to(ROOT)): found.count(path.resolve()) for path in MARKDOWN if path != ROOT / "README.md"}
    assert len(counts) > 20 and {name: count for name, count in counts.items() if count != 1} == {}


def test_both_commands_are_there_once() -> None:
    for name in ("run", "test"):
        assert README.count(f"<!-- the {name} command -->") == 1


@pytest.mark.parametrize("arguments", [["run", "jobs/digits/job.yaml", "--dry-run", "--ranks", "4"],
                                       ["run", "jobs/cancer/job.yaml", "--dry-run", "--ranks", "4"]])
def test_the_dry_run_of_the_jobs(arguments: list[str]) -> None:
    done = run([sys.executable, "-m", "enclaveml", *arguments], 60, cwd=Path(ROOT))
    assert done.returncode == 0, done.stderr
    assert "rank" in done.stdout


READING = README.partition("<!-- reading the file -->\n```sh\n")[2].partition("```")[0].splitlines()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A folder in which the results are where the README has them: five rows of two ranks, the third not proved."""
    folder = tmp_path_factory.mktemp("reading")
    (folder / "jobs/digits").mkdir(parents=True)
    case = Case(folder / "journal", 5, 3)
    case.outputs(1, range(5))
    case.bundle(1, [0, 1, 3, 4])
    case.end("complete_unverified", 3)
    build_results(case.journal.path, folder / "jobs/digits/results.h5", combined={"result": np.zeros(D)}, labels=np.arange(5))
    return folder


def test_there_is_a_line_for_each_way_of_reading() -> None:
    assert [next(word for word in ("h5dump", "pandas", "h5py") if word in line) for line in READING] == [
        "h5dump", "h5py", "pandas"]


@pytest.mark.parametrize("line", READING, ids=lambda line: line.split()[0] + (" pandas" if "pandas" in line else ""))
def test_the_lines_that_read_the_file(results: Path, line: str) -> None:
    if line.startswith("h5dump") and not shutil.which("h5dump"):
        pytest.skip("h5dump is not installed (Debian: hdf5-tools)")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(["bash", "-c", line], cwd=results, capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    if line.startswith("h5dump"):
        assert re.sub(r"\s+", " ", done.stdout).count("verified, verified, pending, verified, verified") == 1
    elif "pandas" in line:
        table = [row.split() for row in done.stdout.splitlines()]
        assert "status" in table[0] and "deviation" in table[0] and len(table) == 6
    else:
        assert done.stdout == "complete_unverified [2 2 0]\n"
