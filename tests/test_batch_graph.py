"""From exported graphs to the layers of a batch proof: every operator against ONNX's reference, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from enclaveml.errors import JobError
from enclaveml.zk.batch.float_model import run
from enclaveml.zk.batch.graph import float_layers

RNG = np.random.default_rng(3)


def document(nodes: list, shape: tuple[int, ...] = (2, 4), outputs: int = 2, **tensors: np.ndarray) -> bytes:
    """An ONNX document of batch 2 from ``input`` to ``output``."""
    import onnx
    from onnx import helper, numpy_helper

    made = [helper.make_node(op, inputs, [out], **attributes) for op, inputs, out, attributes in nodes]
    graph = helper.make_graph(
        made, "model", [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, (2, outputs))],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


W, B = RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=3).astype(np.float32)
V, C = RNG.normal(size=(3, 2)).astype(np.float32), RNG.normal(size=2).astype(np.float32)


def test_gemm_matmul_and_what_is_folded() -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    mean, std = RNG.normal(size=(1, 2, 2)).astype(np.float32), np.float32(1.7)
    made = document([
        ("Sub", ["input", "mean"], "a", {}), ("Div", ["a", "std"], "b", {}), ("Reshape", ["b", "flat"], "c", {}),
        ("MatMul", ["c", "w"], "d", {}), ("Add", ["bias", "d"], "e", {}), ("Relu", ["e"], "f", {}),
        ("Mul", ["f", "three"], "g", {}), ("Gemm", ["g", "v", "c2"], "h", {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        ("Gemm", ["h", "u"], "i", {}), ("Sub", ["one", "i"], "output", {}),
    ], (2, 2, 2), mean=mean, std=std, flat=np.array([2, -1]), w=W, bias=B, three=np.float32(3), v=V.T.copy(), c2=C,
        u=np.array([[1, 2], [3, -4]], np.float32), one=np.ones(2, np.float32))
    layers = float_layers(made)
    assert [each.weights.shape for each in layers] == [(4, 3), (3, 2)] and not any(each.wirings for each in layers)
    x = RNG.normal(size=(2, 2, 2)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(onnx.load_from_string(made)).run(None, {"input": x})
    assert np.allclose(run(layers, x)[1][-1], wanted, atol=1e-5)


HOLDS = ("a batch proof holds dense layers and convolutions (one- or two-dimensional), ReLU or another function of one number (sigmoid, tanh, GELU, SiLU, "
         "softplus and the like: by table) after them, means and maxima over windows without overlap, residual sums, concatenations, BatchNorm, products and sums with constants, flatten, reshape and transpose")


@pytest.mark.parametrize(("nodes", "text"), [
    ([("Gemm", ["input", "w"], "a", {}), ("Softmax", ["a"], "output", {})],
     f"node 1 of 2, Softmax: is none of these; {HOLDS}. Leave a softmax at the end out and give the logits: the class is the same "
     "(combine.input: logits); one within a model is no function of one number. proof.system: ezkl proves more kinds of layers"),
    ([("Transpose", ["input"], "a", {}), ("Softmax", ["a"], "output", {})],  # a softmax is what matters
     f"node 1 of 2, Softmax: is none of these; {HOLDS}. Leave a softmax at the end out and give the logits: the class is the same "
     "(combine.input: logits); one within a model is no function of one number. proof.system: ezkl proves more kinds of layers"),
    ([("Gemm", ["input", "w"], "a", {}), ("ReduceMax", ["a"], "output", {})],
     f"node 1 of 2, ReduceMax: is none of these; {HOLDS}. Leave a softmax at the end out and give the logits: the class is the same "
     "(combine.input: logits); for a maximum over a map use max_pool. proof.system: ezkl proves more kinds of layers"),
    ([("Tanh", ["input"], "a", {}), ("Gemm", ["a", "w"], "output", {})],
     f"node 0 of 2, Tanh: a Tanh with no dense layer before it; {HOLDS}. Put a dense layer before it. "
     "proof.system: ezkl proves more kinds of layers"),
    ([("Gemm", ["input", "w"], "a", {}), ("Sigmoid", ["a"], "output", {})],
     f"the last node: is an activation, Sigmoid, not a dense layer; {HOLDS}. Leave a sigmoid at the end out: the class is the same, an output above 0 "
     "is one above 0.5. proof.system: ezkl proves more kinds of layers"),
    ([("Gemm", ["input", "w"], "a", {}), ("Tanh", ["a"], "b", {}), ("Mul", ["b", "b"], "output", {})],
     f"the last node: is an activation, Mul, not a dense layer; {HOLDS}. Leave it out of the model, and apply it to the outputs. "
     "proof.system: ezkl proves more kinds of layers"),
    ([("Gemm", ["input", "w"], "a", {}), ("Tanh", ["a"], "b", {}), ("Gemm", ["input", "w"], "c", {}), ("Mul", ["b", "c"], "output", {})],
     f"node 3 of 4, Mul: a product of two values of a row; {HOLDS}. proof.system: ezkl proves more kinds of layers"),
    ([("Gemm", ["input", "w"], "a", {}), ("Relu", ["a"], "output", {})],
     f"the last node: is a ReLU, not a dense layer; {HOLDS}. Leave it out of the model: outputs keep their sign. "
     "proof.system: ezkl proves more kinds of layers"),
    ([("Relu", ["input"], "a", {}), ("Gemm", ["a", "w"], "output", {})],
     f"node 0 of 2, Relu: a ReLU with no dense layer before it; {HOLDS}. Put a dense layer before it. "
     "proof.system: ezkl proves more kinds of layers"),
    ([("Gemm", ["input", "w"], "a", {}), ("Relu", ["a"], "b", {}), ("Mul", ["a", "b"], "output", {})],
     f"the last node: is an activation, Mul, not a dense layer; {HOLDS}. Leave it out of the model, and apply it to the outputs. "
     "proof.system: ezkl proves more kinds of layers"),
    ([("Cast", ["input"], "a", {"to": 6}), ("Gemm", ["a", "w"], "output", {})],
     f"node 0 of 2, Cast: is none of these; {HOLDS}. proof.system: ezkl proves more kinds of layers"),
    ([("Add", ["input", "rows"], "a", {}), ("Gemm", ["a", "w"], "output", {})],
     f"node 0 of 2, Add: a constant that differs between the rows of a batch; {HOLDS}. proof.system: ezkl proves more kinds of layers"),
])
def test_what_no_batch_proof_holds_is_refused_with_advice(nodes: list, text: str) -> None:
    with pytest.raises(JobError) as caught:
        float_layers(document(nodes, outputs=3, w=W, rows=RNG.normal(size=(2, 4)).astype(np.float32)))
    assert str(caught.value) == text


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


CHANNELS_FIRST = {"perm": [0, 3, 1, 2]}
CHANNELS_LAST = {"perm": [0, 2, 3, 1]}
START = [("Transpose", ["input"], "in", CHANNELS_FIRST)]  # rows (6, 5, 2)
SAME = {"pads": [1, 1, 1, 1], "strides": [1, 1]}
NORM = {"g": normal(3), "s": normal(3), "m": normal(3), "v": np.abs(normal(3)) + 0.5}
MEAN = {"kernel_shape": [2, 2], "strides": [2, 2]}


def conv(after: str, name: str, out: str, **attributes: object) -> tuple:
    return "Conv", [after, name, f"{name}_bias"], out, attributes


def stem(*more: tuple) -> list[tuple]:
    """A convolution (2 to 3 channels, 6 x 5 cells) and its ReLU, "h"; what comes after, flattened and dense."""
    return [*START, conv("in", "k", "c", **SAME), ("Relu", ["c"], "h", {}), *more]


def end(after: str) -> list[tuple]:
    return [("Flatten", [after], "flat", {}), ("Gemm", ["flat", "out", "out_bias"], "output", {})]


TENSORS = {"k": normal(3, 2, 3, 3), "k_bias": normal(3), "l": normal(3, 3, 3, 3), "l_bias": normal(3), "p": normal(3, 3, 1, 1), "p_bias": normal(3),
           "stride": normal(3, 2, 1, 1), "stride_bias": normal(3), "deep": normal(6, 1, 3, 3), "deep_bias": normal(6), **NORM,
           "half": np.float32(0.5), "each": normal(1, 3, 1, 1), "axes": np.array([2, 3]), "last": np.array([-1])}

#: Nodes between the rows (6, 5, 2) and the outputs, how many values the last dense layer takes, and layers: (K, M'), positions, residual.
GRAPHS: dict[str, tuple[list[tuple], int, list[tuple]]] = {
    "zeros around a map": (stem(*end("h")), 90, [((18, 3), 30, None)]),
    "strides, dilations, groups": (stem(conv("h", "deep", "d", group=3, dilations=[2, 1], strides=[1, 2]), ("Relu", ["d"], "e", {}), *end("e")), 24,
                                   [((18, 3), 30, None), ((45, 6), 4, None)]),
    "a normalised input": ([("Mul", ["input", "half"], "x", {}), ("Transpose", ["x"], "y", CHANNELS_FIRST), ("Add", ["y", "half"], "z", {}),
                            conv("z", "k", "c"), ("Relu", ["c"], "h", {}), *end("h")], 36, [((18, 3), 12, None)]),
    "BatchNorm and a factor for each channel": (stem(conv("h", "l", "d", **SAME), ("BatchNormalization", ["d", "g", "s", "m", "v"], "e", {}),
                                                     ("Mul", ["e", "each"], "f", {}), ("Relu", ["f"], "i", {}), *end("i")), 90,
                                                [((18, 3), 30, None), ((27, 3), 30, None)]),
    "BatchNorm behind a ReLU": (stem(("BatchNormalization", ["h", "g", "s", "m", "v"], "e", {}), conv("e", "l", "d"), ("Relu", ["d"], "i", {}),
                                     *end("i")), 36, [((18, 3), 30, None), ((27, 3), 12, None)]),
    "means behind a ReLU, cells left over": (stem(("AveragePool", ["h"], "d", MEAN), *end("d")), 18, [((18, 3), 30, None)]),
    "means before a ReLU": ([*START, conv("in", "k", "c", **SAME), ("AveragePool", ["c"], "d", MEAN), ("Relu", ["d"], "h", {}), *end("h")], 18,
                            [((32, 3), 6, None)]),
    "means of means": (stem(("AveragePool", ["h"], "d", MEAN), ("AveragePool", ["d"], "e", {"kernel_shape": [3, 1], "strides": [3, 1]}), *end("e")), 6,
                       [((18, 3), 30, None)]),
    "maxima behind a ReLU": (stem(("MaxPool", ["h"], "d", MEAN), *end("d")), 18, [((18, 3), 30, None), ((6, 3), 15, None), ((12, 3), 6, None)]),
    "maxima before a ReLU, convolved": ([*START, conv("in", "k", "c", **SAME), ("MaxPool", ["c"], "d", {"kernel_shape": [1, 2], "strides": [1, 2]}),
                                         ("Relu", ["d"], "h", {}), conv("h", "l", "e", **SAME), ("Relu", ["e"], "i", {}), *end("i")], 36,
                                        [((18, 3), 30, None), ((6, 3), 12, None), ((54, 3), 12, None)]),
    "maxima of maxima": (stem(("MaxPool", ["h"], "d", {"kernel_shape": [3, 1], "strides": [3, 1]}), ("MaxPool", ["d"], "e", MEAN), *end("e")), 6,
                         [((18, 3), 30, None), ((6, 3), 10, None), ((9, 3), 10, None), ((12, 3), 5, None), ((18, 3), 2, None)]),
    "a mean over all cells": (stem(("ReduceMean", ["h", "axes"], "d", {"keepdims": 0}), *end("d")), 3, [((18, 3), 30, None)]),
    "a residual": (stem(conv("h", "l", "d", **SAME), ("Add", ["h", "d"], "e", {}), ("Relu", ["e"], "i", {}), *end("i")), 90,
                   [((18, 3), 30, None), ((27, 3), 30, 1)]),
    "a residual with a factor": (stem(conv("h", "l", "d", **SAME), ("Mul", ["h", "each"], "m2", {}), ("Sub", ["d", "m2"], "e", {}), ("Relu", ["e"], "i", {}),
                                      *end("i")), 90, [((18, 3), 30, None), ((30, 3), 30, None)]),
    "BatchNorm of a residual sum": (stem(conv("h", "l", "d", **SAME), ("Add", ["d", "h"], "e", {}), ("BatchNormalization", ["e", "g", "s", "m", "v"], "f", {}),
                                         ("Relu", ["f"], "i", {}), *end("i")), 90, [((18, 3), 30, None), ((30, 3), 30, None)]),
    "means of a residual sum": (stem(conv("h", "l", "d", **SAME), ("Add", ["d", "h"], "e", {}), ("AveragePool", ["e"], "f", MEAN), ("Relu", ["f"], "i", {}),
                                     *end("i")), 18, [((18, 3), 30, None), ((60, 3), 6, None)]),
    "a shortcut by a convolution": (stem(conv("h", "l", "d", pads=[1, 1, 1, 1], strides=[2, 2]), conv("in", "stride", "e", strides=[2, 2]), ("Add", ["d", "e"], "f", {}),
                                         ("Relu", ["f"], "i", {}), *end("i")), 27, [((18, 3), 30, None), ((29, 3), 9, None)]),
    "a stream that is added to before its ReLU": ([*START, conv("in", "k", "c", **SAME), ("Relu", ["c"], "h", {}), conv("h", "l", "d", **SAME),
                                                   ("Add", ["c", "d"], "e", {}), ("Relu", ["e"], "i", {}), *end("i")], 90,
                                                  [((18, 3), 30, None), ((45, 3), 30, None)]),
    "values behind ReLUs added": (stem(conv("h", "l", "d", **SAME), ("Relu", ["d"], "i", {}), ("Add", ["h", "i"], "j", {}), ("Relu", ["j"], "o", {}),
                                       conv("o", "l", "q"), ("Relu", ["q"], "r", {}), *end("r")), 36,
                                  [((18, 3), 30, None), ((27, 3), 30, None), ((54, 3), 12, None)]),
    "a concatenation, cut and convolved": (stem(("Concat", ["h", "in"], "d", {"axis": 1}), ("Slice", ["d", "from", "to", "at"], "e", {}), conv("e", "l", "f"),
                                                ("Relu", ["f"], "i", {}), *end("i")), 36, [((18, 3), 30, None), ((45, 3), 12, None)]),
    "a concatenation of rows' ends": (stem(("Flatten", ["h"], "d", {}), ("Flatten", ["input"], "e", {}), ("Concat", ["d", "e"], "f", {"axis": -1}), *end("f")), 150,
                                      [((18, 3), 30, None)]),
    "a dense layer for each cell": (stem(("Transpose", ["h"], "d", CHANNELS_LAST), ("MatMul", ["d", "w3"], "e", {}), ("Add", ["e", "g"], "f", {}),
                                         ("Relu", ["f"], "i", {}), *end("i")), 90, [((18, 3), 30, None), ((3, 3), 30, None)]),
    "one dimension": ([("Reshape", ["input", "flat3"], "x", {}), ("Transpose", ["x"], "y", {"perm": [0, 2, 1]}),
                       ("Conv", ["y", "k1"], "c", {"pads": [1, 1], "strides": [2]}), ("Relu", ["c"], "h", {}),
                       ("AveragePool", ["h"], "d", {"kernel_shape": [3], "strides": [3]}), *end("d")], 20, [((6, 4), 15, None)]),
}
TENSORS |= {"from": np.array([1]), "to": np.array([4]), "at": np.array([1]), "w3": normal(3, 3), "flat3": np.array([2, 30, 2]), "k1": normal(4, 2, 3)}


def used(nodes: list[tuple], values: int) -> dict[str, np.ndarray]:
    tensors = {**TENSORS, "out": normal(values, 4), "out_bias": normal(4)}
    return {name: tensors[name] for _, inputs, *_ in nodes for name in inputs if name in tensors}


@pytest.mark.parametrize("which", GRAPHS)
def test_what_is_linear_becomes_layers(which: str) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    nodes, values, shapes = GRAPHS[which]
    made = document(nodes, (2, 6, 5, 2), 4, **used(nodes, values))
    layers = float_layers(made)
    assert [(each.weights.shape, each.positions, each.residual) for each in layers[:-1]] == shapes
    x = normal(2, 6, 5, 2)
    (wanted,) = ReferenceEvaluator(onnx.load_from_string(made)).run(None, {"input": x})
    assert np.allclose(run(layers, x)[1][-1], wanted, atol=1e-4)


REFUSED: dict[str, tuple[list[tuple], str, str]] = {
    "a constant before zeros": ([*START, ("Add", ["in", "half"], "z", {}), conv("z", "k", "c", **SAME), ("Relu", ["c"], "h", {}), *end("h")],
                                "node 2 of 6, Conv: a constant added to a map before a convolution with zeros around it",
                                "Use padding VALID there, or add the constant to the rows of the data set."),
    "channels first": ([conv("input", "k", "c"), ("Relu", ["c"], "h", {}), *end("h")],
                       "node 0 of 4, Conv: values of a row that do not lie as a map with its channels last",
                       "Give rows and maps with their channels last, and keep the order of their cells."),
    "a factor for each cell": (stem(conv("h", "l", "d", **SAME), ("Mul", ["d", "cells"], "e", {}), ("Relu", ["e"], "i", {}), *end("i")),
                               "node 4 of 8, Mul: a constant that differs between the cells of a map", "Make it one for each channel."),
    "no ReLU between convolutions": ([*START, conv("in", "k", "c"), conv("c", "l", "d"), *end("d")],
                                     "node 2 of 5, Conv: a convolution after another layer without a ReLU between them", "Put a ReLU between them."),
    "no ReLU before a dense layer": ([*START, conv("in", "k", "c"), *end("c")],
                                     "node 3 of 4, Gemm: a dense layer after a convolution without a ReLU between them", "Put a ReLU between them."),
    "windows that overlap": (stem(("AveragePool", ["h"], "d", {"kernel_shape": [2, 2], "strides": [1, 1]}), *end("d")),
                             "node 3 of 6, AveragePool: a mean over windows that overlap, or with zeros around the map",
                             "Give avg_pool strides as large as its windows, and padding VALID."),
    "a mean of maxima": (stem(("MaxPool", ["h"], "d", MEAN), ("ReduceMean", ["d", "axes"], "e", {"keepdims": 0}), *end("e")),
                         "node 4 of 7, ReduceMean: a mean of maxima, or a maximum of means", "Put a layer with a ReLU between them."),
    "a concatenation before a ReLU": (stem(conv("h", "l", "d", **SAME), ("Concat", ["d", "h"], "e", {"axis": 1}), *end("e")),
                                      "node 4 of 7, Concat: a concatenation of something else than the inputs and values behind an activation", "Put a ReLU before it."),
    "rows mixed": (stem(("Transpose", ["h"], "d", {"perm": [1, 0, 2, 3]}), *end("d")), "node 3 of 6, Transpose: is none of these", "proof.system: ezkl"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_is_no_layer_is_refused_with_advice(which: str) -> None:
    nodes, what, instead = REFUSED[which]
    tensors = used(nodes, 90) | ({"cells": normal(3, 6, 5)} if which == "a factor for each cell" else {})
    with pytest.raises(JobError) as caught:
        float_layers(document(nodes, (2, 2, 6, 5) if which == "channels first" else (2, 6, 5, 2), 4, **tensors))
    assert str(caught.value).startswith(what + "; a batch proof holds ") and instead in str(caught.value)


def test_a_sum_with_values_that_stand_there_twice_is_refused() -> None:
    nodes = [("Gemm", ["input", "w"], "a", {}), ("Relu", ["a"], "v", {}), ("Gemm", ["v", "u"], "s", {}), ("Gather", ["s", "index"], "t", {"axis": 1}),
             ("Add", ["t", "v"], "z", {}), ("Relu", ["z"], "r", {}), ("Gemm", ["r", "o"], "output", {})]
    with pytest.raises(JobError, match="node 4 of 7, Add: a sum with values of a layer that stand there more than once"):
        float_layers(document(nodes, w=normal(4, 3), u=normal(3, 3), index=np.array([1, 0, 1]), o=normal(3, 2)))


def test_zeros_that_are_not_written_out_are_refused() -> None:
    nodes = stem(conv("h", "l", "d", auto_pad="SAME_UPPER"), ("Relu", ["d"], "e", {}), *end("e"))
    with pytest.raises(JobError, match="Conv: zeros around a map that are not written out"):
        float_layers(document(nodes, (2, 6, 5, 2), 4, **used(nodes, 90)))


def test_a_model_of_flax_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As jax2onnx writes a convolution, BatchNorm, a residual and a mean."""
    import jax
    from flax import nnx

    from enclaveml.zk.export import export
    from enclaveml.zk.interface import ModelFunction

    monkeypatch.setattr("enclaveml.devices.bind_device", lambda device, local_rank: None)

    class Small(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.second = nnx.Conv(1, 2, (3, 3), strides=(2, 2), rngs=rngs), nnx.Conv(2, 2, (3, 3), rngs=rngs)
            self.norm, self.out = nnx.BatchNorm(2, use_running_average=True, rngs=rngs), nnx.Linear(2, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.relu(self.norm(self.first(x.reshape(-1, 6, 4, 1))))
            x = nnx.relu(x + self.second(x))
            return self.out(nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2)).mean(axis=(1, 2)))

    model = Small(nnx.Rngs(0))
    layers = float_layers(export(ModelFunction(model, (24,), np.dtype(np.float32), "small"), 2))
    assert [(each.positions, each.residual) for each in layers] == [(6, None), (6, 1), (1, None)]
    x = normal(5, 24)
    assert np.allclose(run(layers, x)[1][-1], np.asarray(model(x)), atol=1e-5)
