"""``enclaveml doctor``: each check on a machine that is made up, then the real one, alone and under mpirun."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from launch import ROOT, environment, launcher, mpirun, run

from enclaveml import doctor, doctor_machine, doctor_world
from enclaveml.comm import refuse_separate_programs
from enclaveml.doctor_world import vendor_of
from enclaveml.errors import EnvironmentFault
from enclaveml.finding import FAULT, OK, WARNING, Finding, merged, numbers, ok
from enclaveml.launcher import launched_rank, launched_size, mpi_settings

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/me/fast\\040disk tmpfs rw 0 0
sshfs#x /mnt/ssh fuse.sshfs rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mounts"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(("path", "kind"), [
    ("/etc/x", "ext4"), ("/home", "nfs4"), ("/home/you/a", "nfs4"), ("/homely", "ext4"),
    ("/home/me/fast disk/a", "tmpfs"), ("/mnt/ssh/a", "fuse.sshfs")])
def test_the_file_system_is_that_of_the_longest_mount_point(mounts, path, kind):
    assert doctor_machine.file_system(Path(path), mounts) == kind


def test_the_file_system_without_a_table_is_unknown(tmp_path):
    assert doctor_machine.file_system(tmp_path, tmp_path / "none") == "unknown"


def test_scratch_that_nodes_share(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nfs:/x {tmp_path.resolve()} lustre rw 0 0\n")
    [found] = doctor_machine.scratch(mounts, {"ENCLAVEML_SCRATCH": str(tmp_path / "made")})
    assert found.state == WARNING and "is not node-local: every node reads its keys over the network" in found.text
    assert found.remedy == "set ENCLAVEML_SCRATCH to a folder on the node's own disk"
    mounts.write_text("/dev/sda1 / ext4 rw 0 0\n")
    [found] = doctor_machine.scratch(mounts, {"SLURM_TMPDIR": str(tmp_path)})
    assert found.state == OK and found.text.startswith(f"{tmp_path} (ext4, ")


def test_scratch_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    [found] = doctor_machine.scratch(env={"TMPDIR": str(tmp_path / "file" / "below")})
    assert (found.state, found.text) == (FAULT, f"{tmp_path}/file/below cannot be written: Not a directory")


def test_the_cache_folder(tmp_path):
    root = tmp_path / "cache"
    states = {f.check: f for f in doctor_machine.cache(root)}
    assert [f.state for f in states.values()] == [OK] * 3 and root.stat().st_mode & 0o777 == 0o700
    assert states["srs"].text == "none yet: the first job makes what it needs (20 s and more); 0 circuits in the cache"
    assert list(root.iterdir()) == []
    for k in (12, 9):
        (root / "srs" / f"own-{k}").mkdir(parents=True)
    (root / "circuits" / "a").mkdir(parents=True)
    (root / "circuits" / "a" / "circuit.json").write_text("{}")
    os.chmod(root, 0o777)
    found = doctor_machine.cache(root)
    assert found[0].state == WARNING and found[0].remedy == f"chmod 700 {root}; the next job does it too"
    assert found[-1].text == "2^9, 2^12 rows; 1 circuit in the cache"


def test_locks_that_keep_nobody_apart_or_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)
    found = {f.check: f for f in doctor_machine.cache(tmp_path)}["locking"]
    assert found.state == FAULT and found.text == f"flock in {tmp_path}: given to two at once: it keeps nobody apart"

    def none(*arguments: object) -> None:
        raise OSError(37, os.strerror(37))
    monkeypatch.setattr(fcntl, "flock", none)
    found = {f.check: f for f in doctor_machine.cache(tmp_path)}["locking"]
    assert found.state == FAULT and found.text.endswith("not to be had: No locks available")


def test_root():
    assert doctor_machine.root({}, 1000) == [ok("user", "uid 1000")]
    assert doctor_machine.root({}, 0, started=True) == [ok("user", "root, which this launcher allows")]
    [found] = doctor_machine.root({}, 0)
    assert found.state == WARNING and "OMPI_ALLOW_RUN_AS_ROOT=1" in found.remedy
    [found] = doctor_machine.root({"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}, 0)
    assert found.state == OK


def test_more_ranks_than_cores_and_little_memory():
    [found] = doctor_machine.cores(100_000, {})
    assert found.state == WARNING and "for 100000 ranks: provers share cores" in found.text
    found = doctor_machine.memory(100_000, {})[0]
    assert (found.check, found.state, found.text[:13]) == ("memory", WARNING, "0.0 GB a rank")


def test_limits_of_the_shell(monkeypatch):
    limits = {resource.RLIMIT_AS: 8 << 30, resource.RLIMIT_NOFILE: 64}
    monkeypatch.setattr(resource, "getrlimit", lambda name: (limits.get(name, resource.RLIM_INFINITY), -1))
    found = [f.line() for f in doctor_machine.memory(1, {}) if f.check == "limits"]
    assert found == ["warning  limits    address space limited to 8.0 GB: raise it: ulimit -v unlimited",
                     "warning  limits    open files limited to 64: raise it: ulimit -n unlimited"]


def test_a_device_that_is_not_there():
    found = doctor_machine.device("cuda", 0, {"CUDA_VISIBLE_DEVICES": ""})[-1]
    assert (found.check, found.state) == ("device", FAULT) and found.remedy


def test_a_file_systems_clock(tmp_path, monkeypatch):
    assert doctor_machine.clock(tmp_path)[0].state == OK
    real = doctor_machine.time.time
    monkeypatch.setattr(doctor_machine.time, "time", lambda: real() - 100)
    assert doctor_machine.clock(tmp_path)[0].text.startswith(f"the file system of {tmp_path} is +100.")
    monkeypatch.undo()
    assert doctor_machine.clock(tmp_path / "none")[0].text == f"{tmp_path}/none cannot be written: No such file or directory"


def test_findings_of_many_ranks_are_said_once():
    cold, warm = ok("a", "cold"), Finding("b", WARNING, "warm", "cool it")
    assert merged([[cold, warm], [cold], [warm, cold]]) == [(cold, (0, 1, 2)), (warm, (0, 2))]
    assert [numbers(r) for r in ((3,), (0, 1, 2, 5), (1, 3))] == ["rank 3", "ranks 0-2, 5", "ranks 1, 3"]
    assert warm.line("ranks 0, 2") == "warning  b         ranks 0, 2: warm: cool it"


@pytest.mark.parametrize(("said", "name"), [
    ("mpirun (Open MPI) 5.0.11", "Open MPI"), ("prterun (PRRTE) 3.0", "Open MPI"),
    ("HYDRA build details:\n    Version: 5.0.2", "MPICH"), ("Intel(R) MPI Library for Linux", "Intel MPI"), ("?", "")])
def test_the_vendor_of_an_mpirun(said, name):
    assert vendor_of(said) == name


@pytest.mark.parametrize(("fault_tolerant", "ulfm", "vendor", "line"), [
    (True, True, "Open MPI 5.0.11", "ok       ulfm      a lost rank is survived"),
    (False, True, "Open MPI 5.0.11", "warning  ulfm      not asked for: a lost rank ends the job, which --resume goes on with: "
                                     "mpirun --with-ft ulfm"),
    (False, False, "MPICH 5.0.2", "warning  ulfm      MPICH 5.0.2 ends the job when a rank is lost: go on with --resume, or use "
                                  "Open MPI 5 with mpirun --with-ft ulfm")])
def test_mpi_its_mpirun_and_whether_a_lost_rank_is_survived(tmp_path, monkeypatch, fault_tolerant, ulfm, vendor, line):
    world = SimpleNamespace(vendor=vendor, library="a library", fault_tolerant=fault_tolerant, ulfm=ulfm)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    mpi, started, lost = doctor_world.library(world)
    assert mpi.line() == f"ok       mpi       {vendor} (a library)" and lost.line() == line
    assert started.line() == ("warning  mpirun    there is none on PATH, nor beside this Python: load the MPI's module, or use "
                              "srun --mpi=pmix")
    path = tmp_path / "mpirun"
    path.write_text("#!/bin/sh\necho 'Intel(R) MPI Library'\n")
    path.chmod(0o755)
    assert doctor_world.library(world)[1].line() == (
        f"fault    mpirun    {path} is Intel MPI's, mpi4py uses {vendor}: each process would be a world of its own: put that "
        "MPI's bin folder first on PATH")


def test_ranks_that_do_not_hear_each_other():
    deaf = SimpleNamespace(rank=0, size=2, allgather_array=lambda mine, what: np.array([mine, mine]))
    [found] = doctor_world.ranks(deaf)
    assert (found.state, found.text) == (FAULT, "a collective of 2 ranks gave [0, 0]")


def test_libraries_that_are_missing_or_others(monkeypatch):
    there = {"ezkl": OK, "libraries": OK}
    assert {f.check: f.state for f in doctor_machine.libraries()} == there
    monkeypatch.setattr(doctor_machine.metadata, "requires", lambda name: ["numpy>=1", "ezkl==99.0; python_version > '3'"])
    monkeypatch.setattr(doctor_machine, "_version", lambda name: "" if name == "flax" else "1")
    ezkl, others = doctor_machine.libraries()
    assert (ezkl.state, ezkl.remedy) == (FAULT, "pip install ezkl==99.0") and "circuits and keys are bound to 99.0" in ezkl.text
    assert (others.state, others.text) == (FAULT, "not installed: flax")
    monkeypatch.setattr(doctor_machine, "EZKL", replace(doctor_machine.EZKL, module="enclaveml.no_such_module"))
    ezkl = doctor_machine.libraries()[0]
    assert ezkl.state == FAULT and ezkl.text.startswith("does not load: ")


@pytest.mark.parametrize(("env", "rank", "size"), [
    ({}, 0, 0), ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, 2, 4),
    ({"PMI_RANK": "1", "PMI_SIZE": "3"}, 1, 3), ({"SLURM_PROCID": "5"}, 5, 0)])
def test_what_the_launcher_says(env, rank, size):
    assert (launched_rank(env), launched_size(env)) == (rank, size)


@pytest.mark.parametrize(("env", "settings"), [
    ({}, {"OMPI_MCA_btl": "^ofi"}), ({"OMPI_COMM_WORLD_RANK": "2"}, {"OMPI_MCA_btl": "^ofi"}),
    ({"OMPI_MCA_btl": "self,tcp"}, {}), ({"OMPI_MCA_pml": "ob1"}, {})])
def test_what_mpi_is_told_before_it_begins(env, settings):
    assert mpi_settings(env) == settings


@pytest.mark.parametrize("env", [{"PMI_SIZE": "4", "PMI_RANK": "0"}, {"OMPI_COMM_WORLD_SIZE": "4"}])
def test_another_mpis_mpirun_is_refused(env):
    with pytest.raises(EnvironmentFault, match="mpirun started 4 processes, but each is an MPI world of one rank: this "
                                               "mpirun belongs to another MPI than the one that mpi4py uses"):
        refuse_separate_programs(1, env)
    refuse_separate_programs(4, env)


def test_a_job_with_faults(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("model: {flax: net.py:Net}\n")
    job, found = doctor._job(path, ())
    assert job is None and {f.state for f in found} == {FAULT} and any("input" in f.text for f in found)


def program(*arguments: str, env: dict[str, str] = {}) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "enclaveml", "doctor", *arguments], capture_output=True, text=True,
                          timeout=240, env=environment(env), cwd=ROOT)


def test_alone_with_a_job():
    done = program("jobs/digits/job.yaml", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == said["exit_code"] == 0, done.stdout + done.stderr
    found = {f["check"]: f for f in said["findings"]}
    assert "360 rows of (64,), float32" in found["data"]["text"]
    assert found["ranks"]["remedy"] == "run it as the job is run: mpirun -np 4 enclaveml doctor"
    assert "Open MPI" in found["mpi"]["text"] or "MPICH" in found["mpi"]["text"]
    assert found["device"]["state"] == "ok" and found["ezkl"]["state"] == "ok"


@pytest.mark.mpi
def test_under_mpirun_with_a_fault(tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    done = mpirun(2, ["-m", "enclaveml", "doctor"], 240, {"ENCLAVEML_CACHE": str(tmp_path / "cache")}, cwd=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "ok       ranks     2 ranks on 1 node hear each other\n" in done.stdout
    assert done.stdout.count("fault    cache ") == 1 and "cannot be written: File exists" in done.stdout
    assert done.stdout.count("ok       device") == 1 and "1 fault, " in done.stdout


#: A node whose clock is 100 s fast and whose locks keep nobody apart.
ODD_NODE = """
import fcntl, sys, time
right = time.time
time.time = lambda: right() + 100
fcntl.flock = lambda *arguments: None
from enclaveml.cli import main
sys.exit(main(["doctor"]))
"""


@pytest.mark.mpi
def test_two_nodes_one_of_them_odd(tmp_path):
    """Two names for this machine, so that the nodes see each other's folders."""
    def node(name: str, *program: str) -> list[str]:
        return ["-np", "1", "env", f"SLURMD_NODENAME={name}", sys.executable, *program]

    folders = {"ENCLAVEML_CACHE": str(tmp_path / "cache"), "ENCLAVEML_SCRATCH": str(tmp_path / "scratch")}
    (tmp_path / "scratch").mkdir()
    done = run([*launcher(), *node("one", "-m", "enclaveml", "doctor"), ":", *node("two", "-c", ODD_NODE)], 240, folders, tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "ok       ranks     2 ranks on 2 nodes hear each other, 1 on each" in lines
    assert [line.split(" s apart")[0].rstrip("0123456789.") for line in lines if " skew " in line] == [
        "warning  skew      clocks of the ranks are "]
    assert (f"warning  scratch   {tmp_path}/scratch is the same folder on 2 of 2 nodes: set ENCLAVEML_SCRATCH to a folder on each "
            "node's own disk") in lines
    assert (f"warning  locking   flock in {tmp_path}/cache does not keep nodes apart: start one job at a time, or mount the file "
            "system with locks (Lustre: -o flock)") in lines
    assert any(line.startswith(f"fault    locking   rank 1: flock in {tmp_path}/cache: given to two at once") for line in lines)
