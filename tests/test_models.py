"""Models packed into bytes and built from them: NNX and Linen, names, outputs, fingerprints, errors."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from enclaveml.errors import FormatError, JobError
from enclaveml.models import ModelPackage, build_model, function_fingerprint, package_model

DIGITS = Path(__file__).parent.parent / "jobs" / "digits"
HEAD = ("import jax, jax.numpy as jnp\nimport numpy as np\nfrom flax import nnx\n"
        "from flax import linen as nn\n")

MLP = HEAD + """
class MLP(nnx.Module):
    def __init__(self, hidden=3, *, rngs):
        self.hidden = nnx.Linear(4, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, 2, rngs=rngs)
    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))
"""


INSTALL = ("install it on every node, or keep the model in one file: "
           "workers get that file alone, not its neighbours")


def package(code: str, name: str = "M", weights=None, **args) -> ModelPackage:
    return ModelPackage(f"m.py:{name}", code.encode(), args, None if weights is None else save(weights))


def build(code: str, name: str = "M", row_shape=(4,), dtype="float32", weights=None, parts=(), **args):
    return build_model(package(code, name, weights, **args), row_shape, dtype, parts=parts)


def refused(call, *args, **kwargs) -> list[str]:
    with pytest.raises(JobError) as caught:
        call(*args, **kwargs)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# -- packing

def test_package_round_trip():
    p = package_model("digits_model.py:DigitsMLP", {"hidden": 32}, DIGITS / "digits.safetensors", DIGITS)
    assert ModelPackage.from_bytes(p.to_bytes()) == p
    assert p.source == (DIGITS / "digits_model.py").read_bytes()
    bare = ModelPackage("a.b:C", None, {}, None)
    assert ModelPackage.from_bytes(bare.to_bytes()) == bare


@given(st.integers(0, 10_000), st.integers(0, 255), st.binary(max_size=4))
def test_damaged_packages_raise_format_errors_only(position, value, tail):
    good = ModelPackage("m.py:M", b"x = 1\n", {"a": [1, 2]}, b"weights").to_bytes()
    for short in (good[:position % len(good)], good + b"x" + tail):
        with pytest.raises(FormatError):
            ModelPackage.from_bytes(short)
    bad = bytearray(good)
    bad[position % len(good)] = value
    try:
        ModelPackage.from_bytes(bytes(bad))
    except FormatError:
        pass


def test_packing_names_every_missing_file_at_once(tmp_path):
    assert refused(package_model, "gone.py:M", {"f": {1, 2}}, tmp_path / "w.pt", tmp_path) == [
        f"gone.py: model.flax: cannot be read in {tmp_path}: No such file or directory",
        "w.pt: model.weights: is no .safetensors or .npz or .msgpack file and no Orbax checkpoint's folder; "
        "write one with safetensors.numpy.save_file",
        "gone.py:M: model.args.f: must be numbers, text, lists or mappings: "
        "Object of type set is not JSON serializable"]
    assert refused(package_model, "m.py:M", {}, tmp_path / "w.safetensors", tmp_path)[1] == (
        f"w.safetensors: model.weights: cannot be read in {tmp_path}: No such file or directory")


@pytest.mark.parametrize("flax", ["", "m.py", "m.py:", ":M", "a b:M", "m.py:1M", "a..b:M"])
def test_flax_is_a_file_or_a_module(flax, tmp_path):
    assert refused(package_model, flax, {}, None, tmp_path) == [
        f"{flax}: model.flax: is neither file.py:Class (relative to the job file) nor package.module:Class"]


# -- building

def test_digits_from_bytes_alone():
    p = package_model("digits_model.py:DigitsMLP", {}, DIGITS / "digits.safetensors", DIGITS)
    model = build_model(ModelPackage.from_bytes(p.to_bytes()), (64,), np.float32)
    assert (model.kind, model.outputs, model.initialised) == ("nnx", 10, False)
    assert list(model.state) == ["hidden.bias", "hidden.kernel", "out.bias", "out.kernel"]
    with np.load(DIGITS / "digits.npz") as data:
        out = np.asarray(model.function.apply(data["x"]))
        assert out.dtype == np.float32 and out.shape == (360, 10)
        assert (out.argmax(1) == data["y"]).mean() >= 0.965
    assert (model.function.row_shape, model.function.dtype) == ((64,), np.float32)


def test_without_weights_is_seed_0_and_says_so():
    one, two = build(MLP, "MLP", hidden=5), build(MLP, "MLP", hidden=5)
    assert one.initialised
    from flax import nnx
    kernel = nnx.Linear(4, 5, rngs=nnx.Rngs(0)).kernel
    np.testing.assert_array_equal(one.state["hidden.kernel"], kernel.get_value())
    np.testing.assert_array_equal(one.apply(rows(3, 4)), two.apply(rows(3, 4)))


def test_nnx_names_batch_norm_dropout_and_lists():
    code = HEAD + """
class M(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)])
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.9, rngs=rngs)
        self.scale = nnx.Variable(jnp.ones(()))
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.drop(self.norm(x)) * self.scale
"""
    model = build(code)
    assert list(model.state) == ["layers.0.bias", "layers.0.kernel", "layers.1.bias", "layers.1.kernel",
                                 "norm.bias", "norm.mean", "norm.scale", "norm.var", "scale"]
    w = {n: rows(*a.shape) for n, a in model.state.items()}
    w["norm.var"] = np.abs(w["norm.var"])
    x = rows(5, 4)
    y = (x @ w["layers.0.kernel"] + w["layers.0.bias"]) @ w["layers.1.kernel"] + w["layers.1.bias"]
    y = (y - w["norm.mean"]) / np.sqrt(w["norm.var"] + 1e-5) * w["norm.scale"] + w["norm.bias"]
    np.testing.assert_allclose(build(code, weights=w).apply(x), y * w["scale"], rtol=2e-5, atol=2e-5)


LINEN = HEAD + """
class M(nn.Module):
    hidden: int = 3
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(self.hidden, name="hidden")(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dropout(0.9, deterministic=not train)(x)
"""


def test_linen_names_collections_and_mode():
    model = build(LINEN)
    assert model.kind == "linen" and model.initialised
    assert sorted(model.state) == ["BatchNorm_0.bias", "BatchNorm_0.scale", "batch_stats.BatchNorm_0.mean",
                                   "batch_stats.BatchNorm_0.var", "hidden.bias", "hidden.kernel"]
    w = {n: np.abs(rows(*a.shape)) for n, a in model.state.items()}
    x = rows(5, 4)
    y = x @ w["hidden.kernel"] + w["hidden.bias"]
    y = (y - w["batch_stats.BatchNorm_0.mean"]) / np.sqrt(w["batch_stats.BatchNorm_0.var"] + 1e-5)
    y = y * w["BatchNorm_0.scale"] + w["BatchNorm_0.bias"]
    loaded = build(LINEN, weights=w)
    assert not loaded.initialised
    np.testing.assert_allclose(loaded.apply(x), y, rtol=2e-5, atol=2e-5)


def test_constructor_that_needs_real_arrays():
    """With weights, models are constructed without drawing initial values; these two do not stand that."""
    for line in ("assert float(rngs.params.key.get_value().shape == () and jnp.ones(3).sum()) == 3",
                 "table = jnp.arange(4.0); self.shift = lambda x: x + table"):
        code = HEAD + f"""
class M(nnx.Module):
    def __init__(self, rngs):
        self.shift = lambda x: x + jnp.arange(4.0)
        {line}
        self.out = nnx.Linear(4, 2, rngs=rngs)
    def __call__(self, x):
        return self.out(self.shift(x))
"""
        w = {"out.kernel": rows(4, 2), "out.bias": rows(2)}
        x = rows(3, 4)
        np.testing.assert_allclose(build(code, weights=w).apply(x),
                                   (x + np.arange(4)) @ w["out.kernel"] + w["out.bias"], rtol=1e-5, atol=1e-5)


def test_class_of_an_installed_package():
    p = ModelPackage("flax.nnx:Linear", None, {"in_features": 4, "out_features": 2}, None)
    assert build_model(p, (4,), "float32").outputs == 2


def test_neighbour_modules_of_the_job(tmp_path):
    (tmp_path / "blocks_of_test_models.py").write_text("WIDTH = 7\n")
    code = HEAD + ("from blocks_of_test_models import WIDTH\nclass M(nnx.Module):\n"
                   "    def __call__(self, x):\n        return x * WIDTH\n")
    path = list(sys.path)
    assert build_model(package(code), (4,), "float32", tmp_path).outputs == 4
    assert sys.path == path
    del sys.modules["blocks_of_test_models"]
    assert refused(build, code) == [
        "m.py:5: model.flax: while importing it: ModuleNotFoundError: No module named "
        "'blocks_of_test_models'; " + INSTALL,
        "    m.py:5 in <module>: from blocks_of_test_models import WIDTH"]


# -- inputs and outputs

def parameterless(body: str, arguments: str = "x") -> str:
    return HEAD + f"class M(nnx.Module):\n    def __call__(self, {arguments}):\n        {body}\n"


def test_several_outputs_in_sorted_order():
    model = build(parameterless("return {'b': x[:, :2], 'a': (x.argmax(1), x.reshape(-1, 2, 2) > 0)}"))
    assert [(p.name, p.shape, p.dtype) for p in model.outputs_layout] == [
        ("a.0", (), "int32"), ("a.1", (2, 2), "bool"), ("b", (2,), "float32")]
    x = rows(3, 4)
    out = np.asarray(model.apply(x))
    assert out.dtype == np.float32 and model.outputs == 7
    np.testing.assert_array_equal(out, np.concatenate([x.argmax(1)[:, None], x > 0, x[:, :2]], axis=1))


def test_one_dimensional_output():
    model = build(parameterless("return x.sum(1)"))
    assert model.outputs_layout[0].name == "output" and model.apply(rows(3, 4)).shape == (3, 1)


def test_several_inputs_are_slices_of_the_row():
    model = build(parameterless("return image.sum((1, 2)), extra * 2", "image, extra"), row_shape=(9,),
                  parts=[(2, 3), (3,)])
    x = rows(4, 9)
    out = np.asarray(model.apply(x))
    np.testing.assert_allclose(out[:, 0], x[:, :6].sum(1), rtol=1e-5)
    np.testing.assert_array_equal(out[:, 1:], x[:, 6:] * 2)
    assert build(parameterless("return x[:, 1, :1]"), row_shape=(2, 3), parts=[(2, 3)]).outputs == 1
    assert refused(build, parameterless("return x"), row_shape=(8,), parts=[(2, 3), (3,)]) == [
        "input.key: parts of shapes [(2, 3), (3,)] make rows of 9 values; the rows have shape (8,)"]


def test_integer_rows_feed_an_embedding():
    code = HEAD + """
class M(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Embed(10, 3, rngs=rngs)
    def __call__(self, x):
        return self.table(x)
"""
    assert build(code, row_shape=(5,), dtype="int32").outputs == 15


def test_products_are_at_full_precision():
    model = build(MLP, "MLP")
    text = jax.jit(model.apply).lower(rows(2, 4)).as_text()
    assert "HIGHEST" in text and "DEFAULT" not in text


@pytest.mark.parametrize(("body", "line"), [
    ("return x.sum()", "output output has shape () for 2 rows and () for 3; its first axis must be the rows, "
                       "and the others fixed"),
    ("return x, x @ x.T", "output 1 has shape (2, 2) for 2 rows and (3, 3) for 3; its first axis must be "
                          "the rows, and the others fixed"),
    ("return x + 1j", "output output is complex64; return real numbers"),
    ("return {}", "returns no array"),
])
def test_outputs_that_are_no_rows_of_numbers(body, line):
    assert refused(build, parameterless(body)) == [f"m.py: model.flax: {line}"]


# -- errors in the user's code

def test_syntax_error():
    assert refused(build, "x = 1\nclass M(:\n") == [
        "m.py:2: model.flax: does not compile: invalid syntax: class M(:"]


def test_class_that_is_not_there():
    assert refused(build, MLP, "MPL") == ["m.py: model.flax: has no class MPL; did you mean MLP?"]
    assert refused(build, MLP, "Qqqqq") == ["m.py: model.flax: has no class Qqqqq; it defines MLP"]
    assert refused(build, "x = 1") == ["m.py: model.flax: has no class M; it defines no Flax module"]


def test_not_a_flax_module():
    assert refused(build, MLP + "def mlp(): pass\n", "mlp") == [
        "m.py: model.flax: mlp is a function, no class derived from flax.nnx.Module or flax.linen.Module; "
        "it defines MLP"]


def test_package_that_is_not_installed():
    assert refused(build_model, ModelPackage("no_such_pkg.a:M", None, {}, None), (4,), "float32") == [
        "no_such_pkg.a: model.flax: while importing it: ModuleNotFoundError: No module named 'no_such_pkg'; "
        + INSTALL]


def test_arguments_all_at_once():
    code = HEAD + "class M(nnx.Module):\n    def __init__(self, width, depth=1, *, rngs):\n        pass\n"
    assert refused(build, code, widht=3, zzz=1) == [
        "m.py: model.args.widht: M has no such argument; did you mean width?",
        "m.py: model.args.zzz: M has no such argument; it takes width, depth",
        "m.py: model.args.width: M needs this argument"]
    assert refused(build, LINEN, hiden=3) == [
        "m.py: model.args.hiden: M has no such argument; did you mean hidden?"]


def test_constructor_that_fails():
    lines = refused(build, MLP, "MLP", hidden="x")
    assert lines[0].startswith("m.py:8: model.flax: constructing MLP: TypeError: ")
    assert lines[-1] == "    m.py:8 in __init__: self.hidden = nnx.Linear(4, hidden, rngs=rngs)"


def test_rows_of_the_wrong_width():
    lines = refused(build, MLP, "MLP", row_shape=(6,))
    assert lines[0].startswith("m.py:11: model.flax: running it on rows of shape (6,) float32: "
                               "TypeError: dot_general")
    assert lines[-1] == "    m.py:11 in __call__: return self.out(nnx.relu(self.hidden(x)))"
    # Linen's layers take their widths from the rows, so there it is the weights that do not fit.
    weights = {n: np.asarray(a) for n, a in build(LINEN).state.items()}
    assert refused(build, LINEN, row_shape=(6,), weights=weights) == [
        "weights: model.weights: hidden.kernel has shape (4, 3); the model needs (6, 3)"]


def test_trace_has_the_users_frames_only():
    code = HEAD + ("def inner(x):\n    raise RuntimeError('no\\n\\nlines')\nclass M(nnx.Module):\n"
                   "    def __call__(self, x):\n        return jax.jit(inner)(x)\n")
    assert refused(build, code) == [
        "m.py:6: model.flax: running it on rows of shape (4,) float32: RuntimeError: no",
        "    lines",
        "    called from m.py:9 in __call__: return jax.jit(inner)(x)",
        "    m.py:6 in inner: raise RuntimeError('no\\n\\nlines')"]


def test_weights_of_another_model():
    assert refused(build, MLP, "MLP", weights={"hidden.kernel": rows(4, 2), "hidden.bias": rows(3)}) == [
        "weights: model.weights: missing out.bias (2) float32",
        "weights: model.weights: missing out.kernel (3, 2) float32",
        "weights: model.weights: hidden.kernel has shape (4, 2); the model needs (4, 3)"]


# -- fingerprint

FINGERPRINT = """
    import sys
    from pathlib import Path
    from enclaveml.devices import bind_device
    bind_device("cpu", 0)
    from enclaveml.models import build_model, package_model
    folder = Path(sys.argv[1])
    p = package_model("digits_model.py:DigitsMLP", {}, folder / "digits.safetensors", folder)
    print(build_model(p, (64,), "float32", folder if sys.argv[2] == "folder" else None).function.fingerprint)
"""


def test_fingerprint_is_the_same_in_every_process():
    def one(how: str, seed: str) -> str:
        clean = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(FINGERPRINT), str(DIGITS), how],
                              text=True, capture_output=True, timeout=300,
                              env=clean | {"PYTHONHASHSEED": seed})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    first = one("folder", "1")
    assert len(first) == 64 and first == one("alone", "2")


def test_fingerprint_changes_with_anything_that_matters():
    base = build(MLP, "MLP")
    weights = {n: np.asarray(a).copy() for n, a in base.state.items()}
    same = build(MLP + "\n# a comment\n", "MLP", weights=weights)
    assert function_fingerprint(same) == function_fingerprint(base) == base.function.fingerprint
    others = []
    for name in weights:
        changed = {n: a.copy() for n, a in weights.items()}
        changed[name].flat[-1] = np.nextafter(changed[name].flat[-1], np.float32(9))
        others.append(build(MLP, "MLP", weights=changed))
    others.append(build(MLP.replace("relu", "tanh"), "MLP", weights=weights))
    constant = MLP.replace("return self", "return jnp.asarray(TABLE) + self")
    others += [build(constant + f"TABLE = jnp.array([1., {v}])\n", "MLP", weights=weights) for v in (2, 3)]
    others += [build(constant + f"TABLE = np.arange(2000, dtype='f4')[[0, {v}]]\n", "MLP", weights=weights)
               for v in (1500, 1501)]
    prints = {function_fingerprint(m) for m in [base, *others]}
    assert len(prints) == 1 + len(others)


def test_large_constants_are_not_elided_from_the_fingerprint():
    code = parameterless("return x[:, :1] + TABLE.sum()")
    one = build(code + "TABLE = jnp.arange(100000.)\n")
    two = build(code + "TABLE = jnp.arange(100000.).at[50000].set(0)\n")
    assert function_fingerprint(one) != function_fingerprint(two)
    assert jnp.arange(3.0).dtype == np.float32  # x64 is off: rows and outputs are float32


def test_inputs_of_two_types_reach_the_model_as_they_are():
    code = HEAD + """
class M(nnx.Module):
    def __init__(self, *, rngs):
        self.embed = nnx.Embed(5, 2, rngs=rngs)
    def __call__(self, ids, x):
        assert ids.dtype == jnp.int32 and x.dtype == jnp.float32
        return self.embed(ids).sum(1) + x
"""
    model = build_model(package(code, weights={"embed.embedding": np.arange(10, dtype=np.float32).reshape(5, 2)}), (5,), "float32",
                        parts=((3,), (2,)), types=("int32", "float32"))
    assert np.asarray(model.apply(np.array([[4, 0, 1, 0.5, 0.25]], np.float32))).tolist() == [[10.5, 13.25]]
