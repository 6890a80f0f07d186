"""The canonical ONNX form: same function, same bytes, nothing that ezkl misreads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zk_case

from enclaveml.errors import JobError
from enclaveml.zk import process
from enclaveml.zk.onnx_canonical import canonical

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def document(nodes, shape, out_shape, tensors=(), names=("x", "y")):
    graph = helper.make_graph(
        nodes, "any",
        [helper.make_tensor_value_info(names[0], 1, shape)], [helper.make_tensor_value_info(names[1], 1, out_shape)],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="someone")
    model.doc_string = "words"
    return model


def test_names_words_and_unused_tensors_do_not_count() -> None:
    w = np.ones((3, 2), np.float32)
    first = document([helper.make_node("MatMul", ["x", "w"], ["y"])], [2, 3], [2, 2], [("w", w)])
    second = document(
        [helper.make_node("MatMul", ["a", "weights"], ["b"], name="n7", doc_string="d")], [2, 3], [2, 2],
        [("unused", w * 3), ("weights", w)], names=("a", "b"),
    )
    assert canonical(first) == canonical(second)
    other = document([helper.make_node("MatMul", ["x", "w"], ["y"])], [2, 3], [2, 2], [("w", w * 2)])
    assert canonical(first) != canonical(other)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 6])
def test_padding_is_written_out_and_means_the_same(mode: str, stride: int, size: int) -> None:
    runtime = pytest.importorskip("onnx.reference")
    w = np.random.default_rng(0).normal(size=(2, 1, 2, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=mode, strides=[stride, stride])
    model = document([node], [2, 1, size, size], None, [("w", w)])
    data = canonical(model)
    found = onnx.load_from_string(data)
    attributes = {a.name for a in found.graph.node[0].attribute}
    assert "auto_pad" not in attributes and "pads" in attributes
    x = np.random.default_rng(1).normal(size=(2, 1, size, size)).astype(np.float32)
    expected = runtime.ReferenceEvaluator(model).run(None, {"x": x})[0]
    got = runtime.ReferenceEvaluator(found).run(None, {"input_0": x})[0]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_dropout_goes_also_at_the_end() -> None:
    middle = document(
        [helper.make_node("Dropout", ["x", "ratio"], ["d", "mask"]), helper.make_node("Relu", ["d"], ["y"])],
        [2, 3], [2, 3], [("ratio", np.float32(0.5))],
    )
    end = document([helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Dropout", ["r"], ["y"])], [2, 3], [2, 3])
    assert [n.op_type for n in onnx.load_from_string(canonical(middle)).graph.node] == ["Relu"]
    assert [n.op_type for n in onnx.load_from_string(canonical(end)).graph.node] == ["Relu", "Identity"]


def test_loops_are_refused_by_name() -> None:
    model = document([helper.make_node("Loop", ["", "", "x"], ["y"])], [2, 3], [2, 3])
    with pytest.raises(JobError) as caught:
        canonical(model)
    assert str(caught.value) == (
        "the model exports to an ONNX Loop node, a loop (lax.scan, fori_loop, while_loop, nnx.RNN), which cannot be proved: unroll it in "
        "Python: for t in range(steps)"
    )


@pytest.mark.ezkl
def test_the_model_hash_is_the_same_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import zk_case\n"
        "from enclaveml.zk.export import model_hash; print(model_hash(zk_case.function()))"
    )
    folder = str(zk_case.__file__.rsplit("/", 1)[0])
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True,
                         env={**process.child_environment(1), "JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]
    found = {job.communicate(timeout=300)[0].strip() for job in jobs}
    assert len(found) == 1
    assert len(found.pop()) == 64


@pytest.mark.ezkl
def test_a_function_that_does_not_export_says_so() -> None:
    from enclaveml.zk.export import export
    from enclaveml.zk.interface import ModelFunction

    def refused(x):
        raise RuntimeError("no such layer")

    with pytest.raises(JobError) as caught:
        export(ModelFunction(refused, (3,)), 2)
    text = str(caught.value)
    assert text.startswith("the model cannot be exported to ONNX: ")
    assert "no such layer" in text
    assert text.endswith("called with keywords: max_pool(x, window_shape=(2, 2), strides=(2, 2))")


def test_importing_the_proof_system_imports_neither_jax_nor_ezkl() -> None:
    code = (
        "import sys\n"
        "import enclaveml.zk.ezkl.system, enclaveml.zk.ezkl.statement, enclaveml.zk.ezkl.prepare\n"
        "print(sorted({'jax', 'jax2onnx', 'onnx', 'ezkl', 'mpi4py', 'h5py', 'flax'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env=process.child_environment(1))
    assert out.stdout.strip() == "[]"


def test_needless_parts_of_jax2onnx_are_not_imported() -> None:
    """In a process of its own: what is once imported stays."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import zk_case\n"
        "from enclaveml.zk.export import export\n"
        "export(zk_case.function(), 2)\n"
        "assert not any(type(finder).__name__ == '_Empty' for finder in sys.meta_path)\n"
        "parts = [m for m in sys.modules if m.startswith('jax2onnx.plugins.')]\n"
        "print(any('.flax.' in m for m in parts), any('.jax.' in m for m in parts))\n"
        "heavy = [m for m in parts if m.split('.')[2] in ('examples', 'equinox', 'dm_pix')]\n"
        "print([m for m in heavy if getattr(sys.modules[m], '__file__', None)])\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(Path(zk_case.__file__).parent)], capture_output=True, text=True,
        check=True, env={**process.child_environment(1), "JAX_PLATFORMS": "cpu"},
    )
    assert out.stdout.splitlines() == ["True True", "[]"]
