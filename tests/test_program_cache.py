"""A compiled program is kept for the next run, whole, and computes the same bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from enclaveml import program_cache
from enclaveml.program_cache import cpu_kind

PROGRAM = '''\
import sys
from pathlib import Path
import numpy as np
from enclaveml.devices import bind_device
bind_device("cpu", 0)
import jax
from jax._src import compiler
compiled = []
original = compiler.backend_compile_and_load
compiler.backend_compile_and_load = lambda *a, **k: (compiled.append(1), original(*a, **k))[1]
from enclaveml.inference import Inference
from enclaveml.program_cache import kept_programs

class Model:
    row_shape, dtype = (6, 6, 1), np.dtype(np.float32)

    def apply(self, rows):
        kernel = np.random.default_rng(0).standard_normal((3, 3, 1, 5)).astype(np.float32)
        found = jax.lax.conv_general_dilated(rows, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.gelu(found).reshape(len(rows), -1)[:, ::7]

with kept_programs(Path(sys.argv[1]), "model"):
    infer = Inference(Model())
assert jax.config.jax_compilation_cache_dir is None
kept = len(compiled)
jax.jit(lambda x: x * 3)(np.ones(3, np.float32))
assert len(compiled) == kept + 1  # not kept: it is none of the model's
found = infer(np.random.default_rng(1).standard_normal((5, 6, 6, 1)).astype(np.float32))
print(kept, found.tobytes().hex())
'''


def compile_once(root: Path) -> tuple[int, str]:
    """Programs compiled in a process of its own, and the outputs' bytes."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "JAX complains"
    count, outputs = done.stdout.split()
    return int(count), outputs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.skipif(not cpu_kind(), reason="THIS SYSTEM DOES NOT TELL ITS CPU'S KIND: no program is kept")
def test_the_second_run_compiles_nothing_and_gives_the_same_bits(root: Path) -> None:
    first, outputs = compile_once(root)
    folder = root / "programs" / cpu_kind() / "model"
    kept = sorted(path.name for path in folder.iterdir())
    assert first >= 1 and len(kept) == first and all(name.endswith("-cache") for name in kept)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert compile_once(root) == (0, outputs)
    assert sorted(path.name for path in folder.iterdir()) == kept  # and nothing is left of a run


def test_models_and_programs_that_were_long_not_used_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_cache, "MOST_MODELS", 3)
    monkeypatch.setattr(program_cache, "MOST", 2)
    shared = [tmp_path / "programs" / "kind" / name for name in "abcd"]
    for age, model in enumerate(shared):
        (mine := program_cache._own_folder(tmp_path, model)).mkdir(exist_ok=True)
        for i in range(3):
            (mine / f"{i}-cache").write_text(model.name)
            os.utime(mine / f"{i}-cache", (i, i))
        program_cache._share(mine)
        shutil.rmtree(mine)
        os.utime(model, (age, age))
        left = sorted(path.relative_to(model.parent).as_posix() for path in model.parent.rglob("*-cache"))
        models = [each.name for each in shared[max(0, age - 2): age + 1]]
        assert left == [f"{name}/{i}-cache" for name in models for i in (1, 2)]
    shared[1].chmod(0o770)  # and never through a folder in which the group could leave a program
    assert program_cache._own_folder(tmp_path, shared[1]) is None


@pytest.mark.parametrize("what", ["others may write", "the group may write to the cache", "a file in its place"])
def test_without_a_folder_of_its_own_it_goes_on(what: str, tmp_path: Path) -> None:
    if what == "others may write":
        (tmp_path / "programs").mkdir()
        (tmp_path / "programs").chmod(0o777)
    elif what == "the group may write to the cache":
        tmp_path.chmod(0o770)
    else:
        (tmp_path / "programs").write_text("")
    count, _ = compile_once(tmp_path)
    assert count >= 1 and not [path for path in tmp_path.rglob("*") if path.name.endswith("-cache")]


def test_a_kind_is_the_model_and_its_features(tmp_path: Path) -> None:
    def kind(text: str) -> str:
        (tmp_path / "cpuinfo").write_text(text)
        return cpu_kind(tmp_path / "cpuinfo")

    one = "processor\t: 0\nmodel name\t: A\ncpu MHz\t\t: 1800\nflags\t\t: fpu avx2\n\nprocessor\t: 1\n"
    assert kind(one) == kind(one.replace("1800", "2400")) and len(kind(one)) == 16
    assert len({kind(one), kind(one.replace("avx2", "avx")), kind(one.replace(": A", ": B"))}) == 3
    assert kind("nothing\n") == "" and cpu_kind(tmp_path / "none") == ""
