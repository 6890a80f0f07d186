"""The batch protocol's verifier: agreement with the reference prover, arithmetic, encodings, shapes, fuzzing."""

from __future__ import annotations

import random
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
from batch_reference import case
from batch_reference.messages import Prover
from batch_reference.network import Network, inputs
from batch_reference.numbers import F, evaluate
from batch_reference.numbers import eq as reference_eq
from batch_reference.numbers import interpolate as reference_interpolate
from batch_reference.rows import RowsProver
from batch_reference.trees import Tree, codeword
from batch_reference.weights import WeightsProver
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaveml.zk.batch.format import P
from enclaveml.zk.batch.verify import api, codeword as symbols, element, extension, field, lookups, multilinear
from enclaveml.zk.batch.verify.api import Rejected
from enclaveml.zk.batch.verify.element import Element
from enclaveml.zk.batch.verify.merkle import root_of
from enclaveml.zk.batch.verify.transcript import Transcript

#: Widths, shifts, rows: no hidden layer, one, several; one unit; no powers of two; equal and different shifts.
NETWORKS = [
    ((3, 2), (), 4), ((1, 1), (), 8), ((3, 4, 2), (6,), 4), ((5, 3, 1), (7,), 8), ((1, 1, 1), (5,), 16),
    ((5, 3, 4, 1, 2), (7, 6, 7), 8), ((2, 5, 3), (6,), 32), ((13, 3, 9), (9,), 4), ((14, 2, 2, 2), (9, 5), 4)]


@pytest.mark.parametrize(("widths", "shifts", "rows"), NETWORKS)
def test_honest_proofs_hold(widths: tuple[int, ...], shifts: tuple[int, ...], rows: int) -> None:
    network = case.network(widths, shifts)
    prover = RowsProver(network, network.key(rows), case.NONCE, inputs(rows, widths[0]))
    proof = prover.prove()
    assert len(proof) == api.proof_bytes(prover.key)
    case.verify(prover)
    weights = WeightsProver(network, prover.key).prove()
    assert len(weights) == api.weights_proof_bytes(prover.key)
    api.verify_weights(prover.key, weights)


def test_extreme_values_hold() -> None:
    """Sums at both ends of the quotients' range, activations at 0 and 255, inputs at both ends of int16."""
    weights = [[[127, -128], [127, -128], [-128, 127], [-128, 127], [0, -1]], [[-128], [-128], [127], [127], [127]]]
    network = Network(weights, [13, 0])
    key = network.key(4, -(2**15), 2**15 - 1, range_bits=11)
    x = [[-(2**15), 2**15 - 1], [2**15 - 1] * 2, [-(2**15)] * 2, [0, 0]]
    prover = RowsProver(network, key, b"", x)
    prover.prove()
    case.verify(prover)
    assert {a for row in prover.steps[0].a for a in row} >= {0, 255}


# Fixed vectors: the format can't change by accident.

#: Beginnings of the SHA-256 of the rows' and the weights' proofs of NETWORKS' first four.
DIGESTS = {
    (3, 2): ("d4d6dd80c28ad3e7", "bf58e2697229f833"),
    (1, 1): ("cca65295ff79c071", "c8bfac752dab77ce"),
    (3, 4, 2): ("33e6bb3b4ed37e0f", "520dc7badf95926f"),
    (5, 3, 1): ("6b267561a7d2d075", "da670868b301f4e6"),
}
TRANSCRIPT = (608065713, 1105279746, 1933141338, 1781362406, 291117143)
CODEWORD = [5, 1064413521, 105159090, 989457443]
ROOT = "6a154569a72456ee59282a4b3ad6c9eac67f71736f2823d5fd21129dd17fde1f"


def test_the_proofs_of_fixed_statements() -> None:
    digests = {}
    for widths, shifts, rows in NETWORKS[:4]:
        network = case.network(widths, shifts)
        prover = RowsProver(network, network.key(rows), case.NONCE, inputs(rows, widths[0]))
        weights = WeightsProver(network, prover.key).prove()
        digests[widths] = (sha256(prover.prove()).hexdigest()[:16], sha256(weights).hexdigest()[:16])
    assert digests == DIGESTS


def test_the_transcript() -> None:
    transcript, reference = Transcript(), Prover()
    assert transcript.state.hex() == sha256(b"enclaveml-batch-1").hexdigest()
    transcript.absorb("a", b"xyz")
    by_hand = sha256(b"A" + sha256(b"enclaveml-batch-1").digest() + b"\1\0a" + b"\3" + bytes(7) + b"xyz").digest()
    assert transcript.state == by_hand
    reference.absorb("a", b"xyz")
    drawn = transcript.elements("b", 3)
    assert [e.c for e in drawn] == [e.c for e in reference.draw("b", 3)]
    state = sha256(b"C" + by_hand + b"\1\0b" + b"\x0f" + bytes(7)).digest()
    block = sha256(b"X" + state + bytes(8)).digest()
    assert drawn[0].c[1] == int.from_bytes(block[8:16], "little") % P
    assert drawn[0].c == TRANSCRIPT
    assert field.canonical(transcript.array("c", 2)).T.tolist() == [list(e.c) for e in reference.draw("c", 2)]
    assert transcript.positions("d", 5, 64) == [word % 64 for word in reference.words("d", 5)]
    before = transcript.state
    assert transcript.elements("e", 0) == [] and reference.draw("e", 0) == []
    assert before != transcript.state == reference.state


def test_a_codeword_and_its_tree() -> None:
    column = [1, 2, 3, P - 1]
    word = codeword(column)
    w = pow(31, (P - 1) // 16, P)
    assert word == [sum(c * pow(w, i * k, P) for k, c in enumerate(column)) % P for i in range(16)]
    assert word[:4] == CODEWORD
    tree = Tree([word, word[::-1]])
    assert tree.root.hex() == ROOT
    for position in range(16):
        opened = tree.opened(position)
        assert root_of(opened[:8], position, opened[8:]) == tree.root
        assert root_of(opened[:8], position ^ 1, opened[8:]) != tree.root


# Arithmetic against Python integers.

COORDINATE = st.sampled_from([0, 1, 2, P // 2, P // 2 + 1, P - 1]) | st.integers(0, P - 1)
ELEMENT = st.tuples(*[COORDINATE] * 5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(ELEMENT, ELEMENT), min_size=1, max_size=7))
def test_extension(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    left, right = [Element(a) for a, _ in pairs], [Element(b) for _, b in pairs]
    expected = [(F(*a) * F(*b)).c for a, b in pairs]
    assert [(a * b).c for a, b in zip(left, right, strict=True)] == expected
    lefts, rights = extension.array(left), extension.array(right)
    product = extension.multiply(lefts, rights)
    assert abs(product).max() <= field.SMALL
    assert [extension.element(v).c for v in product.T] == expected
    assert extension.inner(lefts, rights).c == sum((F(*c) for c in expected), F(0)).c
    assert [extension.element(v).c for v in extension.by_x(lefts).T] == [(F(*a) * F(0, 1)).c for a, _ in pairs]
    assert [extension.element(v).c for v in extension.frobenius(lefts, 1).T] == [(F(*a) ** P).c for a, _ in pairs]
    if all(any(a) for a, _ in pairs):
        inverses = extension.inverse(lefts)
        assert [extension.element(v).c for v in inverses.T] == [F(*a).inverse().c for a, _ in pairs]
    else:
        with pytest.raises(ZeroDivisionError):
            extension.inverse(lefts)


def test_the_worst_product_does_not_overflow() -> None:
    for signs in (1, -1):
        ends = np.full((5, 1), field.SMALL, np.int64)
        result = extension.multiply(ends, signs * ends)
        expected = F(*[field.SMALL] * 5) * F(*[signs * field.SMALL] * 5)
        assert extension.element(result[:, 0]).c == expected.c
    assert 9 * field.SMALL**2 < 2**63


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=20))
def test_reduction(values: list[int]) -> None:
    result = field.small(np.array(values, np.int64))
    assert abs(result).max() <= field.SMALL
    assert (result % P).tolist() == [value % P for value in values]


@pytest.mark.parametrize("terms", [1, 3, 273, 274, 1000])
@pytest.mark.parametrize("largest", [0, 127, 2**15, 2**15 + 1, 2**16, P // 2, 2**31 - 1])
def test_matrix_products_are_exact(terms: int, largest: int) -> None:
    draw = random.Random(terms + largest)
    left = [[draw.choice([field.SMALL, -field.SMALL, draw.randint(-field.SMALL, field.SMALL)]) for _ in range(terms)]
            for _ in range(2)]
    right = [[draw.choice([largest, -largest, draw.randint(-largest, largest)]) for _ in range(3)] for _ in range(terms)]
    left[0], right[0] = [field.SMALL] * terms, [largest] * 3
    for row in right:
        row[0] = largest  # all terms of one sign: the largest sum
    found = field.product(np.array(left), np.array(right))
    assert abs(found).max() <= field.SMALL
    assert (found % P).tolist() == [[sum(row[k] * right[k][c] for k in range(terms)) % P for c in range(3)] for row in left]


@pytest.mark.parametrize("length", [4, 8, 256, 1024])
def test_symbols_are_the_codewords(length: int) -> None:
    draw = random.Random(length)
    columns = [[draw.randrange(P) for _ in range(length)], [P // 2] * length, [P // 2 + 1] * length]
    positions = [0, 1, 4 * length - 1, *(draw.randrange(4 * length) for _ in range(20)), 1]
    found = symbols.symbols(field.small(np.array(columns)), positions)
    words = [codeword(column) for column in columns]
    assert (found % P).tolist() == [[word[position] for position in positions] for word in words]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(ELEMENT, min_size=0, max_size=4), st.integers(0, 2**32))
def test_multilinear_extensions(point: list[tuple[int, ...]], seed: int) -> None:
    draw = random.Random(seed)
    t, reference = [Element(c) for c in point], [F(*c) for c in point]
    table = multilinear.eq_table(t)
    count = 2 ** len(t)
    assert [extension.element(v).c for v in table.T] == [reference_eq(reference, i).c for i in range(count)]
    used = draw.randint(1, count)
    assert multilinear.ones(table, used).c == evaluate([1] * used, reference).c
    other = [Element(tuple(draw.randrange(P) for _ in range(5))) for _ in t]
    expected = sum((reference_eq(reference, i) * reference_eq([F(*o.c) for o in other], i) for i in range(count)), F(0))
    assert multilinear.eq(t, other).c == expected.c
    matrix = [[draw.randint(-(2**31) + 1, 2**31 - 1) for _ in range(used)] for _ in range(count)]
    value = evaluate([evaluate(row, reference) for row in matrix], reference)
    assert multilinear.evaluate(np.array(matrix), table, table).c == value.c


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(ELEMENT, min_size=3, max_size=5), ELEMENT, st.integers(0, 40))
def test_scalars(values: list[tuple[int, ...]], point: tuple[int, ...], exponent: int) -> None:
    expected = reference_interpolate([F(*c) for c in values], F(*point))
    assert element.interpolate([Element(c) for c in values], Element(point)).c == expected.c
    assert element.power(Element(point), exponent).c == (F(*point) ** exponent).c
    assert (3 - Element(point)).c == (3 - F(*point)).c and Element(point).to_bytes() == F(*point).to_bytes()


@settings(max_examples=5, deadline=None, derandomize=True)
@given(ELEMENT, ELEMENT, st.integers(0, 2**32))
def test_the_tables_sums(alpha: tuple[int, ...], beta: tuple[int, ...], seed: int) -> None:
    alpha = (*alpha[:4], alpha[4] or 1)  # no entry of the table without beta has a coordinate there
    key = case.network((2, 1, 2, 1, 1), (3, 2, 3)).key(4, range_bits=9)
    draw = random.Random(seed)
    counts = [draw.randrange(P) for _ in range(key.entries)]
    prints = [F(q) + F(*beta) * min(max(q, 0), 255) for q in range(-512, 512)]
    prints += [F(*beta) * F(*beta) * shift + r for shift in (2, 3) for r in range(2**shift)]
    assert len(prints) == len(counts)
    expected = sum(((F(*alpha) - entry).inverse() * count for entry, count in zip(prints, counts, strict=True)), F(0))
    found = lookups.rows_sum(key, field.small(np.array(counts)), Element(alpha), Element(beta))
    assert found.c == expected.c


def test_a_challenge_on_the_table_is_refused() -> None:
    key, counts = case.key(), np.zeros(case.key().entries, np.int64)
    beta = Element((3, 1, 4, 1, 5))
    for alpha in (Element.of(-1), 7 + beta * 7, beta * beta * 6 + 63):
        with pytest.raises(Rejected, match="^lookups: a challenge is an entry of the table$"):
            lookups.rows_sum(key, counts, alpha, beta)
    with pytest.raises(Rejected, match="^lookups: a challenge is an entry of the table$"):
        lookups.weights_sum(np.zeros(256, np.int64), Element.of(-128))


# Encodings and shapes.


@pytest.fixture(scope="module")
def prover() -> RowsProver:
    return case.honest()


@pytest.fixture(scope="module")
def weights() -> bytes:
    return WeightsProver(case.network(), case.key()).prove()


def _check(prover: RowsProver, proof: bytes, kind: str) -> None:
    if kind == "rows":
        case.verify(prover, proof)
    else:
        api.verify_weights(prover.key, proof)


@pytest.mark.parametrize("kind", ["rows", "weights"])
def test_numbers_that_are_not_canonical(prover: RowsProver, weights: bytes, kind: str) -> None:
    """Every message's first and last number with p added: the same element, another encoding."""
    maker = prover if kind == "rows" else WeightsProver(case.network(), case.key())
    proof = prover.proof if kind == "rows" else maker.prove()
    _check(prover, proof, kind)
    for label, begin, end in maker.sent:
        if label in ("columns", "helpers", "leaves"):
            continue
        for at in (begin, end - 4):
            number = int.from_bytes(proof[at:at + 4], "little") + P
            assert number < 2**32
            with pytest.raises(Rejected, match=r"^encoding: a number of the .* is not below p$"):
                _check(prover, proof[:at] + number.to_bytes(4, "little") + proof[at + 4:], kind)


def test_leaves_that_are_not_canonical() -> None:
    class Lying(RowsProver):
        def spoil(self, label: str, codewords: list[list[int]]) -> list[list[int]]:
            return [[v + P for v in word] for word in codewords] if label == "columns" else codewords

    lying = Lying(case.network(), case.key(), case.NONCE, inputs(4, 3))
    lying.prove()
    with pytest.raises(Rejected, match="^encoding: a number of the columns's leaves is not below p$"):
        case.verify(lying)


@pytest.mark.parametrize("kind", ["rows", "weights"])
def test_other_lengths(prover: RowsProver, weights: bytes, kind: str) -> None:
    proof = prover.proof if kind == "rows" else weights
    for other in (b"", proof[:-1], proof[:-4], proof[4:], proof + b"\0", proof * 2, proof[:20]):
        with pytest.raises(Rejected, match=f"^length: {len(other)} bytes where a proof of this key has {len(proof)}$"):
            _check(prover, other, kind)
    for other in ("proof", bytearray(proof), 7):
        with pytest.raises(Rejected, match="^encoding: a proof is bytes, not "):
            _check(prover, other, kind)


def test_messages_in_another_order(prover: RowsProver) -> None:
    for (_, begin, middle), (_, _, end) in zip(prover.sent, prover.sent[1:], strict=False):
        proof = prover.proof
        with pytest.raises(Rejected):
            case.verify(prover, proof[:begin] + proof[middle:end] + proof[begin:middle] + proof[end:])
    with pytest.raises(Rejected):
        case.verify(prover, prover.proof[::-1])
    q, a = next((begin, begin + 20) for label, begin, _ in prover.sent if label == "claims")
    with pytest.raises(Rejected, match="^activation of layer 1: "):
        case.verify(prover, prover.proof[:q] + prover.proof[a:a + 20] + prover.proof[q:a] + prover.proof[a + 20:])


def test_shapes_and_values_that_lie(prover: RowsProver) -> None:
    x, y = np.array(prover.x), np.array(prover.y)

    def refused(x: object, y: object, reason: str) -> None:
        with pytest.raises(Rejected) as caught:
            api.verify(prover.key, prover.nonce, x, y, prover.proof)
        assert str(caught.value) == reason

    for other in (x[:3], x[:, :2], x.T, x[None], x.ravel(), np.concatenate([x, x]), x[:0], np.ones((), int)):
        refused(other, y, f"inputs: the shape is {other.shape} where the key's is (4, 3)")
    for other in (y[:3], y[:, :1], y.T, np.concatenate([y, y]), np.broadcast_to(y, (2, 4, 2))):
        refused(x, other, f"outputs: the shape is {other.shape} where the key's is (4, 2)")
    for other in (x.tolist(), None, x.astype(float), x.astype(bool), x.astype(object), x.astype(str), 5):
        refused(other, y, "inputs: not an array of integers")
        refused(x, other, "outputs: not an array of integers")
    high = x.copy()
    high[0, 0] = 128
    refused(high, y, f"inputs: from {high.min()} to 128, beyond -128 to 127")
    huge = y.astype(np.uint64)
    refused(x, huge, f"outputs: from {huge.min()} to {huge.max()}, beyond -1006632960 to 1006632960")
    wide = y.copy()
    wide[0, 0] += P
    refused(x, wide, f"outputs: from {wide.min()} to {wide.max()}, beyond -1006632960 to 1006632960")
    refused(np.ma.masked_greater(high, 127), y, f"inputs: from {high.min()} to 128, beyond -128 to 127")
    api.verify(prover.key, prover.nonce, np.asfortranarray(x.astype(np.int8)), y.astype(">i4"), prover.proof)


def test_a_number_of_rows_that_lies(prover: RowsProver) -> None:
    eight = case.key(8)
    x, y = np.array(prover.x * 2), np.array(prover.y * 2)
    with pytest.raises(Rejected, match="^length: "):
        api.verify(eight, prover.nonce, x, y, prover.proof)
    padded = prover.proof + bytes(api.proof_bytes(eight) - len(prover.proof))
    with pytest.raises(Rejected, match="^(layers|encoding): "):
        api.verify(eight, prover.nonce, x, y, padded)
    # Twice the rows of a proof of four: as good as no proof of eight.
    more = case.honest(8)
    with pytest.raises(Rejected, match="^layers: "):
        api.verify(eight, more.nonce, x, y, more.proof)


# Fuzzing.

SPAN = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 64))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.booleans(), st.lists(st.tuples(SPAN, st.integers(0, 3), st.binary(min_size=64, max_size=64)), min_size=1, max_size=4))
def test_any_change_is_rejected_and_nothing_else(prover: RowsProver, weights: bytes, of_weights: bool, changes: list) -> None:
    whole = weights if of_weights else prover.proof
    proof = bytearray(whole)
    for (where, count), how, data in changes:
        at = int(where * len(proof))
        span = slice(at, min(at + count, len(proof)))
        size = span.stop - span.start
        proof[span] = {0: data[:size], 1: bytes(size), 2: b"\xff" * size, 3: bytes(proof[:size])}[how]
    if bytes(proof) == whole:
        _check(prover, bytes(proof), "weights" if of_weights else "rows")
        return
    with pytest.raises(Rejected):
        _check(prover, bytes(proof), "weights" if of_weights else "rows")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 2**32))
def test_any_bytes_of_the_right_length(prover: RowsProver, seed: int, of_weights: bool, below: int) -> None:
    length = (api.weights_proof_bytes if of_weights else api.proof_bytes)(prover.key)
    data = np.random.default_rng(seed).integers(0, below, length // 4, dtype=np.uint64).astype("<u4").tobytes()
    with pytest.raises(Rejected):
        _check(prover, data, "weights" if of_weights else "rows")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(max_size=300))
def test_any_bytes(prover: RowsProver, data: bytes) -> None:
    for kind in ("rows", "weights"):
        with pytest.raises(Rejected, match="^length: "):
            _check(prover, data, kind)


def test_the_verifier_needs_numpy_alone() -> None:
    code = ("import sys, enclaveml.zk.batch.verify.api\n"
            "print([m for m in ('jax', 'scipy', 'flax', 'mpi4py', 'h5py', 'ezkl', 'numba') if m in sys.modules],\n"
            "      [m for m in sys.modules if m.startswith('enclaveml.zk.batch.prove')])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[] []\n"
