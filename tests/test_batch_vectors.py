"""numba's kernels of the batch prover: the same proofs as without them, the same numbers, and none that compute something else."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from types import ModuleType

import jax
import numpy as np
import pytest
from batch_reference import masked_case as case

from enclaveml.zk.batch.format import DEGREE, P, VerificationKey
from enclaveml.zk.batch.prove import code, columns, encoding, extension, helpers, kernels, tree
from enclaveml.zk.batch.prove.api import BatchProver
from enclaveml.zk.batch.prove.parallel import pool
from enclaveml.zk.batch.verify.api import KnownInputs, verify, verify_masked

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="numba is in the extra fast")

#: Modules that take a kernel of numba's where there is one.
USERS = (columns, encoding, extension, helpers)

#: Features that fill vectors and don't, next to each other; more columns of them than are encoded at once.
WIDTHS = (9, 24, 11, 8, 3)


@cache
def key(rows: int, masks: int) -> VerificationKey:
    return case.key_of(case.network(WIDTHS), rows, masks, 9)


def made(rows: int, masks: int) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Inputs, outputs and the proof by what this process has now."""
    given = key(rows, masks)
    prover = BatchProver(given, [np.array(layer, np.int32) for layer in case.network(WIDTHS).weights])
    x = np.array(case.rows_of(given), np.int32)
    return x, *(prover.prove(x, case.NONCE, case.INPUT_KEY, case.SEED) if masks else prover.prove(x, case.NONCE))


@pytest.mark.parametrize(("rows", "masks"), [(512, 256), (1024, 256), (1024, 0), (64, 0), (8, 0)])
def test_proofs_are_the_same_without(monkeypatch: pytest.MonkeyPatch, rows: int, masks: int) -> None:
    """Rows for a thread and for two; so few that codes have no kernel."""
    assert all(module.vectors() for module in USERS)
    x, y, proof = made(rows, masks)
    if masks:
        verify_masked(key(rows, masks), case.NONCE, y, proof, KnownInputs(x, case.INPUT_KEY))
    else:
        verify(key(rows, masks), case.NONCE, x, y, proof)
    for module in USERS:
        monkeypatch.setattr(module, "vectors", lambda: None)
    assert made(rows, masks)[2] == proof


def test_devices_are_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where JAX has one, it works there."""
    asked = []
    for module in (columns, encoding, helpers):
        monkeypatch.setattr(module, "vectors", lambda: asked.append(1))
    monkeypatch.setattr(kernels, "without_device", lambda: False)
    made(64, 0)
    assert not asked


@pytest.mark.parametrize("n", [16, 32, 64, 512, 1024, 1 << 14])
@pytest.mark.parametrize(("kind", "cores"), [(np.uint32, 2), (np.int32, 2), (np.uint32, 9)])
def test_codewords(monkeypatch: pytest.MonkeyPatch, n: int, kind: type, cores: int) -> None:
    """Of parts whose columns fill vectors or don't, in columns next to each other or apart; the last length is cut twice. With many cores
    their threads share columns too."""
    monkeypatch.setattr(encoding, "cores", lambda: cores)
    draw = np.random.default_rng(n)
    low = 0 if kind is np.uint32 else 1 - P
    width = 133 if n < 1 << 14 else 41
    whole = draw.integers(low, P, (n, width), np.int64).astype(kind)
    whole[: n // 2, 0], whole[:, 1] = (P - 1) * (1 if low == 0 else -1), 0
    with jax.enable_x64(True), pool() as threads:
        found, waiting = encoding.codewords([whole[:, :5], np.asfortranarray(whole[:, 5:13]), whole[:, 13:]], threads, False)
    assert not any(waiting)
    plain = (whole.astype(np.int64) % P).astype(np.uint32)
    for c, coset in enumerate(found):
        assert (coset == code.coset_values(plain, code.scale_powers(n, c))).all()


@pytest.mark.parametrize("width", [1, 7, 8, 31, 32, 33, 75])
def test_combinations(width: int) -> None:
    """Of numbers at random, and of the largest, whose products just fit."""
    for low in (0, P - 1):
        draw = np.random.default_rng(width)
        x = draw.integers(low, P, (300, width), np.int64)
        gamma, theta = (draw.integers(low, P, (DEGREE, width), np.uint32) for _ in range(2))
        signed = np.where(draw.integers(0, 2, x.shape) > 0, x, x - P)
        with jax.enable_x64(True), pool() as threads:
            for values in (x.astype(np.uint32), signed.astype(np.int32)):
                found = columns.combined(values, tuple(gamma), tuple(theta), threads)
                for combination, given in zip(found, (gamma, theta), strict=True):
                    products = x.astype(np.uint64)[:, None] * given.astype(np.uint64) % np.uint64(P)
                    wanted = products.sum(axis=-1) % np.uint64(P) * np.uint64(pow(1 << 32, -1, P)) % np.uint64(P)
                    assert (combination == wanted).all()


#: A kernel's module and name, and who takes it.
KERNELS = [("code_kernel", "encoded", encoding), ("combination_kernel", "combine", columns), ("lookup_kernel", "helpers", helpers),
           ("lookup_kernel", "plain_columns", helpers), ("rows_kernel", "weigh", helpers), ("rows_kernel", "round_sums", helpers),
           ("rows_kernel", "fold", helpers), ("rows_kernel", "fold_rows", helpers), ("rows_kernel", "block_sums", helpers)]


@pytest.mark.parametrize(("module", "name", "user"), KERNELS, ids=[f"{module}.{name}" for module, name, _ in KERNELS])
@pytest.mark.parametrize("fails", [True, False])
def test_kernels_that_are_wrong_are_not_taken(monkeypatch: pytest.MonkeyPatch, module: str, name: str, user: ModuleType, fails: bool) -> None:
    """Nor those that fail when they are called: the right one, and then another first number."""
    kernel_module = importlib.import_module(f"enclaveml.zk.batch.prove.{module}")
    right = getattr(kernel_module, name)

    def wrong(*arguments: object) -> None:
        if fails:
            raise RuntimeError("no such cache")
        right(*arguments)
        written = [each for each in arguments if isinstance(each, np.ndarray) and each.flags.writeable][-1]
        written.reshape(-1)[0] ^= 1

    monkeypatch.setattr(kernel_module, name, wrong)
    user.vectors.cache_clear()
    try:
        assert user.vectors() is None
    finally:
        monkeypatch.undo()
        user.vectors.cache_clear()
    assert user.vectors() is not None


def test_without_numba_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in sys.modules if name.split(".")[-1] in ("helpers_vectors", "helpers_trial")]
    names += [f"enclaveml.zk.batch.prove.{module}" for module, _, _ in KERNELS]
    for name in {*names, "enclaveml.zk.batch.prove.helpers_trial"}:
        monkeypatch.setitem(sys.modules, name, None)
    for user in (columns, encoding, helpers):
        user.vectors.cache_clear()
        assert user.vectors() is None
    monkeypatch.undo()
    for user in (columns, encoding, helpers):
        user.vectors.cache_clear()
    assert tree.releases_lock(8) and helpers.vectors()
