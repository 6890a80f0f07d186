"""The prover's hashing: SHA-256 in vectors and by hashlib, and the tree over both."""

from __future__ import annotations

import hashlib
import importlib.util

import numpy as np
import pytest

from enclaveml.zk.batch.prove import tree
from enclaveml.zk.batch.prove.parallel import pool

NUMBA = importlib.util.find_spec("numba") is not None

#: Words of a message: around a block's end (64 bytes less a mark and the 9 bytes of padding), of a node, and a long leaf.
WIDTHS = (1, 2, 12, 13, 14, 15, 16, 17, 29, 30, 130, 600)


@pytest.fixture(params=["vectors", "hashlib"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to hash, of which the one without numba is everybody's."""
    if request.param == "vectors" and not NUMBA:
        pytest.skip("numba is not installed")
    if request.param == "hashlib":
        monkeypatch.setattr(tree, "_vectors", lambda: None)
    assert (tree._vectors() is not None) == (request.param == "vectors")
    return request.param


@pytest.mark.parametrize("salt", [0, 16])
@pytest.mark.parametrize("width", WIDTHS)
def test_hashes(way: str, width: int, salt: int) -> None:
    """Rows of every length, in numbers that fill lanes and that don't, in a part of a wider array, with every second salt."""
    draw = np.random.default_rng(width)
    for count in (1, 7, 8, 21):
        rows = draw.integers(0, 2**32, (count, width + 3), dtype=np.uint32)[:, 1 : width + 1]
        salts = draw.integers(0, 256, (2 * count, salt), dtype=np.uint8)[1::2]
        salts.flags.writeable = False
        for mark in (tree.LEAF, tree.NODE):
            expected = [hashlib.sha256(bytes([mark]) + row.tobytes() + each.tobytes()).digest() for row, each in zip(rows, salts)]
            assert [found.tobytes() for found in tree.hashed(mark, rows, salts)] == expected


def test_constants() -> None:
    """FIPS 180-4's first and last ones."""
    if not NUMBA:
        pytest.skip("numba is not installed")
    from enclaveml.zk.batch.prove import sha256

    assert [hex(sha256.START[i]) for i in (0, 7)] == ["0x6a09e667", "0x5be0cd19"]
    assert [hex(sha256.CONSTANTS[i]) for i in (0, 63)] == ["0x428a2f98", "0xc67178f2"]


def test_tree(way: str) -> None:
    """Root and paths of more leaves than one thread takes, and of one."""
    hashes = np.random.default_rng(0).integers(0, 256, (2048, 32), dtype=np.uint8)
    with pool() as threads:
        made, single = tree.Tree(hashes, threads), tree.Tree(hashes[:1], threads)
    assert single.root == hashes[0].tobytes()
    level = [hashes[i].tobytes() for i in range(len(hashes))]
    positions = np.array([0, 5, 2047, 5])
    siblings = []
    while len(level) > 1:
        siblings.append([level[(p >> len(siblings)) ^ 1] for p in positions])
        level = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2])]
    assert made.root == level[0]
    assert [found.tobytes() for found in made.paths(positions)] == [b"".join(each) for each in zip(*siblings)]


def test_no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba the prover hashes by hashlib."""
    import sys

    monkeypatch.setitem(sys.modules, "enclaveml.zk.batch.prove.sha256", None)
    assert tree._vectors.__wrapped__() is None


def test_vectors_that_fail_when_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or that hash otherwise: hashlib does it."""
    sha256 = pytest.importorskip("enclaveml.zk.batch.prove.sha256")
    assert tree._vectors.__wrapped__() is sha256.hash_rows

    def fails(mark: int, rows: np.ndarray, salts: np.ndarray, found: np.ndarray) -> None:
        raise TypeError("No matching definition for argument type(s)")

    for hashes in (fails, lambda mark, rows, salts, found: sha256.hash_rows(mark + 1, rows, salts, found)):
        with monkeypatch.context() as patch:
            patch.setattr(sha256, "hash_rows", hashes)
            assert tree._vectors.__wrapped__() is None
