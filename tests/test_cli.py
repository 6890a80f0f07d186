"""The command line: what it calls, what it prints, what it returns, what it does not import."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from enclaveml import __version__, cli
from enclaveml.errors import EnvironmentFault, Fault, JobError, RemoteFailure, Resumable, Unverified
from enclaveml.options import RunOptions
from enclaveml.watchdog import Watchdog

LAUNCHERS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
JOB = "model: {flax: net.py:Net}\ninput: {path: x.npy}\n"
# Each must stay out of --help and of checking a job.
HEAVY = ("mpi4py", "jax", "flax", "h5py", "ezkl")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "net.py").write_text("class Net: ...\n")
    (tmp_path / "x.npy").write_bytes(b"")
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand-ins for run and hash: they note their arguments; they raise or return the first item."""
    calls: list[Any] = []

    def do(*arguments: Any) -> int:
        calls.append(tuple(a for a in arguments if not isinstance(a, Watchdog)))
        outcome = calls[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    for module, function in (("run", "run"), ("hash", "print_hash")):
        stand_in = types.ModuleType(f"enclaveml.{module}")
        setattr(stand_in, function, do)
        monkeypatch.setitem(sys.modules, f"enclaveml.{module}", stand_in)
    calls.append(0)
    return calls


def python(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


# --- what is called ---


def test_run_with_nothing_else(called: list[Any]) -> None:
    assert cli.main(["run", "job.yaml"]) == 0
    assert called[1:] == [(RunOptions(Path("job.yaml")),)]


def test_run_with_everything(called: list[Any]) -> None:
    called[0] = 3
    arguments = [
        "job.yaml",
        "-o",
        "out.h5",
        "--set",
        "a.b=c",
        "--set",
        "d.e=f=g",
        "--input",
        "sample.json",
        "--json",
        "out.json",
        "--force",
    ]
    expected = RunOptions(
        Path("job.yaml"),
        Path("out.h5"),
        ("a.b=c", "d.e=f=g"),
        Path("sample.json"),
        Path("out.json"),
        resume=False,
        force=True,
    )
    assert cli.main(["run", *arguments]) == 3
    assert cli.run_main(arguments) == 3
    assert called[1:] == [(expected,), (expected,)]


def test_resume(called: list[Any]) -> None:
    assert cli.run_main(["job.yaml", "--resume"]) == 0
    assert called[1:] == [(RunOptions(Path("job.yaml"), resume=True),)]


def test_hash(called: list[Any]) -> None:
    assert cli.main(["hash", "job.yaml", "--set", "a.b=c"]) == 0
    assert called[1:] == [(Path("job.yaml"), ("a.b=c",))]


# --- how it ends ---


@pytest.mark.parametrize(
    "error, status, text",
    [
        (
            JobError(Fault("job.yaml:3", "a.b", "found 1; allowed: 2")),
            2,
            "enclaveml: this job cannot be run: 1 fault\njob.yaml:3: a.b: found 1; allowed: 2\n",
        ),
        (
            JobError(Fault("job.yaml:3", "", "x"), "y"),
            2,
            "enclaveml: this job cannot be run: 2 faults\njob.yaml:3: x\ny\n",
        ),
        (Unverified("7 rows are not verified"), 3, "enclaveml: 7 rows are not verified\n"),
        (EnvironmentFault("no space"), 4, "enclaveml: no space\n"),
        (Resumable("stopped by SIGUSR1"), 75, "enclaveml: stopped by SIGUSR1\n"),
        (RemoteFailure("rank 2 (host b): gone", 4), 4, "enclaveml: rank 2 (host b): gone\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors(
    called: list[Any], capsys: pytest.CaptureFixture[str], error: BaseException, status: int, text: str
) -> None:
    called[0] = error
    assert cli.main(["run", "job.yaml"]) == status
    assert capsys.readouterr() == ("", text)


def test_a_bug_has_its_traceback(called: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    called[0] = ZeroDivisionError("by us")
    assert cli.main(["run", "job.yaml"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("\nZeroDivisionError: by us\n")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_other_ranks(
    called: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "3")
    called[0] = EnvironmentFault("no device")
    assert cli.main(["run", "job.yaml"]) == 4
    assert capsys.readouterr().err == "enclaveml: rank 3: no device\n"
    called[0] = RemoteFailure("rank 0: no", 2)
    assert cli.main(["run", "job.yaml"]) == 2
    with pytest.raises(SystemExit) as caught:
        cli.main(["run"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run"], "enclaveml run: the following arguments are required: JOB"),
        ([], "enclaveml: the following arguments are required: VERB"),
        (
            ["run", "job.yaml", "--resume", "--force"],
            "enclaveml run: argument --force: not allowed with argument --resume",
        ),
        (
            ["run", "job.yaml", "--ranks", "0"],
            "enclaveml run: argument --ranks: found '0'; allowed: a whole number from 1 to 1000000",
        ),
        (
            ["run", "job.yaml", "--ranks", "²"],
            "enclaveml run: argument --ranks: found '²'; allowed: a whole number from 1 to 1000000",
        ),
    ],
)
def test_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: enclaveml") and err.endswith(f"\n{message}\n")


def test_ranks_without_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "job.yaml", "--ranks", "2"]) == 2
    assert capsys.readouterr().err == (
        "enclaveml: this job cannot be run: 1 fault\n--ranks is for --dry-run; mpirun -np sets the ranks "
        "of a run\n"
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for start in (cli.main, cli.run_main):
        with pytest.raises(SystemExit) as caught:
            start(["--version"])
        assert caught.value.code == 0
        assert capsys.readouterr().out == f"enclaveml {__version__}\n"


@pytest.mark.parametrize("verb", [v.name for v in cli.VERBS])
def test_help_teaches(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    first = f"enclaveml {verb} {'results.h5' if verb in ('audit', 'status', 'report') else 'job.yaml'}"
    assert "\nexamples:\n" in text and first in text and "\nexit status:\n" in text


def test_every_example_parses() -> None:
    parser = cli.build_parser()
    for verb in cli.VERBS:
        for line in verb.examples.splitlines()[1:]:
            command = line.strip().split("  ")[0].split()
            program = "enclaveml-run" if "enclaveml-run" in command else "enclaveml"
            words = command[command.index(program) :]  # behind mpirun's own
            arguments = ["run", *words[1:]] if words[0] == "enclaveml-run" else words[1:]
            assert parser.parse_args(arguments).call is verb.call, line


# --- whole processes ---


def test_module(folder: Path) -> None:
    done = python("-m", "enclaveml", "--help", cwd=folder)
    assert done.returncode == 0 and done.stdout.startswith("usage: enclaveml [-h] [--version] VERB ...\n")


@pytest.mark.parametrize(
    "call, status",
    [
        ("main(['--help'])", "0"),
        ("main(['run', '--help'])", "0"),
        ("run_main(['--help'])", "0"),
        ("main(['run', 'bad.yaml', '--dry-run'])", "2"),
    ],
)
def test_help_and_checking_import_nothing_heavy(folder: Path, call: str, status: str) -> None:
    (folder / "bad.yaml").write_text(JOB + "split: {strategy: x}\n")
    done = python(
        "-c",
        "import sys\nfrom enclaveml.cli import main, run_main\n"
        f"try:\n    status = {call}\nexcept SystemExit as e:\n    status = e.code\n"
        f"print('status', status, [m for m in {HEAVY!r} if m in sys.modules])",
        cwd=folder,
    )
    assert done.stdout.splitlines()[-1] == f"status {status} []", done.stderr


def test_loading_a_job_imports_nothing_heavy(folder: Path) -> None:
    done = python(
        "-c",
        "import sys\nfrom enclaveml.job import load_job\nprint(load_job('job.yaml').input.key)\n"
        "import enclaveml.dryrun\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])",
        cwd=folder,
    )
    assert done.stdout == "None\n[]\n", done.stderr


def test_dry_run_in_a_process(folder: Path) -> None:
    import numpy as np

    np.save(folder / "x.npy", np.zeros((5, 3), np.float32))
    done = python(
        "-c",
        "import sys\nfrom enclaveml.cli import main\nstatus = main(['run', 'job.yaml', '--dry-run'])\n"
        "print(status, [m for m in ('mpi4py', 'jax', 'flax', 'ezkl') if m in sys.modules])",
        cwd=folder,
    )
    assert done.stdout.endswith("   0  -        -               -    100.0     5         1\n0 []\n"), (
        done.stderr
    )


def test_faults_go_to_stderr_one_a_line(folder: Path) -> None:
    (folder / "job.yaml").write_text(JOB + "split: {strategy: x, replicas: 0}\nzz: 1\n")
    done = python("-m", "enclaveml", "run", "job.yaml", "--dry-run", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "enclaveml: this job cannot be run: 3 faults\n"
        "job.yaml:3: split.strategy: found 'x'; allowed: equal, by_capacity, redundant\n"
        "job.yaml:3: split.replicas: found 0; allowed: a whole number from 1\n"
        "job.yaml:4: zz: unknown section; allowed: job, model, input, split, proof, combine, cluster, "
        "output\n"
    )


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    stand_in = (
        "import sys, types\nm = types.ModuleType('enclaveml.run')\n"
        "def run(*a):\n    for _ in range(100000): print('a line of output')\n    return 0\n"
        "m.run = run\nsys.modules['enclaveml.run'] = m\n"
        "from enclaveml.cli import main\nsys.exit(main(['run', 'job.yaml']))\n"
    )
    (folder / "start.py").write_text(stand_in)
    root = str(Path(__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "start.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(("module", "extra"), [("mpi4py", "run"), ("jax", "run")])
def test_what_the_base_install_lacks_is_named_with_the_extra_that_brings_it(
        module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def call(arguments: object) -> int:
        raise ModuleNotFoundError(f"No module named '{module}'", name=f"{module}.part")

    verb = dataclasses.replace(cli.VERBS[0], call=call)
    monkeypatch.setattr(cli, "VERBS", (verb, *cli.VERBS[1:]))
    assert cli.main(["run", "job.yaml"]) == 4
    assert capsys.readouterr().err == (
        f"enclaveml: {module}.part is not installed, and this command needs it: pip install 'enclaveml[{extra}]'\n"
    )


def test_verbs_that_run_no_job_say_what_their_own_statuses_mean(capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for verb in ("audit", "check", "doctor", "run"):
        with pytest.raises(SystemExit):
            cli.main([verb, "--help"])
        said[verb] = capsys.readouterr().out.partition("\nexit status:\n")[2]
    assert "  3    something in the file is not so; the rows that fail are named\n" in said["audit"]
    assert "  2    the model is refused, or a bad command line, job file or data\n" in said["check"]
    assert "  4    a fault, with its remedy\n" in said["doctor"]
    assert "  3    rows unverified, and the job is strict\n" in said["run"] and "75" not in said["audit"]
