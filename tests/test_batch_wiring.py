"""Layers that read maps, several arrays and residuals: what a key may say, the prover against the reference, and provers that wire otherwise."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from batch_reference import case, rows
from batch_reference.case import Carried
from batch_reference.network import Network, Step, inputs
from batch_reference.numbers import F
from batch_reference.rows import RowsProver
from batch_reference.weights import WeightsProver

from enclaveml.zk.batch.format import MOST_WIDTH, Layer, VerificationKey, Wiring
from enclaveml.zk.batch.integer import IntegerLayer, IntegerModel
from enclaveml.zk.batch.prove import inference
from enclaveml.zk.batch.prove.api import BatchProver, prove_weights_range
from enclaveml.zk.batch.verify import api
from enclaveml.zk.batch.verify.api import Rejected

NETWORKS = {
    "all of it": (case.wired(), 18, 8),
    "one layer": (Network.of([(4, 3)], [0], {1: (Wiring(0, (3, 4, 1), (1, 1), (2, 2), (1, 2)),)}, {}), 12, 4),  # of several positions
}
WIDTH = 18


@pytest.fixture(scope="module", params=NETWORKS)
def example(request: pytest.FixtureRequest) -> tuple[Network, VerificationKey, np.ndarray]:
    network, width, n = NETWORKS[request.param]
    return network, network.key(n, range_bits=11), np.array(inputs(n, width), np.int32)


def weights(network: Network) -> list[np.ndarray]:
    return [np.array(layer, np.int32) for layer in network.weights]


def test_a_proof_is_the_reference_s_byte_by_byte_and_holds(example: tuple) -> None:
    network, key, x = example
    y, proof = BatchProver(key, weights(network)).prove(x, case.NONCE)
    reference = RowsProver(network, key, case.NONCE, x.tolist())
    assert reference.prove() == proof and y.tolist() == reference.y
    api.verify(key, case.NONCE, x, y, proof)
    other = np.where(np.arange(y.size).reshape(y.shape) == y.size - 1, y + 1, y)
    with pytest.raises(Rejected):
        api.verify(key, case.NONCE, x, other, proof)


def test_the_weights_proof_is_the_reference_s(example: tuple) -> None:
    network, key, _ = example
    proof = prove_weights_range(key, weights(network))
    assert proof == WeightsProver(network, key).prove()
    api.verify_weights(key, proof)


def test_quantiser_and_prover_compute_the_same(example: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    network, key, x = example
    layers = tuple(IntegerLayer(np.array(w, np.int8), shape.shift, shape.wirings, shape.residual)
                   for w, shape in zip(network.weights, key.layers, strict=True))
    model = IntegerModel(layers, 0, 0, key.input_low, key.input_high)
    truth = network.run(x.tolist())[-1].z
    assert model.run(x).tolist() == truth and model.key(key.rows, key.roots).layers == key.layers
    monkeypatch.setattr(inference, "_PATCHES", 100)  # rows in portions
    assert inference.infer(key, weights(network), x).outputs.tolist() == truth
    monkeypatch.setattr(inference, "_WORTHWHILE", 0)  # products cut in pieces
    assert inference.infer(key, weights(network), x).outputs.tolist() == truth


def test_range_bits_hold_every_input() -> None:
    network, key = case.wired(), case.wired_key()
    layers = tuple(IntegerLayer(np.array(w, np.int8), shape.shift, shape.wirings, shape.residual)
                   for w, shape in zip(network.weights, key.layers, strict=True))
    model = IntegerModel(layers, 0, 0, -128, 127)
    draw = np.random.default_rng(3)
    q = [step.q for step in network.run(draw.choice([-128, 127], (300, WIDTH)).tolist())[:-1]]
    bits = model.range_bits
    assert all(-(2**bits) <= v < 2**bits for layer in q for row in layer for v in row)
    # Of the first layer the extremes are reached: one cell in the middle reads nine inputs.
    corner = [max(abs(v) for row in Network(network.weights, network.shifts, network.wirings, network.residuals).run(
        [np.where(np.array(pattern) > 0, 127, -128).tolist()])[0].q for v in row) for pattern in _patterns(network)]
    alone = IntegerModel((layers[0], IntegerLayer(np.zeros((21, 1), np.int8), 0)), 0, 0, -128, 127).range_bits
    assert 2 ** (alone - 1) <= max(corner) <= 2**alone


def _patterns(network: Network) -> list[list[int]]:
    """Inputs that reach the largest and least sum of a cell that reads no zero, of each channel."""
    found = []
    (_, positions), = network.reads(1, WIDTH)
    cells = next(cells for cells in positions if all(cells))
    for channel in range(2):
        for sign in (1, -1):
            row = [0] * WIDTH
            for (u,), matrix in zip(cells, network.weights[0]):
                row[u] = sign * matrix[channel]
            found.append(row)
    return found


# Keys.

KEY = case.wired_key()


def test_a_key_comes_back() -> None:
    assert VerificationKey.from_bytes(KEY.to_bytes()) == KEY
    first = json.loads(KEY.to_bytes())["layers"][0]
    assert first == [9, 2, 6, {"residual": None, "wirings": [[0, [6, 3, 1], [1, 1], [3, 3], [2, 1], [1, 1, 1, 1], None]]}]
    assert [layer.positions for layer in KEY.layers] == [9, 9, 9, 1] and KEY.units == 54 and KEY.width == 18
    largest = Wiring(14, (32, 32, 32), (10, 10), (3, 3), (10, 10), (2, 2, 2, 2), (9, 9))
    text = json.dumps(Layer(2**15, 2**15, 20, (largest,) * 15, (13, 20)).to_json())
    assert 15 * (len(text) + 70) < 2**15  # whatever a key says, its bytes are read


def changed(number: int, **change: object) -> tuple[Layer, ...]:
    return tuple(replace(layer, **change) if at == number else layer for at, layer in enumerate(KEY.layers, 1))


def rewired(number: int, **change: object) -> tuple[Layer, ...]:
    first, *more = KEY.layers[number - 1].wirings
    return changed(number, wirings=(replace(first, **change), *more))


@pytest.mark.parametrize(("layers", "reason"), [
    (rewired(1, source=1), "layer 1 reads the array 1: 0 to 0 are there"),
    (rewired(2, source=-1), "layer 2 reads the array -1: 0 to 1 are there"),
    (rewired(3, source=3), "layer 3 reads the array 3: 0 to 2 are there"),
    (rewired(2, source=0, shape=(3, 5, 2)), "layer 2 reads 30 features of array 0, which has 18"),
    (rewired(2, source=True), "a size is not an integer"),
    (rewired(2, shape=(3, 3, 2.0)), "a size is not an integer"),
    (rewired(2, shape=(3, 3)), "layer 2: a wiring is not of the right form"),
    (rewired(2, shape=[3, 3, 2]), "layer 2: a wiring is not of the right form"),
    (rewired(2, pads=(0, 0)), "layer 2: a wiring is not of the right form"),
    (rewired(2, shape=(0, 3, 2)), f"layer 2: a wiring's size is not 1 to {MOST_WIDTH}"),
    (rewired(1, shape=(2**10, 2**10, 1)), f"layer 1: a wiring's size is not 1 to {MOST_WIDTH}"),
    (rewired(2, stride=(0, 1)), f"layer 2: a wiring's size is not 1 to {MOST_WIDTH}"),
    (rewired(2, stride=(2**40, 1)), f"layer 2: a wiring's size is not 1 to {MOST_WIDTH}"),
    (rewired(2, pads=(3, 1, 1, 1)), "layer 2: zeros around a map are 0 to the kernel's size less 1"),
    (rewired(2, pads=(-1, 1, 1, 1)), "layer 2: zeros around a map are 0 to the kernel's size less 1"),
    (rewired(2, kernel=(6, 3)), "layer 2: a window is larger than the map"),
    (rewired(4, pool=(4, 3)), "layer 4: a window is larger than the map"),
    (rewired(4, cell=(2, 0)), "layer 4: the cell of a window is not in it"),
    (rewired(4, cell=(0, -1)), "layer 4: the cell of a window is not in it"),
    (rewired(2, cell=(0, 0)), "layer 2: the cell of a window is not in it"),
    (rewired(4, cell=(0,)), "layer 4: a wiring is not of the right form"),
    (rewired(4, cell=(0, False)), "a size is not an integer"),
    (rewired(3, kernel=(2, 2)), "layer 3 reads arrays at different numbers of positions"),
    (rewired(2, kernel=(1, 7), shape=(9, 1, 2), pads=(0, 3, 0, 3)), "layer 2: its wirings do not read 18 inputs"),
    (changed(3, outputs=3), "layer 3 has 27 features, array 1, which is added, 18"),
    (changed(2, inputs=19), "layer 2: its wirings do not read 19 inputs"),
    (changed(2, wirings=(), inputs=17), "a layer has 18 outputs, the next 17 inputs"),
    (changed(3, residual=(3, 1)), "layer 3 adds the array 3: 0 to 2 are there"),
    (changed(4, residual=(0, 1)), "layer 4 has 2 features, array 0, which is added, 18"),
    (changed(3, residual=(1, 21)), "layer 3: a residual's exponent is 0 to 20"),
    (changed(3, residual=(1, -1)), "layer 3: a residual's exponent is 0 to 20"),
    (changed(3, residual=(1,)), "layer 3: a residual is an array and an exponent"),
    (changed(3, residual=(1, True)), "a size is not an integer"),
    (changed(3, wirings=KEY.layers[2].wirings * 8), "layer 3 reads 16 arrays; 15 are allowed"),
    (changed(3, wirings=list(KEY.layers[2].wirings)), "the wirings are Wirings"),
    (changed(3, wirings=((2, (3, 3, 2)),)), "the wirings are Wirings"),
    ((Layer(18, 3, 1), Layer(3, 3, 1, (Wiring(1, (1, 1, 3)),)), Layer(3, 1, 1), Layer(1, 1, 0)), "layer 2: a dense layer's wiring is left out"),
    ((Layer(18, 3, 1), Layer(18, 3, 1, (Wiring(0, (1, 1, 18)),)), Layer(3, 1, 1), Layer(1, 1, 0)), "layer 1 is read by none"),
    ((Layer(1, 2, 1, (Wiring(0, (1, 2**15, 1)),)), Layer(2, 1, 1), Layer(1, 1, 1), Layer(1, 1, 0)), "layer 1 has too many positions"),
    ((Layer(2**9, 1, 1, (Wiring(0, (1, 2**14, 1), (1, 1), (1, 2**9)),)), Layer(15873, 1, 1), Layer(1, 1, 1), Layer(1, 1, 0)),
     "layer 1 has too many positions"),
])
def test_a_wiring_that_cannot_be_is_refused(layers: tuple[Layer, ...], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(KEY, layers=layers)
    assert str(caught.value) == reason


def test_nothing_wraps_with_windows_and_residuals() -> None:
    def key(exponent: int, cells: int) -> VerificationKey:
        wirings = (Wiring(1, (cells, 1, 120 // cells), (cells, 1)),) if cells > 1 else ()
        layers = (Layer(1, 120, 20), Layer(120 // cells, 120, 0, wirings, (1, exponent)))
        return VerificationKey(4, 0, 1, layers, 0, (bytes(32),) * 2)

    # 120 * 128 * 255 + 128 * (1 + 2^8 + 2^16) = 12,338,304; with 255 * 2^20 = 267,386,880 still below p/2 = 1,006,632,960.
    for cells in (1, 120):
        key(20, cells)
    wide = (Layer(1, 2**15 - 6000, 20), Layer((2**15 - 6000) // 4, 1, 0, (Wiring(1, (4, 1, (2**15 - 6000) // 4), (4, 1)),)))
    VerificationKey(4, 0, 1, wide, 0, (bytes(32),) * 2)  # 26768 * 128 * 255 + 8421504 = 882129408
    with pytest.raises(ValueError, match="^layer 2 could wrap"):
        wider = (Layer(1, 2**15, 20), replace(wide[1], inputs=2**13, wirings=(Wiring(1, (4, 1, 2**13), (4, 1)),)))
        VerificationKey(4, 0, 1, wider, 0, (bytes(32),) * 2)
    with pytest.raises(ValueError, match="^layer 2 could wrap"):
        more = (Layer(1, 2**15 - 6000, 20), Layer(2**15 - 6000, 2**15 - 6000, 0, (), (1, 19)))
        VerificationKey(4, 0, 1, more, 0, (bytes(32),) * 2)


TEXT = json.loads(KEY.to_bytes())


def _encoded(layer: object) -> bytes:
    return json.dumps({**TEXT, "layers": [*TEXT["layers"][:3], layer]}, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("layer", [
    [14, 2, 0, None], [14, 2, 0, {}], [14, 2, 0, []], [14, 2, 0, {"wirings": []}], [14, 2, 0, {"residual": None}],
    [14, 2, 0, {"residual": None, "wirings": []}], [18, 20, 0, {"residual": None, "wirings": []}],
    [14, 2, 0, {"residual": None, "wirings": None}], [14, 2, 0, {"residual": None, "wirings": [[]]}],
    [14, 2, 0, {"residual": 5, "wirings": TEXT["layers"][3][3]["wirings"]}], [14, 2, 0, {**TEXT["layers"][3][3], "more": 1}],
    [14, 2, 0, {"residual": "ab", "wirings": TEXT["layers"][3][3]["wirings"]}], [14, 2, 0, TEXT["layers"][3][3], 1],
    [14, 2, 0, {"residual": None, "wirings": [[3, [3, 3, 2], [2, 3], [1, 1], [1, 1], [0, 0, 0, 0]]]}], {"a": 1, "b": 2, "c": 3, "d": 4},
    [14, 2, 0, {"residual": None, "wirings": [[3, [3, 3, 2], [2, 3], [1, 1], [1, 1], [0, 0, 0, 0], None, [1]]]}],
    [14, 2, 0, {"residual": None, "wirings": [[3, "332", [2, 3], [1, 1], [1, 1], [0, 0, 0, 0], None]]}],
    [14, 2, 0, {"residual": None, "wirings": [[3, 3, [2, 3], [1, 1], [1, 1], [0, 0, 0, 0], None]]}], [14, 2], "abcd", None,
])
def test_other_layers_are_no_key(layer: object) -> None:
    with pytest.raises(ValueError, match="^not a batch verification key: "):
        VerificationKey.from_bytes(_encoded(layer))


# Provers that wire otherwise than the key.

PRODUCT = "product of layer {}: the claims are not what the rounds lead to"
EVALUATION = "{}'s opening: the evaluation is not the claim"
LEAF = "{}'s opening: a leaf is not on the evaluation combination"
#: By the depth to which a lie is carried on (``Carried``), where it is found: a false sum, of layer n.
SUMS = ((1, PRODUCT), (3, LEAF))


def refused(lying: RowsProver, reason: str) -> None:
    lying.prove()
    with pytest.raises(Rejected, match=f"^{re.escape(reason)}$"):
        case.verify(lying)


def edges(network: Network) -> Network:
    """Cells around a map are its nearest cells, not zero."""
    class Edges(Network):
        def reads(self, number: int, width: int) -> list:
            found = []
            for (source, positions), w in zip(super().reads(number, width), self.wirings.get(number, (None,))):
                near = [[cell or [w.shape[2] * (p % 3) + k % w.shape[2]] for k, cell in enumerate(cells)] for p, cells in enumerate(positions)]
                found.append((source, near))
            return found
    return Edges(network.weights, network.shifts, network.wirings, network.residuals)


def transposed(network: Network) -> Network:
    """Positions column by column, not row by row."""
    class Transposed(Network):
        def reads(self, number: int, width: int) -> list:
            return [(source, [positions[3 * (p % 3) + p // 3] for p in range(9)] if len(positions) == 9 else positions)
                    for source, positions in super().reads(number, width)]
    return Transposed(network.weights, network.shifts, network.wirings, network.residuals)


def swapped(number: int, which: int = 0, **change: object) -> Network:
    """One wiring of a layer another one."""
    network = case.wired()
    wirings = tuple(replace(w, **change) if at == which else w for at, w in enumerate(network.wirings[number]))
    return Network(network.weights, network.shifts, {**network.wirings, number: wirings}, network.residuals)


#: Networks that are not the key's, and the last and the first of the layers that compute something else than the key says.
OTHERS = {
    "zeros that are not": (edges(case.wired()), 2, 1),
    "positions permuted": (transposed(case.wired()), 3, 1),
    "another array": (swapped(3, source=1), 3, 3),
    "another map": (swapped(2, shape=(3, 3, 2), pads=(2, 1, 0, 1)), 2, 2),
    "another cell of a window": (swapped(3, 1, cell=(0, 0)), 3, 3),
    "another window": (swapped(4, pool=(3, 2), stride=(1, 1), kernel=(1, 1), shape=(3, 3, 2)), 4, 4),
    "a residual of another layer": (Network(case.wired().weights, case.wired().shifts, case.wired().wirings, {2: (0, 5), 3: (2, 3)}), 3, 3),
    "a residual twice": (Network(case.wired().weights, case.wired().shifts, case.wired().wirings, {2: (0, 5), 3: (1, 4)}), 3, 3),
    "no residual": (Network(case.wired().weights, case.wired().shifts, case.wired().wirings, {3: (1, 3)}), 2, 2),
}


@pytest.mark.parametrize("which", OTHERS)
def test_values_of_another_wiring(which: str) -> None:
    """What another network computes, said under this key: sums that are no products, or products of other weights."""
    other, last, first = OTHERS[which]

    class Lying(Carried):
        def infer(self) -> list[Step]:
            return other.run(self.x)

    for depth, reason in SUMS:
        lying = Lying(case.wired(), KEY, case.NONCE, inputs(4, WIDTH))
        lying.depth = depth
        refused(lying, reason.format(last if depth == 1 else f"weights of layer {first}"))


@pytest.mark.parametrize("which", ["positions permuted", "another array", "another map", "zeros that are not"])
def test_proofs_by_another_wiring(which: str) -> None:
    """Everything by another network, its claims too: the verifier holds the columns against the key's own wiring."""
    other = OTHERS[which][0]
    lying = RowsProver(other, KEY, case.NONCE, inputs(4, WIDTH))
    lying.prove()
    with pytest.raises(Rejected, match=f"^({re.escape(LEAF.format('columns'))}|product of layer .: .*)$"):
        case.verify(lying)


@pytest.mark.parametrize(("depth", "reason"), [(0, PRODUCT.format(3)), (2, EVALUATION.format("weights of layer 3")), (3, LEAF.format("columns"))])
def test_a_wrong_residual(depth: int, reason: str) -> None:
    class Lying(Carried):
        def say(self, label: str, values: list[F]) -> list[F]:
            return [values[0] + F(0, 1)] if label == "residual" else super().say(label, values)

    lying = Lying(case.wired(), KEY, case.NONCE, inputs(4, WIDTH))
    lying.depth = depth
    lying.prove()
    with pytest.raises(Rejected, match=f"^{re.escape(reason)}$|^{re.escape(EVALUATION.format('columns'))}$"):
        case.verify(lying)


@pytest.mark.parametrize(("depth", "reason"), [
    (0, "layers: their parts are not the rows' last claim"), (1, "activation of layer 1: the claims are not what the rounds lead to"),
    (2, EVALUATION.format("columns")), (3, LEAF.format("columns"))])
def test_places_that_no_feature_has_are_zero(depth: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rows.spaced

    def holes(layer: Layer, values: list) -> list:
        found = honest(layer, values)
        if layer.positions == 9 and any(value != 1 for value in values):
            found[-1] = values[0]
        return found

    monkeypatch.setattr(rows, "spaced", holes)
    lying = Carried(case.wired(), KEY, case.NONCE, inputs(4, WIDTH))
    lying.depth = depth
    refused(lying, reason)


@cache
def honest() -> RowsProver:
    prover = RowsProver(case.wired(), KEY, case.NONCE, inputs(4, WIDTH))
    prover.prove()
    return prover


def test_shapes_that_lie() -> None:
    """Under a key with the same weights and other wirings of the same sizes no proof holds."""
    case.verify(honest())
    first, second, third, (left, right) = (layer.wirings for layer in KEY.layers)
    for number, wirings in ((1, (replace(first[0], shape=(3, 6, 1), stride=(1, 2)),)), (2, (replace(second[0], pads=(2, 1, 0, 1)),)),
                            (3, (third[0], replace(third[1], cell=(0, 0)))),
                            (4, (replace(left, source=1), replace(right, source=3))), (4, (replace(left, pool=(3, 2)), right))):
        other = replace(KEY, layers=changed(number, wirings=wirings))
        assert api.proof_bytes(other) == len(honest().proof)
        lying = copy.copy(honest())
        lying.key = other
        with pytest.raises(Rejected):
            case.verify(lying)
        lying = RowsProver(case.wired(), KEY, case.NONCE, inputs(4, WIDTH))
        lying.statement = lambda at=lying, key=other: [(label, key.to_bytes() if label == "key" else data)
                                                       for label, data in RowsProver.statement(at)]
        lying.prove()
        lying.key = other
        with pytest.raises(Rejected):
            case.verify(lying)


@pytest.mark.parametrize("label", ["residual", "product claims", "product"])
def test_one_false_message(label: str) -> None:
    count = sum(said == label for said, _, _ in honest().sent)
    assert count
    for which in {0, count - 1}:
        class Lying(RowsProver):
            seen = 0

            def say(self, told: str, values: list[F], which: int = which) -> list[F]:
                if told != label:
                    return values
                self.seen += 1
                return [values[0] + F(0, 0, 1), *values[1:]] if self.seen == which + 1 else values

        lying = Lying(case.wired(), KEY, case.NONCE, inputs(4, WIDTH))
        lying.prove()
        with pytest.raises(Rejected, match="^product of layer .: the claims are not what the rounds lead to$"):
            case.verify(lying)
