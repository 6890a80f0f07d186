"""A real Slurm cluster on this host, by hand: several nodes of different size, without systemd.

munged, slurmctld and one slurmd for each node are children of the test process, in one
temporary folder, each node with a port, CPUs, memory and GPUs of its own as far as Slurm
knows (the GPUs are null devices). Whatever a job starts carries the cluster's SLURM_CONF in
its environment, which is how everything is found and ended: by ``Cluster.close``, or by
``reaper.py`` if the test process dies before it could.

Needs root and Debian's packages ``slurm-wlm`` and ``munge`` (and ``libpmix-dev`` for srun's PMIx). Jobs are spooled, accounted for
and written in the folder only.

References: munged(8), slurmctld(8), slurmd(8).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import slurm_conf
from reaper import sweep
from slurm_conf import Node

T = TypeVar("T")

# Bounds, in seconds.
START_S = 30.0
COMMAND_S = 30.0

# A job in one of these states does not change any more.
ENDED = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
)


def unavailable() -> str:
    """Why no cluster can be had here, with the remedy; empty if one can."""
    if sys.platform != "linux":
        return f"Slurm does not run on {sys.platform}"
    if os.geteuid() != 0:
        return "a Slurm cluster by hand needs root"
    missing = [
        name for name in ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun") if not _find(name)
    ]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    return ""


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class Cluster:
    """A running cluster; use it in a ``with``.

    ``environment`` is what jobs are submitted with, and so what they run with.
    """

    def __init__(self, nodes: Sequence[Node], environment: Mapping[str, str]) -> None:
        self.nodes = tuple(nodes)
        self.folder = Path(tempfile.mkdtemp(prefix="enclaveml-slurm-"))
        self.folder.chmod(0o755)
        self.conf = self.folder / "slurm.conf"
        self.environment = {**environment, "SLURM_CONF": str(self.conf)}
        # Whether each node can have a host name of its own, as real ones do (needs CAP_SYS_ADMIN).
        self.named = (
            subprocess.run(["unshare", "--uts", "true"], capture_output=True, timeout=COMMAND_S).returncode
            == 0
        )
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        try:
            slurm_conf.write(self.folder, self.nodes, self.named)
            # Ends everything when its standard input closes, that is, when this process dies.
            self._reaper = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name("reaper.py")),
                    str(self.conf),
                    str(self.folder),
                ],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the cluster and remove its folder. Bounded, whatever state it is in."""
        try:
            self.command("scancel", "--user=root", check=False, timeout=5)
        except (AssertionError, OSError):
            pass  # no controller any more: the sweep ends the jobs too
        sweep(str(self.conf))
        for daemon in self._daemons:
            daemon.wait(timeout=10)
        if hasattr(self, "_reaper"):
            self._reaper.communicate(timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- starting ----------------------------------------------------------------

    def _start(self) -> None:
        folder = self.folder
        key = folder / "munge.key"
        subprocess.run([_find("mungekey"), "--create", f"--keyfile={key}"], check=True, timeout=COMMAND_S)
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed",
        )
        self.wait(lambda: (folder / "munge.socket").exists(), START_S, "munged's socket")
        self._daemon("slurmctld", "-D", "-c", "-f", str(self.conf))
        self.wait(lambda: self.command("scontrol", "ping", check=False).returncode == 0, START_S, "slurmctld")
        for node in self.nodes:
            name = (
                ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', node.name)
                if self.named
                else ()
            )
            self._daemon(*name, str(_find("slurmd")), "-D", "-N", node.name, "-f", str(self.conf))
        self.wait(self._all_idle, START_S, "idle nodes")

    def _daemon(self, program: str, *arguments: str) -> None:
        log = (self.folder / f"{Path(program).name}.{len(self._daemons)}.out").open("wb")
        with log:
            self._daemons.append(
                subprocess.Popen(
                    [str(_find(program)), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                    start_new_session=True,
                )
            )

    def _all_idle(self) -> bool:
        dead = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
        if dead:
            raise AssertionError(f"ended at once: {dead}\n{self.logs()}")
        states = self.command("sinfo", "--noheader", "--Node", "--format=%T", check=False).stdout.split()
        return states == ["idle"] * len(self.nodes)

    # -- using -------------------------------------------------------------------

    def command(
        self,
        program: str,
        *arguments: str,
        check: bool = True,
        timeout: float = COMMAND_S,
        cwd: Path | None = None,
        env: Mapping[str, str] = {},
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's programs. Past its bound, or (with ``check``) failing: AssertionError."""
        line = [str(_find(program)), *arguments]
        try:
            done = subprocess.run(
                line,
                env={**self.environment, **env},
                cwd=cwd,
                text=True,
                capture_output=True,
                timeout=timeout,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s: {line}\n{self.logs()}") from None
        if check and done.returncode:
            raise AssertionError(f"exit status {done.returncode}: {line}\n{done.stdout}{done.stderr}")
        return done

    def submit(self, *arguments: str, cwd: Path, env: Mapping[str, str] = {}) -> str:
        """``sbatch`` from the folder ``cwd``: the job's id."""
        return (
            self.command("sbatch", "--parsable", *arguments, cwd=cwd, env=env)
            .stdout.strip()
            .partition(";")[0]
        )

    def job(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says: JobState, ExitCode, Restarts, NodeList, Comment, …"""
        line = self.command("scontrol", "--oneliner", "show", "job", job).stdout.splitlines()[0]
        return dict(part.partition("=")[::2] for part in line.split() if "=" in part)

    def finish(self, job: str, seconds: float, log: Path | None = None) -> dict[str, str]:
        """Wait for the end of a job; what ``job`` says then. ``log`` is shown if the bound passes."""

        def text() -> str:
            return f"job {job}, {self.job(job)}\n{log.read_text()[-6000:] if log and log.exists() else ''}"

        return self.wait(lambda: (found := self.job(job))["JobState"] in ENDED and found, seconds, text)

    def wait(self, ready: Callable[[], T], seconds: float, what: str | Callable[[], str]) -> T:
        """Poll ``ready`` till it is true; its value. Past the bound: AssertionError with the logs."""
        end = time.monotonic() + seconds
        while not (value := ready()):
            if time.monotonic() > end:
                raise AssertionError(
                    f"not within {seconds:g} s: {what() if callable(what) else what}\n{self.logs()}"
                )
            time.sleep(0.2)
        return value

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        files = sorted((*self.folder.glob("*.log"), *self.folder.glob("*.out")))
        return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-1500:]}" for f in files)
