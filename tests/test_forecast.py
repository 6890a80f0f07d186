"""The forecast: the simulation against what must come out, limits, the choice of a circuit, what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import a_circuit
from launch import ROOT, environment
from small_job import write_small_job

from enclaveml import circuit_index, cli
from enclaveml.errors import EnvironmentFault, JobError
from enclaveml.forecast import Data, choose, curve, data_of, limits, predict, stops_at
from enclaveml.forecast_costs import DEVICES, Target, target_of
from enclaveml.forecast_rounds import TICK_S, Costs, Plant, simulate, without
from enclaveml.forecast_text import slurm_limit
from enclaveml.job import load_job
from enclaveml.model_package import package_model
from enclaveml.round_size import ROUND_ROWS, rows_of_a_round
from enclaveml.sbatch import time_seconds
from enclaveml.zk.interface import MANIFEST

FREE = Costs(prove=10.0, infer=0.0, verify=0.0, root_tick=0.0, root_rank=0.0, root_bundle=0.0, envelope_bytes=0,
             order_bytes=0)
PLANT = without(Plant(ranks=5, first=1, ranks_per_node=5, node_cores=100, children=1, verifiers=1, latency=0.0, link=1e9))
MEASURED = {"prove_cpu_seconds": 8.0, "witness_seconds": 0.1, "verify_seconds": 0.5, "verify_cpu_seconds": 0.04,
            "prove_peak_bytes": 3e8, "key_bytes": 1e8}


def circuit(folder: Path | None = None, rows: int = 40, **measured: float):
    with tempfile.TemporaryDirectory() as gone:  # its files are read by nobody where no folder is given
        made = a_circuit(folder or Path(gone))
    return replace(made, rows=rows, proof_bytes=13000, measured={**MEASURED, **measured})


# --- the simulation ---


def test_alone_each_prover_does_one_after_the_other():
    """12 bundles of 10 s on 4 provers are 30 s, and a few ticks."""
    found = simulate(12, 12, FREE, PLANT)
    assert 30 <= found.seconds <= 30 + 4 * TICK_S and found.bundles == 12
    assert found.prove_busy == pytest.approx(1, abs=0.02)


def test_provers_share_the_cores_of_their_node():
    assert simulate(12, 12, FREE, replace(PLANT, node_cores=2)).seconds == pytest.approx(60, abs=1)
    two = replace(PLANT, ranks=9, ranks_per_node=3, node_cores=2)  # 8 workers on 3 nodes: 2 cores for 2, 3 and 3
    assert simulate(8, 8, FREE, two).seconds == pytest.approx(15, abs=1)


def test_a_slow_rank_is_helped_out():
    """Half the ranks at half speed: 160 bundles, 4 provers of which the seed makes some slow, none waits at the end."""
    slow = replace(PLANT, slow=0.5)
    found = simulate(160, 160, FREE, slow, seed=1)
    speed = np.where(np.random.default_rng(1).random(4) < 0.5, 0.5, 1.0).sum()
    assert 1 < speed < 4, "the seed is to make some slow and some not"
    assert found.stolen > 0 and found.seconds == pytest.approx(1600 / speed, rel=0.08)


def test_a_lost_rank_costs_its_share_and_no_bundle():
    dying = replace(PLANT, failures=1 / 200.0)
    found = [simulate(80, 80, FREE, dying, seed) for seed in range(6)]
    assert all(f.bundles == 80 and f.seconds >= 200 for f in found)
    assert {f.lost for f in found} != {0} and max(f.seconds for f in found) > 230
    assert simulate(80, 80, FREE, dying, 3) == simulate(80, 80, FREE, dying, 3)


def test_rank_0s_thread_and_its_verifiers_bound_the_rate():
    many = replace(PLANT, ranks=101)
    thread = simulate(1000, 1000, replace(FREE, root_bundle=0.5), many)  # 2 bundles a second, at best
    assert thread.seconds == pytest.approx(500, rel=0.1) and thread.root_busy > 0.9
    verify = simulate(1000, 1000, replace(FREE, verify=1.0), replace(many, verifiers=4, node_cores=1000))
    assert verify.seconds == pytest.approx(250, rel=0.1) and verify.verify_busy > 0.9 and verify.queue > 20


def test_rank_0_verifies_undisturbed_on_a_node_of_its_own():
    """2 s a proof on all of 8 cores, on 4, or on 8 that 8 ranks' provers share for as long as they have bundles."""
    costs = replace(FREE, verify=2.0)
    shared = replace(PLANT, ranks=65, ranks_per_node=9, node_cores=8, verifiers=8)
    own = replace(shared, root_cores=4, ranks_per_node=8)
    assert own.node_of(np.arange(65)).tolist() == [0, *(1 + i // 8 for i in range(64))]
    found = [simulate(640, 640, costs, plant).seconds for plant in (shared, own, replace(own, root_cores=8))]
    assert found[1] == pytest.approx(640 * 2 / 4, rel=0.1) and found[2] == pytest.approx(640 * 2 / 8, rel=0.1)
    assert 1.2 * found[2] < found[0] < found[1]


def test_rounds_that_are_too_small_starve_provers():
    many = replace(PLANT, ranks=101)
    small, large = simulate(1000, 10, FREE, many), simulate(1000, 200, FREE, many)
    assert large.seconds == pytest.approx(100, rel=0.1)
    assert small.seconds > 4 * large.seconds and small.prove_busy < 0.3 and small.starved > large.starved


def test_the_network_is_paid_for():
    wide = simulate(12, 12, replace(FREE, envelope_bytes=5e9), PLANT)
    assert wide.seconds == pytest.approx(10 + 12 * 5, abs=2)  # the first proof, then one after the other


# --- a target and a job ---


@pytest.fixture
def quick(monkeypatch):
    """Fewer bundles are simulated; the rest is the same."""
    monkeypatch.setattr("enclaveml.forecast.MOST_BUNDLES", 3000)


SMALL = Target(ranks=4, cores_per_rank=4, ranks_per_node=4, device=DEVICES["cpu"], memory_gb=8.0)
JOB = Data(rows=10_000_000, proved=10_000_000, row_bytes=256, weights=2400)


def test_a_target_with_a_node_for_rank_0():
    target = target_of(9, 4, 4, "cpu", 8.0, root_cores=24)
    assert (target.nodes, target.node_cores, target.children, target.verifiers, target.verify_cores) == (3, 16, 4, 24, 24)
    beside = target_of(9, 4, 4, "cpu", 8.0)
    assert (beside.nodes, beside.node_cores, beside.provers_beside, beside.verify_cores) == (3, 16, 12, 16 * 16 / 28)
    assert target_of(2, 4, 4, "cpu", 8.0, root_cores=24).children == 4  # one rank on a node of 4


@pytest.mark.parametrize(("ranks", "cores", "per_node", "children"), [
    (1, 2, 4, 2), (2, 2, 4, 4), (4, 4, 4, 5), (8, 4, 4, 4), (64, 16, 4, 16)])
def test_provers_of_a_rank_are_as_in_a_run(ranks, cores, per_node, children):
    """rollcall.children_of: the node's cores over its computing ranks; rank 0 does not compute unless alone."""
    assert target_of(ranks, cores, per_node, "cpu", 8.0).children == children


def test_limits_are_where_the_arithmetic_says():
    found = {limit.name: limit for limit in limits(circuit(), JOB, SMALL)}
    # 5 provers at 8.1 s: 0.617 bundles a second of a rank; 16 verifiers at 0.04 s: 400 proofs a second, if 15 provers
    # on the same cores left them alone.
    assert found["verification"].ranks == pytest.approx(16 / 31 * 400 * 8.1 / 5, rel=0.01)
    assert found["rows of the job"].ranks == pytest.approx(10_000_000 / 40 / 5)
        # On full nodes a rank has 4 provers: 0.494 bundles a second.
    more = {limit.name: limit for limit in limits(circuit(), JOB, replace(SMALL, ranks=1000))}
    assert more["verification"].text == ("40 CPU ms a proof on the 16 cores of rank 0's node, which 12 provers share; "
                                         "1000 ranks need 20 cores of a node of its own (--root-cores)")
    own = {limit.name: limit for limit in limits(circuit(), JOB, replace(SMALL, ranks=1000, root_cores=20))}
    assert own["verification"].ranks == pytest.approx(20 / 0.04 * 8.1 / 4, rel=0.01)
    assert own["verification"].text == ("40 CPU ms a proof on the 20 cores of rank 0's node; 1000 ranks need 20 cores of a "
                                        "node of its own (--root-cores)")
    order = [limit.ranks for limit in limits(circuit(), JOB, SMALL)]
    assert order == sorted(order)


def test_a_long_job_goes_on_at_the_rate_that_was_simulated(quick):
    target = replace(SMALL, ranks=64, jitter=0.0, slow=0.0)
    one = predict(replace(JOB, rows=2_000_000, proved=2_000_000), [circuit()], target)
    ten = predict(replace(JOB, rows=20_000_000, proved=20_000_000), [circuit()], target)
    assert ten.outcome.seconds == pytest.approx(10 * one.outcome.seconds, rel=0.1)
    assert ten.bundles == pytest.approx(10 * one.bundles, rel=0.02) and ten.provers == 63 * 4


def test_a_run_that_hides_its_weights_makes_its_circuit_itself():
    made = circuit(prove_seconds=4.0, compile_seconds=20.0, setup_seconds=3.0)
    cached, registered = (predict(JOB, [one], SMALL).stages["circuit"] for one in (made, replace(made, hides_weights=True)))
    assert registered == pytest.approx(cached + (20 + 4 + 3 + 0.5) / SMALL.core_speed)


def test_the_curve_stops_where_rank_0_does(quick):
    """With 1 s of verification a proof and 4 cores to verify, 4 provers a rank at 8 s scale to 8 ranks and no further."""
    target = replace(SMALL, root_cores=4, jitter=0.0, slow=0.0)
    points = curve(JOB, [circuit(verify_cpu_seconds=1.0)], target, most=64)
    assert [p for p, _, _ in points] == [2, 4, 8, 16, 32, 64]
    assert stops_at(points) == 32 and points[-1][2] == "verification"
    flat = [o.seconds for p, o, _ in points if p >= 16]
    assert flat[-1] == pytest.approx(flat[0], rel=0.1)


def test_the_circuit_is_the_one_that_the_plan_would_take():
    small, large = circuit(rows=40), circuit(rows=90, prove_cpu_seconds=15.0)
    few, many = replace(JOB, proved=120), JOB
    assert choose([small, large], few, replace(SMALL, cores_per_rank=1)).rows == 40
    assert choose([small, large], many, SMALL).rows == 90
    with pytest.raises(EnvironmentFault, match="no circuit of this model is in the cache that 5 provers hold in 1 GB"):
        choose([small], many, replace(SMALL, memory_gb=1.0))
    with pytest.raises(EnvironmentFault, match="`enclaveml prepare JOB` makes one and proves once"):
        choose([], many, SMALL)


def test_a_machine_that_is_none():
    with pytest.raises(JobError) as caught:
        target_of(70000, 4, 4, "abacus", 0.0)
    assert str(caught.value).splitlines() == [
        f"--device: found 'abacus'; allowed: {', '.join(DEVICES)}", "--memory-gb: found 0; allowed: a number above 0",
        "--ranks: found 70000; allowed: 1 to 65536"]


def test_rounds_grow_with_provers_within_their_bytes():
    assert rows_of_a_round(256) == rows_of_a_round(256, 1000) == ROUND_ROWS
    assert rows_of_a_round(256, 90 * 1024) == 3 * 90 * 1024
    assert rows_of_a_round(256, 10**9) == (1 << 28) // 256
    assert rows_of_a_round(1 << 30, 10**9) == 1


@pytest.mark.parametrize(("seconds", "text"), [(1, "00:05:00"), (301, "00:10:00"), (9 * 3600, "09:00:00"),
                                               (86400, "1-00:00:00"), (100000, "1-03:50:00")])
def test_slurms_times(seconds, text):
    assert slurm_limit(seconds) == text and time_seconds(text) >= seconds


# --- the command ---


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A small job, and a cache with a circuit for it (a manifest is all that the forecast reads)."""
    monkeypatch.setenv("ENCLAVEML_CACHE", str(tmp_path / "cache"))
    small = write_small_job(tmp_path / "job", sections={"proof": {"coverage": 1}})
    job = load_job(small.path)
    folder = tmp_path / "cache" / "circuits" / ("e" * 64)
    folder.mkdir(parents=True)
    made = replace(circuit(folder, rows=4), row_shape=(6,))
    (folder / MANIFEST).write_text(json.dumps(made.manifest()))
    package = package_model(job.model.flax, {}, job.model.weights, small.folder)
    circuit_index.remember(circuit_index.model_key(package.to_bytes(), (6,), np.dtype(np.float32)), made)
    return small


def test_the_command_needs_no_jax_and_no_mpi(prepared):
    program = ("import sys; sys.modules.update(dict.fromkeys(['jax', 'mpi4py', 'flax', 'ezkl']))\n"
               "from enclaveml import cli; sys.exit(cli.main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", program, "forecast", str(prepared.path), "--ranks", "256",
                           "--cores-per-rank", "16", "--device", "h100", "--rows", "20000", "--json"],
                          capture_output=True, text=True, env=environment({}), cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["rows_per_proof"] == 4 and said["provers"] == 255 * 16 and said["bundles"] >= 5000
    assert said["wall"] == pytest.approx(sum(said["stages"].values())) and said["ask"] > said["wall"]


def test_what_it_prints(prepared, capsys):
    assert cli.main(["forecast", str(prepared.path), "--ranks", "8", "--curve", "--rows", "1000"]) == 0
    said = capsys.readouterr().out
    for start in ("wall time   ", "ranks       8 on 2 nodes, 4 cores each, device cpu: 28 provers\n", "rows        1000 in 1 ",
                  "stages      start ", "memory      1.80 GB a rank, ", "files       key 100 MB, ", "rank 0      ",
                  "binds first ", "ranks  rounds s", "assumed     circuit c1c1c1c1c1c1c1c1, proved on this machine: 4 rows in "
                  "8.0 CPU s"):
        assert start in said, start


def test_without_a_circuit_it_says_what_to_do(prepared, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ENCLAVEML_CACHE", str(tmp_path / "other"))
    assert cli.main(["forecast", str(prepared.path)]) == 4
    assert "`enclaveml prepare JOB` makes one and proves once" in capsys.readouterr().err


def test_other_weights_or_another_tolerance_have_other_circuits(prepared):
    assert len(data_of(load_job(prepared.path))[1]) == 1
    assert data_of(load_job(prepared.path, ["proof.tolerance=0.001"]))[1] == []
    weights = prepared.folder / "small.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert data_of(load_job(prepared.path))[1] == []


def test_slurm_asks_for_the_forecast(prepared, capsys, monkeypatch, tmp_path):
    assert cli.main(["slurm", str(prepared.path)]) == 0
    said = capsys.readouterr().out
    assert "# Forecast 0:" in said and "#SBATCH --time=00:10:00\n" in said
    monkeypatch.setenv("ENCLAVEML_CACHE", str(tmp_path / "other"))
    assert cli.main(["slurm", str(prepared.path)]) == 0
    assert "# A guess, since no circuit of this model" in capsys.readouterr().out
    assert cli.main(["slurm", str(prepared.path), "--time", "02:00:00"]) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --time=02:00:00" in said and "guess" not in said
