"""The batch prover against the verifier and the slow reference prover, which share no code with it; and its misuse."""

from __future__ import annotations

import hashlib
from functools import cache
from types import ModuleType

import numpy as np
import pytest
from batch_reference.network import Network, inputs
from batch_reference.rows import RowsProver
from batch_reference.weights import WeightsProver

from enclaveml.zk.batch.format import Layer, VerificationKey
from enclaveml.zk.batch.prove import columns, encoding, extension, helpers, rows_chunks
from enclaveml.zk.batch.prove.api import BatchProver, commit_weights, prove_weights_range
from enclaveml.zk.batch.prove.memory import memory_bytes
from enclaveml.zk.batch.verify.api import Rejected, verify, verify_weights

#: Three hidden layers, widths that are no powers of two, one of a single unit, two shifts; rows in four chunks.
WIDTHS, SHIFTS, ROWS = (5, 3, 6, 1, 2), (7, 6, 7), 32
NONCE = b"job 7, round 3, rank 1, rows 0 to 31"


@cache
def network(widths: tuple[int, ...] = WIDTHS, shifts: tuple[int, ...] = SHIFTS) -> Network:
    return Network.random(list(widths), list(shifts))


def weights(given: Network) -> list[np.ndarray]:
    return [np.array(layer, np.int32) for layer in given.weights]


@cache
def key(widths: tuple[int, ...] = WIDTHS, shifts: tuple[int, ...] = SHIFTS, rows: int = ROWS) -> VerificationKey:
    return network(widths, shifts).key(rows)


@cache
def prover() -> BatchProver:
    """Compiled once for all tests of this file."""
    return BatchProver(key(), weights(network()))


@cache
def proved() -> tuple[np.ndarray, np.ndarray, bytes]:
    """x, y and the proof."""
    x = np.array(inputs(ROWS, WIDTHS[0]), np.int32)
    return x, *prover().prove(x, NONCE)


def test_a_proof_is_the_reference_s_byte_by_byte() -> None:
    x, y, proof = proved()
    reference = RowsProver(network(), key(), NONCE, x.tolist())
    assert reference.prove() == proof
    assert y.dtype == np.int64 and y.tolist() == reference.y
    verify(key(), NONCE, x, y, proof)


def test_the_rows_rounds_are_the_same_jitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few rows are numpy's: all rounds by the programs that more rows take, in chunks and in tiers."""
    x, _, proof = proved()
    monkeypatch.setattr(helpers, "vectors", lambda: None)
    monkeypatch.setattr(rows_chunks, "SMALL", 0)
    monkeypatch.setattr(rows_chunks, "SMALL_VECTORS", 0)
    assert prover().prove(x, NONCE)[1] == proof


@pytest.mark.parametrize("without", [(columns,), (encoding,), (extension,), (helpers,), (columns, encoding, extension, helpers)])
def test_a_proof_without_numba_is_the_same(monkeypatch: pytest.MonkeyPatch, without: tuple[ModuleType, ...]) -> None:
    x, _, proof = proved()
    for module in without:
        monkeypatch.setattr(module, "vectors", lambda: None)
    assert prover().prove(x, NONCE)[1] == proof


def test_the_weights_proof_is_the_reference_s_byte_by_byte() -> None:
    proof = prove_weights_range(key(), weights(network()))
    assert proof == WeightsProver(network(), key()).prove()
    verify_weights(key(), proof)


def test_roots_are_the_key_s() -> None:
    roots, committed = commit_weights(weights(network()))
    assert roots == key().roots and [layer.root for layer in committed] == list(roots)


def test_the_next_batch_is_proved_by_what_is_compiled() -> None:
    x, y, proof = proved()
    other = x[::-1].copy()
    theirs, second = prover().prove(other, b"another nonce")
    assert theirs.tolist() == y[::-1].tolist()
    verify(key(), b"another nonce", other, theirs, second)
    for wrong in ((NONCE, other, theirs, second), (NONCE, x, y, second), (b"another nonce", other, theirs, proof)):
        with pytest.raises(Rejected):
            verify(key(), *wrong)
    assert prover().prove(x, NONCE)[1] == proof  # nothing is drawn but from the transcript


def test_a_network_without_hidden_layers() -> None:
    widths: tuple[int, ...] = (3, 2)
    given = key(widths, (), 16)
    x = np.array(inputs(16, 3), np.int16)
    y, proof = BatchProver(given, weights(network(widths, ()))).prove(x, b"")
    assert proof == RowsProver(network(widths, ()), given, b"", x.tolist()).prove()
    verify(given, b"", x, y, proof)


def test_proofs_stay_what_they_are() -> None:
    """Test vectors: whoever changes the bytes changes the protocol, and says so by the format's name."""
    x, _, proof = proved()
    assert hashlib.sha256(x.astype("<i2").tobytes() + key().to_bytes()).hexdigest() == (
        "6105c4410332cbd100d28c25d249fa01b49e5830c607d14e54b46a4d719543d9")
    assert hashlib.sha256(proof).hexdigest() == "cf2cb293f93136acea1ff5fb257657a80fef51dd90b61f99fb63dff5f0331a8d"


@pytest.mark.parametrize(("x", "reason"), [
    (np.zeros((ROWS, 4), np.int32), r"inputs are int32 \(32, 4\); integers of the shape \(32, 5\) are expected"),
    (np.zeros((ROWS - 1, 5), np.int32), r"inputs are int32 \(31, 5\); integers of the shape \(32, 5\) are expected"),
    (np.zeros((ROWS, 5)), r"inputs are float64 \(32, 5\); integers of the shape \(32, 5\) are expected"),
    (np.full((ROWS, 5), 128), "inputs are between 128 and 128; the key allows -128 to 127"),
    (np.full((ROWS, 5), 2**32, np.int64), "inputs are between 4294967296 and 4294967296; the key allows -128 to 127"),
])
def test_inputs_that_are_not_the_key_s(x: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        prover().prove(x, NONCE)


def test_a_value_beyond_the_range_bits_is_told_with_its_row() -> None:
    given = Network([[[127]] * 2 + [[0]] * 3, [[1]] + [[0]] * 3], [4, 0])
    x = np.zeros((8, 2), np.int32)
    x[5] = 127
    with pytest.raises(ValueError, match=r"^row 5, layer 1: a rescaled value is 2016, outside \[-2\^10, 2\^10\): "
                                         "calibrate the scales on rows like it, or raise the range bits$"):
        BatchProver(given.key(8), weights(given)).prove(x, NONCE)


@pytest.mark.parametrize(("change", "reason"), [
    (lambda w: [w[0] * 2, *w[1:]], "layer 1: weights are between -2.. and 2..; -128 to 127 is expected"),
    (lambda w: [w[0].astype(float), *w[1:]], "layer 1: weights are float64; integers are expected"),
    (lambda w: [w[0][:, 0], *w[1:]], r"layer 1: weights have the shape \(8,\); \(K \+ 3, M\) is expected: .*"),
    (lambda w: [w[0][1:], *w[1:]], r"weights have the shapes \[\(7, 3\), .*\]; the key's are \[\(8, 3\), .*\]"),
    (lambda w: w[:-1], r"weights have the shapes \[.*\]; the key's are \[.*\]"),
    (lambda w: [*w[:-1], -w[-1].clip(-127)], "layer 4: the root of these weights is [0-9a-f]{64}; the key has [0-9a-f]{64}"),
])
def test_weights_that_are_not_the_key_s(change, reason: str) -> None:
    for misuse in (BatchProver, prove_weights_range):
        with pytest.raises(ValueError, match=f"^{reason}$"):
            misuse(key(), change(weights(network())))


def test_the_memory_foreseen_is_what_was_measured() -> None:
    """Resident peaks of ``benchmarks.batch`` in bytes: never foreseen too small, nor by more than a fifth too large."""
    for widths, n, measured in (((64, 32, 10), 1024, 0.51e9), ((64, 32, 10), 16384, 0.76e9),
                                ((4, 1000, 1000, 1000, 1000, 1000, 3), 1024, 2.08e9)):
        layers = tuple(Layer(k, m, 8 * (i < len(widths) - 2)) for i, (k, m) in enumerate(zip(widths, widths[1:])))
        found = memory_bytes(VerificationKey(n, -128, 127, layers, 12, (bytes(32),) * len(layers)))
        assert measured <= found <= 1.2 * measured
