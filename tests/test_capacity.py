"""Cores and memory from made-up /proc and cgroup trees; capacities for the split."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest

from enclaveml.capacity import GB, RankFacts, allowed_cores, capacities, device_capacity, measure, node_cores, node_memory


@pytest.fixture
def node(tmp_path: Path):
    """A node of 8 cores and 32 GB, without limits; this process is 50, its parents 40 (a shell) and 1."""

    class Node:
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"

        def process(self, pid, name: str, parent: int, cores: str) -> None:
            self.put(
                self.proc / str(pid) / "status",
                f"Name:\t{name}\nPPid:\t{parent}\nCpus_allowed_list:\t{cores}\n",
            )

        def put(self, path: Path, text: str) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        def cores(self, ranks: int = 1, **env: str) -> int:
            return node_cores(ranks, env, self.proc, self.cgroup)

        def memory(self, **env: str) -> float:
            return node_memory(env, self.proc, self.cgroup) / GB

    node = Node()
    node.process("self", "python", 40, "0-7")
    node.process(40, "bash", 1, "0-7")
    node.process(1, "systemd", 0, "0-7")
    node.put(node.proc / "meminfo", f"MemTotal:       {32 << 20} kB\nMemFree:  1 kB\n")
    node.put(node.proc / "self" / "cgroup", "0::/job/step\n")
    return node


def test_an_unlimited_node(node):
    assert node.cores() == 8 and node.memory() == 32


def test_a_rank_that_mpirun_bound_counts_the_launchers_cores(node):
    node.process("self", "python", 40, "3")
    assert allowed_cores(node.proc) == (3,)
    node.process(40, "bash", 30, "3")
    node.process(30, "prted", 1, "0-2,6")
    assert allowed_cores(node.proc) == (0, 1, 2, 6)
    assert node.cores() == 4


def test_parents_in_a_circle_end(node):
    node.process(40, "bash", 41, "0-7")
    node.process(41, "bash", 40, "0-7")
    assert allowed_cores(node.proc) == tuple(range(8))


@pytest.mark.parametrize(
    "quota, cores", [("max 100000", 8), ("350000 100000", 3), ("50000 100000", 1), ("nonsense", 8), ("1", 8)]
)
def test_cgroup_v2_quota(node, quota, cores):
    node.put(node.cgroup / "job" / "cpu.max", quota)
    assert node.cores() == cores


def test_the_tightest_cgroup_on_the_way_up_counts(node):
    node.put(node.cgroup / "job/step/cpu.max", "600000 100000")
    node.put(node.cgroup / "job/cpu.max", "400000 100000")
    node.put(node.cgroup / "cpu.max", "500000 100000")
    node.put(node.cgroup / "job/step/memory.max", "max")
    node.put(node.cgroup / "job/memory.max", str(6 * GB))
    node.put(node.cgroup / "memory.max", str(12 * GB))
    assert node.cores() == 4 and node.memory() == 6


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_cgroup_v1(node, folder):
    node.put(node.proc / "self" / "cgroup", "5:memory:/slurm/job7\n2:cpu,cpuacct:/slurm\n")
    node.put(node.cgroup / folder / "slurm/cpu.cfs_quota_us", "200000")
    node.put(node.cgroup / folder / "slurm/cpu.cfs_period_us", "100000")
    node.put(node.cgroup / "memory/slurm/job7/memory.limit_in_bytes", str(3 * GB))
    node.put(node.cgroup / "memory/memory.limit_in_bytes", "9223372036854771712")
    assert node.cores() == 2 and node.memory() == 3


def test_cgroup_v1_without_limit_and_a_path_outside_the_container(node):
    node.put(node.proc / "self" / "cgroup", "5:memory:/../../host\n2:cpu:/host/path\n")
    node.put(node.cgroup / "cpu/cpu.cfs_quota_us", "-1")
    node.put(node.cgroup / "cpu/cpu.cfs_period_us", "100000")
    node.put(node.cgroup / "memory/memory.limit_in_bytes", str(2 * GB))
    assert node.cores() == 8 and node.memory() == 2


def test_slurm_under_mpirun_gives_the_nodes_number(node):
    node.process("self", "python", 40, "1")
    node.process(40, "prted", 1, "0-7")
    slurm = {"SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "2", "SLURM_STEP_ID": "0"}
    assert node.cores(ranks=2, **slurm) == 6


def test_slurm_under_srun_does_not_mistake_a_tasks_cores_for_the_nodes(node):
    node.process("self", "python", 40, "1")
    node.process(40, "slurmstepd", 1, "0-7")
    assert node.cores(ranks=2, SLURM_CPUS_ON_NODE="6", SLURM_STEP_ID="0") == 6
    assert node.cores(ranks=2, SLURM_CPUS_ON_NODE="6", SLURM_STEP_ID="0", SLURM_CPUS_PER_TASK="2") == 4


@pytest.mark.parametrize(
    "env, memory",
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, 4),
        ({"SLURM_MEM_PER_NODE": "0"}, 32),
        ({"SLURM_MEM_PER_NODE": "many"}, 32),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "5"}, 5),
        ({"SLURM_MEM_PER_CPU": "1024"}, 32),
    ],
)
def test_slurm_memory(node, env, memory):
    assert node.memory(**env) == memory


def test_measure_divides_memory_among_the_nodes_ranks(node):
    facts = measure("gpu-01", 1, 4, {}, node.proc, node.cgroup)
    assert facts == RankFacts("gpu-01", "gpu-01", 1, 8, 8.0, "cpu")
    named = measure("gpu-01", 1, 4, {"SLURMD_NODENAME": "n3"}, node.proc, node.cgroup)
    assert named.node_id == "n3"
    assert RankFacts(**json.loads(json.dumps(asdict(facts)))) == facts


def test_a_gpu_is_seen_unless_hidden(node):
    node.put(node.proc / "driver/nvidia/gpus/0000:01:00.0/information", "Model: x")
    assert measure("h", 0, 1, {}, node.proc, node.cgroup).device == "cuda"
    assert measure("h", 0, 1, {"CUDA_VISIBLE_DEVICES": "1"}, node.proc, node.cgroup).device == "cuda"
    assert measure("h", 0, 1, {"CUDA_VISIBLE_DEVICES": ""}, node.proc, node.cgroup).device == "cpu"


def test_without_proc_the_operating_system_is_asked(tmp_path):
    facts = measure("mac", 0, 1, {}, tmp_path / "none", tmp_path / "none")
    assert facts.cores == os.cpu_count()
    assert facts.memory_gb * GB == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_this_machine():
    facts = measure("here", 0, 1)
    assert 1 <= facts.cores <= os.cpu_count() and 0 < facts.memory_gb < 1 << 20
    assert allowed_cores() and facts.cores <= len(allowed_cores())


@dataclass(frozen=True)
class Declared:
    memory_gb: float | None


def test_a_gpu_counts_with_its_own_memory_and_a_cpu_with_its_share():
    assert device_capacity("cpu", 540.0, 7.5) == 7.5
    assert device_capacity("cuda", 48 * GB / 1e9, 7.5) == pytest.approx(48)
    assert device_capacity("cuda", 0.0, 7.5) == 7.5


def test_declared_memory_wins_over_measured():
    facts = [RankFacts(f"h{p}", f"h{p}", 0, 2, 7.5, "cpu") for p in range(5)]
    specs = [Declared(48.0), None, Declared(0.0), Declared(None), Declared(16)]
    weights = capacities(facts, specs)
    assert weights.dtype == np.float64 and weights.tolist() == [48.0, 7.5, 0.0, 7.5, 16.0]
    with pytest.raises(ValueError):
        capacities(facts, specs[:2])
