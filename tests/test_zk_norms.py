"""BatchNorm folded into what comes before it: the same function, and only where it is the only reader."""

from __future__ import annotations

import numpy as np
import pytest

from enclaveml.zk.ezkl.onnx_norms import fold_norms
from enclaveml.zk.ezkl.onnx_products import products

onnx = pytest.importorskip("onnx")
N = onnx.helper.make_node

RNG = np.random.default_rng(4)
NORM = {
    "g": RNG.normal(size=3), "o": RNG.normal(size=3), "m": RNG.normal(size=3), "v": RNG.uniform(0.5, 2, size=3),
}
K, W, BIAS = RNG.normal(size=(3, 1, 2, 2)), RNG.normal(size=(6, 3)), RNG.normal(size=3)
BN = N("BatchNormalization", ["h", "g", "o", "m", "v"], ["y"], epsilon=1e-3)


def document(*nodes, shape, out, **tensors) -> bytes:
    graph = onnx.helper.make_graph(
        list(nodes), "g", [onnx.helper.make_tensor_value_info("x", 1, shape)],
        [onnx.helper.make_tensor_value_info("y", 1, out)],
        [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in (tensors | NORM).items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString(deterministic=True)


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    return pytest.importorskip("onnx.reference").ReferenceEvaluator(onnx.load_from_string(data)).run(None, {"x": x})[0]


def kinds(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


CONV = document(N("Conv", ["x", "k"], ["h"], strides=[2, 1], pads=[1, 0, 0, 1]), BN, shape=[5, 1, 4, 4], out=[5, 3, 2, 4], k=K)
CASES = [
    (CONV, ["Conv"]),
    (document(N("Conv", ["x", "k", "b"], ["h"]), BN, shape=[5, 1, 3, 3], out=[5, 3, 2, 2], k=K, b=BIAS), ["Conv"]),
    (document(N("Gemm", ["x", "w", "b"], ["h"]), BN, shape=[5, 6], out=[5, 3], w=W, b=BIAS), ["Gemm"]),
    (document(N("Gemm", ["x", "w"], ["h"], transB=1), BN, shape=[5, 6], out=[5, 3], w=W.T), ["Gemm"]),
    (document(N("MatMul", ["x", "w"], ["h"]), BN, shape=[5, 6], out=[5, 3], w=W), ["Gemm"]),
    # what else reads the value, or scales it, keeps the norm where it is
    (document(N("Gemm", ["x", "w"], ["h"], alpha=2.0), BN, shape=[5, 6], out=[5, 3], w=W), ["Gemm", "BatchNormalization"]),
    (document(N("Relu", ["x"], ["h"]), BN, shape=[5, 3], out=[5, 3]), ["Relu", "BatchNormalization"]),
    (document(N("MatMul", ["x", "w"], ["h"]), N("BatchNormalization", ["h", "g", "o", "m", "v"], ["n"]),
              N("Add", ["h", "n"], ["y"]), shape=[5, 6], out=[5, 3], w=W), ["MatMul", "BatchNormalization", "Add"]),
]


@pytest.mark.parametrize(("data", "left"), CASES)
def test_the_function_stays_and_the_norm_goes_where_it_may(data: bytes, left: list[str]) -> None:
    folded = fold_norms(data)
    (value,) = onnx.load_from_string(data).graph.input
    x = RNG.normal(size=[d.dim_value for d in value.type.tensor_type.shape.dim]).astype(np.float32)
    assert kinds(folded) == left
    np.testing.assert_allclose(run(folded, x), run(data, x), rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(onnx.load_from_string(folded))


def test_a_graph_without_norms_is_left_as_it_is() -> None:
    plain = document(N("MatMul", ["x", "w"], ["y"]), shape=[5, 6], out=[5, 3], w=W)
    assert fold_norms(plain) is plain
    assert fold_norms(CONV) == fold_norms(CONV) != CONV


def test_the_other_rewrites_take_what_is_folded() -> None:
    """A folded convolution becomes a product of patches, whose tensors have names of their own."""
    whole = products(fold_norms(CONV))
    names = [tensor.name for tensor in onnx.load_from_string(whole).graph.initializer]
    assert len(names) == len(set(names)) and "BatchNormalization" not in kinds(whole) and "MatMul" in kinds(whole)
    onnx.shape_inference.infer_shapes(onnx.load_from_string(whole), strict_mode=True)
    x = RNG.normal(size=(5, 1, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(whole, x), run(CONV, x), rtol=1e-5, atol=1e-5)
