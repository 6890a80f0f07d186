"""Which device a rank gets, from its local rank and environment, and the words of every refusal."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from enclaveml import devices
from enclaveml.devices import Machine, bind_device, plan_environment
from enclaveml.errors import EnvironmentFault

LAPTOP = Machine(jax="0.10.2")
NODE = Machine(jax="0.10.2", cuda_plugin=True, gpus=4)
CPU = {"JAX_PLATFORMS": "cpu", "JAX_DEFAULT_MATMUL_PRECISION": "highest", "NPROC": "1"}


def refusal(device, env, machine):
    with pytest.raises(EnvironmentFault) as caught:
        plan_environment(device, 0, env, machine)
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_cpu_is_single_threaded_and_full_precision():
    assert plan_environment("cpu", 3, {}, LAPTOP) == CPU
    assert plan_environment("cpu", 3, {}, NODE) == CPU


def test_cuda_by_local_rank():
    plans = [plan_environment("cuda", r, {}, NODE) for r in range(6)]
    assert [p["CUDA_VISIBLE_DEVICES"] for p in plans] == ["0", "1", "2", "3", "0", "1"]
    assert plans[1] == {
        "JAX_PLATFORMS": "cuda,cpu", "CUDA_VISIBLE_DEVICES": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}


@pytest.mark.parametrize(("listed", "local_rank", "got"), [
    ("2,3", 0, "2"), ("2,3", 1, "3"), ("2,3", 2, "2"),
    ("5", 3, "5"),                                  # Slurm gave this task one GPU of its own
    ("GPU-aa, GPU-bb", 1, "GPU-bb"),
    ("0,-1,2", 1, "0"),                             # CUDA's list ends at the first invalid name
])
def test_cuda_stays_within_what_is_visible(listed, local_rank, got):
    env = {"CUDA_VISIBLE_DEVICES": listed}
    assert plan_environment("cuda", local_rank, env, NODE)["CUDA_VISIBLE_DEVICES"] == got


def test_planning_twice_is_planning_once():
    env = plan_environment("cuda", 2, {}, NODE)
    assert plan_environment("cuda", 2, env, NODE) == env


def test_auto():
    assert plan_environment("auto", 1, {}, NODE)["JAX_PLATFORMS"] == "cuda,cpu"
    assert plan_environment("auto", 1, {}, LAPTOP) == CPU
    assert plan_environment("auto", 1, {}, Machine("0.10.2", cuda_plugin=False, gpus=4)) == CPU
    assert plan_environment("auto", 1, {"CUDA_VISIBLE_DEVICES": ""}, NODE) == CPU


def test_metal_is_refused_with_the_reason():
    assert refusal("metal", {}, LAPTOP) == (
        "device metal: no Metal plugin serves JAX 0.10.2 (Apple's jax-metal ended at JAX 0.5, and EnclaveML "
        "needs 0.10); give this rank `device: cpu`, its memory_gb can stay")


def test_cuda_without_a_gpu():
    assert refusal("cuda", {}, LAPTOP) == (
        "device cuda: this node shows no NVIDIA GPU (`nvidia-smi -L` lists none); ask the scheduler for one "
        "(--gres=gpu:1), or give this rank `device: cpu`")


def test_cuda_hidden():
    assert refusal("cuda", {"CUDA_VISIBLE_DEVICES": "-1"}, NODE) == (
        "device cuda: CUDA_VISIBLE_DEVICES=-1 hides every GPU of this node; unset it, or ask the scheduler "
        "for a GPU (--gres=gpu:1)")


def test_cuda_without_the_plugin():
    assert refusal("cuda", {}, Machine("0.10.2", gpus=1)) == (
        "device cuda: JAX 0.10.2 has no CUDA plugin here; pip install 'enclaveml[gpu]'")


def test_without_jax():
    assert refusal("auto", {}, Machine(None)) == (
        "JAX is not installed, and this rank computes; pip install 'enclaveml[run]'")


def test_unknown_device():
    with pytest.raises(ValueError, match="^device is 'tpu'; allowed: cpu, cuda, metal, auto$"):
        plan_environment("tpu", 0, {}, LAPTOP)


def test_too_late(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", sys)
    monkeypatch.setattr(devices, "probe", lambda: LAPTOP)
    env = {"JAX_PLATFORMS": "cpu"}
    with pytest.raises(EnvironmentFault) as caught:
        bind_device("cpu", 0, env)
    assert str(caught.value) == (
        "JAX was imported before this rank's device was chosen, and reads its settings only then: "
        "JAX_DEFAULT_MATMUL_PRECISION=highest, NPROC=1; set them before starting, or call bind_device "
        "before importing jax or flax")
    assert env == {"JAX_PLATFORMS": "cpu"}


def run_python(code: str, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in (*CPU, "XLA_FLAGS", "CUDA_VISIBLE_DEVICES")}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=clean | env, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_devices_imports_no_jax():
    assert run_python("import enclaveml.devices, sys; print('jax' in sys.modules)") == "False"


def test_real_cpu():
    out = run_python("""
        from enclaveml.devices import bind_device
        info = bind_device("cpu", 1)
        assert bind_device("cpu", 1) == info
        import jax
        assert info.name and 0.1 < info.memory_gb < 1e5, info
        print(info.kind, jax.devices()[0].platform, jax.config.jax_default_matmul_precision)
    """)
    assert out == "cpu cpu highest"


def test_a_large_sum_is_the_same_on_one_core_and_on_all():
    """The case in which XLA cuts a reduction by its threads: it differs without NPROC=1."""
    code = """
        import os
        if {one}: os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
        from enclaveml.devices import bind_device
        bind_device("cpu", 0)
        import jax, numpy as np
        x = np.random.default_rng(0).standard_normal((3000, 1000)).astype("float32")
        print(np.asarray(jax.jit(lambda x: x.sum())(x)).tobytes().hex())
    """
    assert run_python(code.format(one=True)) == run_python(code.format(one=False))
