"""Convolutions as matrix products: the same function, and only plain ones."""

from __future__ import annotations

import numpy as np
import pytest

from enclaveml.zk.ezkl.onnx_lean import lean
from enclaveml.zk.ezkl.onnx_products import merge_pools, products, tile_cost

onnx = pytest.importorskip("onnx")
N = onnx.helper.make_node
RNG = np.random.default_rng(5)


def document(nodes, shape, **tensors) -> bytes:
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("x", 1, shape)],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in tensors.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model).graph.output[0]
    model.graph.output[0].CopyFrom(inferred)
    return model.SerializeToString(deterministic=True)


def kinds(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


def assert_same(before: bytes, after: bytes, shape: tuple[int, ...]) -> None:
    run = pytest.importorskip("onnx.reference").ReferenceEvaluator
    onnx.checker.check_model(onnx.load_from_string(after))
    x = RNG.normal(size=shape).astype(np.float32)
    (a,), (b,) = (run(onnx.load_from_string(d)).run(None, {"x": x}) for d in (before, after))
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


@pytest.mark.parametrize(("shape", "kernel", "how"), [
    ((3, 2, 6, 6), (4, 2, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 1, 8, 5), (3, 1, 3, 2), {}),
    ((2, 3, 7, 6), (2, 3, 3, 3), {"strides": [2, 1], "pads": [0, 1, 2, 0]}),
    ((2, 2, 6, 6), (5, 2, 1, 1), {"strides": [2, 2]}),
    ((2, 2, 12), (4, 2, 5), {"pads": [2, 2]}),
    ((2, 2, 4, 4, 4), (3, 2, 2, 2, 2), {"strides": [1, 2, 1]}),
], ids=["padded", "plain", "uneven", "point", "1-D", "3-D"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_is_one_product_of_the_same_values(shape, kernel, how, bias: bool) -> None:
    how = {"strides": [1] * (len(shape) - 2), **how}
    tensors = {"k": normal(*kernel), **({"b": normal(kernel[0])} if bias else {})}
    data = document([N("Conv", ["x", *tensors], ["y"], **how)], shape, **tensors)
    after = products(data)
    assert kinds(after).count("MatMul") == 1 and "Conv" not in kinds(after)
    assert_same(data, after, shape)


@pytest.mark.parametrize("how", [{"group": 2}, {"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER"}])
def test_other_convolutions_stay(how) -> None:
    kernel = normal(4, 2 // how.get("group", 1), 3, 3)
    data = document([N("Conv", ["x", "k"], ["y"], strides=[1, 1], **how)], (2, 2, 8, 8), k=kernel)
    assert products(data) == data


def test_tiles_share_their_input_but_pay_for_their_matrix() -> None:
    assert tile_cost((8, 8), 9, 8) == 64 * 18 + 4.5
    assert tile_cost((8, 1), 24, 64) == 8 * 89 + 96


def test_a_mean_after_a_convolution_becomes_part_of_it() -> None:
    data = document(
        [N("Conv", ["x", "k", "b"], ["c"], strides=[1, 2], pads=[1, 1, 1, 1]),
         N("AveragePool", ["c"], ["y"], kernel_shape=[2, 3], strides=[2, 3])],
        (2, 2, 6, 11), k=normal(3, 2, 3, 3), b=normal(3),
    )
    after = merge_pools(data)
    assert kinds(after) == ["Conv"]
    assert_same(data, after, (2, 2, 6, 11))
    assert_same(data, products(after), (2, 2, 6, 11))


@pytest.mark.parametrize("how", [
    {"kernel_shape": [2, 2], "strides": [1, 1]}, {"kernel_shape": [4, 4], "strides": [4, 4]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]},
], ids=["overlapping", "cut", "padded"])
def test_other_means_stay(how) -> None:
    data = document(
        [N("Conv", ["x", "k"], ["c"], strides=[1, 1]), N("Relu", ["c"], ["r"]),
         N("AveragePool", ["r"], ["p"], **how),
         N("Flatten", ["p"], ["f"]), N("ReduceSum", ["f"], ["y"])],
        (2, 1, 8, 8), k=normal(2, 1, 3, 3),
    )
    assert merge_pools(data) == data and lean(data) == data


@pytest.mark.parametrize("pool", ["AveragePool", "GlobalAveragePool"])
def test_a_mean_before_a_linear_node_becomes_a_sum(pool: str) -> None:
    how = {"kernel_shape": [2, 3], "strides": [2, 3]} if pool == "AveragePool" else {}
    data = document(
        [N("Relu", ["x"], ["r"]), N(pool, ["r"], ["p"], **how), N("Flatten", ["p"], ["f"]),
         N("MatMul", ["f", "w"], ["y"])],
        (2, 3, 4, 6), w=normal(12 if how else 3, 5),
    )
    after = lean(data)
    assert kinds(after) == ["Abs", "Add", "Reshape", "ReduceSum", "Flatten", "MatMul"]
    assert_same(data, after, (2, 3, 4, 6))
