"""The lean graph: the same function in float32 to the last bit, ReLUs only where their factor folds away."""

from __future__ import annotations

import numpy as np
import pytest

from enclaveml.zk.ezkl.onnx_lean import lean

onnx = pytest.importorskip("onnx")
N = onnx.helper.make_node

RNG = np.random.default_rng(2)
W = RNG.normal(size=(6, 4)).astype(np.float32)
V = RNG.normal(size=(4, 3)).astype(np.float32)
BIAS = RNG.normal(size=3).astype(np.float32)
K = RNG.normal(size=(2, 1, 2, 2)).astype(np.float32)


def document(nodes, shape, out, **tensors) -> bytes:
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("x", 1, shape)],
        [onnx.helper.make_tensor_value_info("y", 1, out)],
        [onnx.numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString(deterministic=True)


def kinds(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


MLP = document(
    [N("MatMul", ["x", "w"], ["h"]), N("Relu", ["h"], ["r"]), N("Gemm", ["r", "v", "b"], ["y"])],
    [5, 6], [5, 3], w=W, v=V, b=BIAS,
)
CNN = document(
    [N("Conv", ["x", "k"], ["c"]), N("Relu", ["c"], ["r"]), N("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
     N("Flatten", ["p"], ["f"]), N("MatMul", ["f", "v"], ["y"])],
    [5, 1, 3, 3], [5, 3], k=K, v=RNG.normal(size=(2, 3)).astype(np.float32),
)
DEEP = document(
    [N("MatMul", ["x", "w"], ["h"]), N("Relu", ["h"], ["r"]), N("MatMul", ["r", "v"], ["z"]), N("Relu", ["z"], ["s"]),
     N("MatMul", ["s", "u"], ["y"])],
    [5, 6], [5, 3], w=W, v=V, u=RNG.normal(size=(3, 3)).astype(np.float32),
)
SHARED = document(  # the weights are read by another node too, which must keep them whole
    [N("MatMul", ["x", "w"], ["h"]), N("Relu", ["h"], ["r"]), N("MatMul", ["r", "v"], ["a"]),
     N("MatMul", ["h", "v"], ["b"]), N("Add", ["a", "b"], ["y"])],
    [5, 6], [5, 3], w=W, v=V,
)


@pytest.mark.parametrize(
    ("data", "shape", "relus"), [(MLP, (5, 6), 1), (CNN, (5, 1, 3, 3), 1), (DEEP, (5, 6), 2), (SHARED, (5, 6), 1)]
)
def test_the_function_stays_the_same(data: bytes, shape: tuple[int, ...], relus: int) -> None:
    run = pytest.importorskip("onnx.reference").ReferenceEvaluator
    new = lean(data)
    onnx.checker.check_model(onnx.load_from_string(new))
    assert kinds(new).count("Abs") == kinds(data).count("Relu") == relus and "Relu" not in kinds(new)
    x = RNG.normal(size=shape).astype(np.float32)
    (before,), (after,) = (run(onnx.load_from_string(d)).run(None, {"x": x}) for d in (data, new))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("data", [
    document([N("MatMul", ["x", "w"], ["h"]), N("Relu", ["h"], ["y"])], [5, 6], [5, 4], w=W),
    document([N("Relu", ["x"], ["r"]), N("Tanh", ["r"], ["t"]), N("MatMul", ["t", "w"], ["y"])], [5, 6], [5, 4], w=W),
    document([N("Relu", ["x"], ["r"]), N("MatMul", ["r", "w"], ["a"]), N("ReduceSum", ["r"], ["s"]),
              N("Add", ["a", "s"], ["y"])], [5, 6], [5, 4], w=W),
    document([N("Relu", ["x"], ["r"]), N("Transpose", ["r"], ["t"]), N("MatMul", ["t", "r"], ["y"])], [5, 6], [6, 6]),
    document([N("Relu", ["x"], ["r"]), N("MatMul", ["c", "r"], ["y"])], [5, 6], [3, 6],
             c=RNG.normal(size=(3, 5)).astype(np.float32)),
], ids=["output", "tanh", "one of two readers", "both factors", "second factor"])
def test_a_relu_whose_factor_does_not_fold_away_stays(data: bytes) -> None:
    assert lean(data) == data


def test_the_lean_document_is_deterministic() -> None:
    assert lean(MLP) == lean(MLP) and lean(lean(MLP)) == lean(MLP)
