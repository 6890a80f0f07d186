"""Activations that are functions of one number: read from graphs, as jax.nn's are exported, and as tables of whole numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_batch_graph import document

from enclaveml.errors import JobError
from enclaveml.zk.batch import calibrate as calibrate_module
from enclaveml.zk.batch.activations import Held, lines, short
from enclaveml.zk.batch.calibrate import _Search, calibrate
from enclaveml.zk.batch.examine import document as document_of
from enclaveml.zk.batch.examine import examine, text
from enclaveml.zk.batch.float_model import Activation, FloatLayer
from enclaveml.zk.batch.float_model import run as run_floats
from enclaveml.zk.batch.format import MOST_TABLE_NUMBERS
from enclaveml.zk.batch.graph import float_layers
from enclaveml.zk.batch.integer import IntegerModel, fits
from enclaveml.zk.batch.number_tables import costs
from enclaveml.zk.batch.quantise import check_reading
from enclaveml.zk.interface import CircuitRequest, ModelFunction

RNG = np.random.default_rng(5)
W, V = RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=(3, 2)).astype(np.float32)
TENSORS = {"w": W, "v": V, "u": RNG.normal(size=(3, 3)).astype(np.float32), "one": np.float32(1), "half": np.float32(0.5), "zero": np.float32(0), "thousand": np.float32(1000),
           "six": np.full((2, 3), 6, np.float32), "each": np.array([1, -2, 3], np.float32), "bias": RNG.normal(size=3).astype(np.float32)}


def made(*nodes: tuple) -> bytes:
    """Rows (4,), a dense layer to "a" (3,), the nodes to "z", a dense layer to two outputs."""
    return document([("Gemm", ["input", "w", "bias"], "a", {}), *nodes, ("Gemm", ["z", "v"], "output", {})], **TENSORS)


#: Nodes, and the names of the hidden layers' activations.
GRAPHS: dict[str, tuple[bytes, list[str | None]]] = {
    "one node": (made(("Tanh", ["a"], "z", {})), ["tanh"]),
    "attributes": (made(("Elu", ["a"], "z", {"alpha": 0.5})), ["a function of one number"]),
    "a product with itself, doubled": (made(("Mul", ["a", "a"], "b", {}), ("Add", ["b", "b"], "z", {})), ["a function of one number"]),
    "a number's place is kept": (made(("Exp", ["a"], "b", {}), ("Sub", ["one", "b"], "c", {}), ("Div", ["half", "c"], "d", {}), ("Abs", ["d"], "e", {}),
                                      ("Min", ["e", "six"], "z", {})), ["a function of one number"]),
    "ReLU by another name": (made(("Max", ["zero", "a"], "z", {})), [None]),
    "ReLU as far as 1000": (made(("Max", ["zero", "a"], "b", {}), ("Min", ["b", "thousand"], "z", {})), ["a function of one number"]),
    "ReLU6": (made(("Max", ["a", "zero"], "b", {}), ("Min", ["b", "six"], "z", {})), ["ReLU6"]),
    "Clip without a least": (made(("Neg", ["a"], "b", {}), ("Clip", ["b", "", "one"], "z", {})), ["a function of one number"]),
    "comparisons": (made(("Greater", ["a", "zero"], "b", {}), ("Mul", ["a", "half"], "c", {}), ("Where", ["b", "a", "c"], "z", {})),
                    ["a function of one number"]),
    "a ReLU of it": (made(("Tanh", ["a"], "b", {}), ("Relu", ["b"], "z", {})), ["a function of one number"]),
    "a factor for each channel": (made(("Sigmoid", ["a"], "b", {}), ("Mul", ["b", "each"], "z", {})), ["sigmoid"]),
    "a sum before it that differs": (made(("Add", ["a", "each"], "b", {}), ("Tanh", ["b"], "z", {})), ["tanh"]),
    "two of the same sums": (made(("Tanh", ["a"], "b", {}), ("Sigmoid", ["a"], "c", {}), ("Gemm", ["b", "u"], "d", {}), ("Gemm", ["c", "u"], "e", {}),
                                  ("Sub", ["d", "e"], "z", {})), ["tanh", "sigmoid"]),
    "read twice, once as it is": (made(("Tanh", ["a"], "b", {}), ("Gemm", ["b", "u"], "c", {}), ("Softplus", ["b"], "d", {}), ("Gemm", ["d", "u"], "e", {}),
                                       ("Add", ["c", "e"], "z", {})), ["tanh", "a function of one number"]),
    "a residual": (made(("Tanh", ["a"], "b", {}), ("Gemm", ["b", "u"], "c", {}), ("Add", ["b", "c"], "d", {}), ("Erf", ["d"], "z", {})),
                   ["tanh", "a function of one number"]),
}
A = "a function of one number"
TENSORS |= {"two": np.float32(2), "three": np.float32(3.2), "tenth": np.float32(0.1)}
#: ReLU and what is made of it: exact where all is linear in it, else one table.
GRAPHS |= {
    "the square of a ReLU": (made(("Relu", ["a"], "b", {}), ("Mul", ["b", "b"], "z", {})), [A]),
    "a ReLU cut at 6": (made(("Relu", ["a"], "b", {}), ("Min", ["b", "six"], "z", {})), ["ReLU6"]),
    "a ReLU to a power": (made(("Relu", ["a"], "b", {}), ("Pow", ["b", "two"], "z", {})), [A]),
    "a ReLU, and its square": (made(("Relu", ["a"], "b", {}), ("Gemm", ["b", "u"], "c", {}), ("Mul", ["b", "b"], "d", {}), ("Gemm", ["d", "u"], "e", {}),
                                    ("Add", ["c", "e"], "z", {})), [None, A]),
    "a ReLU's square, and it": (made(("Relu", ["a"], "b", {}), ("Mul", ["b", "b"], "d", {}), ("Gemm", ["d", "u"], "e", {}), ("Gemm", ["b", "u"], "c", {}),
                                     ("Add", ["c", "e"], "z", {})), [A, None]),
    "linear in a ReLU": (made(("Relu", ["a"], "b", {}), ("Mul", ["b", "half"], "c", {}), ("Sub", ["one", "c"], "z", {})), [None]),
    "linear in two of them": (made(("Relu", ["a"], "b", {}), ("Neg", ["a"], "c", {}), ("Relu", ["c"], "d", {}), ("Sub", ["b", "d"], "z", {})), [None, None]),
    "a ReLU of sums by a factor": (made(("Mul", ["a", "half"], "b", {}), ("Add", ["b", "one"], "c", {}), ("Relu", ["c"], "z", {})), [None]),
    "a ReLU of another curve": (made(("Relu", ["a"], "b", {}), ("Sub", ["b", "half"], "c", {}), ("Relu", ["c"], "z", {})), [A]),
    "a ReLU added to its sums": (made(("Relu", ["a"], "b", {}), ("Add", ["a", "b"], "z", {})), [None]),
    "a curve of what is linear in a ReLU": (made(("Relu", ["a"], "b", {}), ("Add", ["b", "one"], "c", {}), ("Tanh", ["c"], "z", {})), [A]),
    "linear in a ReLU twice, once before a curve": (
        made(("Relu", ["a"], "b", {}), ("Add", ["b", "one"], "c", {}), ("Gemm", ["c", "u"], "d", {}), ("Tanh", ["c"], "e", {}),
             ("Gemm", ["e", "u"], "f", {}), ("Add", ["d", "f"], "z", {})), [None, A]),
    "a ReLU and a tanh added": (made(("Relu", ["a"], "b", {}), ("Tanh", ["a"], "c", {}), ("Add", ["b", "c"], "z", {})), [A]),
    "a ReLU but for places between": (made(("Abs", ["a"], "b", {}), ("Sub", ["b", "three"], "c", {}), ("Abs", ["c"], "d", {}), ("Sub", ["tenth", "d"], "e", {}),
                                           ("Relu", ["e"], "f", {}), ("Relu", ["a"], "g", {}), ("Add", ["f", "g"], "z", {})), [A]),
}
TENSORS |= {"from": np.array([1]), "to": np.array([4]), "axis": np.array([1])}
GRAPHS["beside each other"] = (made(("Tanh", ["a"], "b", {}), ("Relu", ["a"], "c", {}), ("Concat", ["b", "c"], "d", {"axis": 1}),
                                    ("Slice", ["d", "from", "to", "axis"], "z", {})), ["tanh", None])


@pytest.mark.parametrize("which", GRAPHS)
def test_a_graph_s_functions_are_onnx_s(which: str) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    given, names = GRAPHS[which]
    layers = float_layers(given)
    assert [each.activation and each.activation.name for each in layers[:-1]] == names and layers[-1].activation is None
    x = 2 * RNG.normal(size=(2, 4)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(onnx.load_from_string(given)).run(None, {"input": x})
    assert np.allclose(run_floats(layers, x)[1][-1], wanted, rtol=1e-4, atol=1e-4)


def test_what_was_taken_for_relu_is_it_on_the_rows() -> None:
    """A bump of 0.05 at sums about 20, where nothing is tried when the graph is read, and too small to be seen in the outputs."""
    (read,) = [each for each in float_layers(GRAPHS["ReLU by another name"][0]) if each.taken]
    assert read.activation is None
    layers = [replace(read, taken=lambda z: np.maximum(z, 0) + 0.05 * (abs(z - 20) < 1)), FloatLayer(V, np.zeros(2))]
    rows = np.linspace(-5, 5, 130)[:, None] * np.ones(4)
    sums = run_floats(layers, rows)[1]
    shifted = [replace(layers[0], bias=read.bias + 20 - float(sums[0][99, 1])), layers[1]]  # row 99's is 20
    for given in (layers, shifted):
        z, truth = run_floats(given, rows)[1]
        assert (given is shifted) == bool((abs(z - 20) < 1).any())
        if given is layers:
            check_reading(given, rows, truth)
            continue
        with pytest.raises(JobError, match="^the model was read as layers that compute something else"):
            check_reading(given, rows, truth)
        check_reading([replace(given[0], taken=None), given[1]], rows, truth)


def test_jax_s_activations_as_they_are_exported() -> None:
    import jax
    import jax.numpy as jnp

    from enclaveml.zk.export import HASH_BATCH, export
    known: dict[str, Callable] = {
        "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "GELU": lambda x: jax.nn.gelu(x, approximate=False),
        "GELU (by tanh)": lambda x: jax.nn.gelu(x, approximate=True), "SiLU": jax.nn.silu, "softplus": jax.nn.softplus, "ELU": jax.nn.elu,
        "ReLU6": jax.nn.relu6}
    others: list[Callable] = [jax.nn.leaky_relu, jax.nn.hard_tanh, jax.nn.selu, jax.nn.mish, lambda x: jax.nn.relu(x) ** 2, lambda x: jnp.square(jax.nn.relu(x)),
                              lambda x: jnp.minimum(jax.nn.relu(x), 5)]
    weights = RNG.normal(size=(len(known) + len(others), 3, 3)).astype(np.float32)

    def model(x: jax.Array) -> jax.Array:
        for weight, function in zip(weights, [*known.values(), *others], strict=True):
            x = function(x @ weight)
        return x @ weights[0]

    layers = float_layers(export(ModelFunction(model, (3,)), HASH_BATCH))
    assert [each.activation.name for each in layers[:-1]] == [*known, *["a function of one number"] * len(others)]
    x = RNG.normal(size=(20, 3)).astype(np.float32)
    assert np.allclose(run_floats(layers, x)[1][-1], model(x), rtol=1e-4, atol=1e-4)


def test_a_check_names_what_is_by_table() -> None:
    import jax
    import jax.numpy as jnp

    def model(x: jax.Array) -> jax.Array:
        return jnp.tanh(jax.nn.relu(jax.nn.gelu(x @ W) @ TENSORS["u"]) @ TENSORS["u"]) @ V

    rows = RNG.normal(size=(64, 4)).astype(np.float32)
    found = examine(ModelFunction(model, (4,)), rows, CircuitRequest(agreement=0.5, rows_per_proof=16))
    assert not found.refused
    shown = text(found, 1000, 64)
    told = document_of(found, 1000, 64)
    first, relu, second = told["table_deviations"]
    assert 0 < first < 2 * told["deviation"] and relu == 0 < second < 2 * told["deviation"]
    words = ", by a table of 2\\^(10|11) numbers, which alone sets outputs off by {} at most\n"
    assert re.search(f"\nactivation of layer 1: GELU \\(by tanh\\){words.format(f'{first:.2g}')}activation of layer 2: ReLU, exact\n"
                     f"activation of layer 3: tanh{words.format(f'{second:.2g}')}beside the float model", shown), shown
    assert told["activations"] == ["GELU (by tanh)", "ReLU", "tanh"] and [length > 0 for length in told["tables"]] == [True, False, True]


# As tables.

TANH = Activation("tanh", np.tanh)
GELU = Activation("GELU", lambda z: z / 2 * (1 + np.tanh(0.79788456 * (z + 0.044715 * z**3))))


def network(*activations: Activation | None, residual: bool = False) -> list[FloatLayer]:
    rng, widths = np.random.default_rng(2), [6, *[8] * len(activations), 3]
    layers = [FloatLayer(rng.normal(size=(k, m)) / np.sqrt(k), rng.normal(size=m) / 4, activation=activation)
              for k, m, activation in zip(widths, widths[1:], (*activations, None), strict=False)]
    return [replace(each, residual=1) if residual and number == 2 else each for number, each in enumerate(layers, 1)]


def made_integer(layers: list[FloatLayer], plain: bool = False, factor: float = 1.0) -> tuple[IntegerModel, float]:
    """The integer model of layers for 256 rows, and its largest deviation as a part of the largest output."""
    rows = np.random.default_rng(4).normal(size=(256, 6)) * factor
    truth = run_floats(layers, rows)[1][-1]
    found = calibrate(layers, rows, truth, plain)
    return found, float(np.abs(found.outputs(rows) - truth).max() / np.abs(truth).max())


def test_activations_in_words() -> None:
    relu, tanh = Held("ReLU"), Held("tanh", 2048, 0.01234)
    assert lines([relu]) == ["activation of layer 1: ReLU, exact"] and lines([]) == []
    assert lines([relu, relu]) == ["activation of every hidden layer: ReLU, exact"]
    by_table = "tanh, by a table of 2^11 numbers, which alone sets outputs off by 0.012 at most"
    assert lines([relu, tanh, relu]) == ["activation of layers 1, 3: ReLU, exact", f"activation of layer 2: {by_table}"]
    assert short([relu, tanh, Held("GELU (by tanh)", 512, 0.1)]) == "ReLU,tanh:2^11,GELU_(by_tanh):2^9" and short([]) == "none"


@pytest.mark.parametrize(("activations", "residual", "most"), [
    ((TANH,), False, 0.015), ((GELU,), False, 0.015), ((TANH, GELU), False, 0.03), ((None, TANH), False, 0.03), ((TANH, None), True, 0.03),
    ((GELU, TANH), True, 0.03)])
@pytest.mark.parametrize("plain", [False, True])
def test_a_table_is_near_its_function(activations: tuple, residual: bool, most: float, plain: bool) -> None:
    found, deviation = made_integer(network(*activations, residual=residual), plain)
    assert deviation < (2 * most if plain else most) and not fits(found)
    assert [bool(each.table) for each in found.layers] == [activation is not None for activation in activations] + [False]
    for each in found.layers[:-1]:
        if each.table:
            assert max(map(abs, each.table)) in (range(128, 256) if residual else (254, 255)) and 512 <= len(each.table) <= 2048
            assert each.table[0] == each.table[1] or each.table[0] < 0 < each.table[-1]  # flat at its lower end, or tanh's


@pytest.mark.parametrize(("name", "function", "before"), [("exp", np.exp, 0.23), ("x^3", lambda z: z**3, 0.033), ("sinh", np.sinh, 0.21)])
@pytest.mark.parametrize("plain", [False, True])
def test_a_steep_function_s_table_is_as_fine_where_the_rows_are(name: str, function: Callable, before: float, plain: bool) -> None:
    """Not made for what it gives of sums twice as large: then these left the rows' a few of 8 bits, and the deviation was ``before``, plain three times that."""
    layers = network(Activation(name, function))
    found, deviation = made_integer(layers, plain)
    assert deviation < (0.05 if plain else 0.03) and deviation < before / 2
    rows = np.random.default_rng(4).normal(size=(256, 6))
    first = found.layers[0]
    given = np.abs(first.activated(first.sums(1, [np.clip(found.quantise(rows), found.input_low, found.input_high)]))).max()
    assert (50 if plain else 95) <= given <= 110 and max(map(abs, first.table)) >= 254  # 0.4 of 8 bits, the rest for other rows


@pytest.mark.parametrize("plain", [False, True])
def test_what_a_table_costs_is_what_it_alone_changes(plain: bool) -> None:
    layers, rows = network(TANH, None, GELU), np.random.default_rng(4).normal(size=(256, 6))
    found, deviation = made_integer(layers, plain)
    truth = run_floats(layers, rows)[1][-1]
    told = costs(layers, found, rows)
    assert [cost > 0 for cost in told] == [True, False, True]
    assert max(told) < 1.5 * deviation * np.abs(truth).max()
    coarser = replace(found, layers=tuple(replace(each, table=tuple(v // 16 * 16 for v in each.table)) for each in found.layers))
    assert all(8 * a < b for a, b in zip(told, costs(layers, coarser, rows), strict=True) if a)


def test_tables_of_more_layers_are_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_module, "SWEEPS", 0)
    found, _ = made_integer(network(*[TANH] * 9), plain=True)
    lengths = [len(each.table) for each in found.layers[:-1]]
    assert max(lengths) == 1024 and sum(lengths) <= MOST_TABLE_NUMBERS and not fits(found)


@pytest.mark.parametrize("plain", [False, True])
def test_tables_of_inputs_that_are_not_shown_say_their_size_alone(plain: bool) -> None:
    """Of rows that are a little larger the same tables are tried: what is told of them is a power of two, and which of a few is the best."""
    layers, rows = network(GELU, TANH), np.random.default_rng(4).normal(size=(256, 6))
    tried = set()
    for factor in (1.0, 1.01, 0.995):
        x = rows * factor
        search = _Search(layers, x, x[:64], run_floats(layers, x[:64])[1][-1], 8, plain)
        tried.add(tuple(search._options(0, [])))
    assert len(tried) == (1 if plain else 3)


def test_where_a_function_is_none_no_row_has_come() -> None:
    """A logarithm's table is 0 where there is none."""
    positive = [FloatLayer(np.abs(each.weights), np.abs(each.bias) + 1, activation=each.activation)
                for each in network(Activation("log", lambda z: np.log(np.where(z > 0, z, np.nan))))]
    rows = np.random.default_rng(4).uniform(0, 1, size=(64, 6))
    truth = run_floats(positive, rows)[1][-1]
    found = calibrate(positive, rows, truth)
    table = found.layers[0].table
    assert set(table[: len(table) // 2]) == {0} and np.abs(found.outputs(rows) - truth).max() < 0.03 * np.abs(truth).max()


def test_a_product_of_different_layers_is_refused() -> None:
    with pytest.raises(JobError, match="^node 3 of 5, Mul: a product of two values of a row; "):
        float_layers(made(("Tanh", ["a"], "b", {}), ("Gemm", ["input", "w"], "c", {}), ("Mul", ["b", "c"], "z", {})))
