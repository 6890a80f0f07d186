"""Checkpoints of every kind give the same model, and name what they lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enclaveml.checkpoints import read_checkpoint
from enclaveml.errors import JobError
from enclaveml.model_package import package_model
from enclaveml.models import build_model
from enclaveml.weights import read_weights

MODELS = '''
from flax import linen as nn, nnx
import jax.numpy as jnp

class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
        return nn.Dense(3)(jnp.maximum(x, 0))

class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden, self.norm = nnx.Linear(4, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        self.drop, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)
    def __call__(self, x):
        return self.out(self.drop(jnp.maximum(self.norm(self.hidden(x)), 0)))
'''
ROWS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "m.py").write_text(MODELS)
    return folder


@pytest.fixture(scope="module")
def linen(folder):
    """Variables of a Linen model that no seed-0 initialisation gives, and its outputs for ROWS."""
    import jax

    scope: dict = {}
    exec(MODELS, scope)
    module = scope["Linen"]()
    variables = module.init(jax.random.key(7), ROWS)
    variables = jax.tree.map(lambda a: a + np.float32(0.125), variables)
    return variables, np.asarray(module.apply(variables, ROWS))


def outputs(folder: Path, name: str, weights: Path) -> np.ndarray:
    model = build_model(package_model(f"m.py:{name}", {}, weights, folder), (4,), np.float32, folder)
    return np.asarray(model.apply(ROWS))


def refusal(path: Path) -> str:
    with pytest.raises(JobError) as caught:
        read_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("separator", ["/", "."])
def test_npz_of_a_linen_model(folder, linen, tmp_path, separator):
    from flax.traverse_util import flatten_dict

    np.savez(tmp_path / "w.npz", **{separator.join(k): v for k, v in flatten_dict(linen[0]).items()})
    np.testing.assert_allclose(outputs(folder, "Linen", tmp_path / "w.npz"), linen[1], atol=1e-6)


def test_msgpack_of_a_training_state(folder, linen, tmp_path, caplog):
    import optax
    from flax.serialization import to_bytes
    from flax.training.train_state import TrainState

    class State(TrainState):
        batch_stats: dict

    state = State.create(apply_fn=None, params=linen[0]["params"], tx=optax.adam(1e-3), batch_stats=linen[0]["batch_stats"])
    (tmp_path / "w.msgpack").write_bytes(to_bytes(state))
    with caplog.at_level("INFO"):
        np.testing.assert_allclose(outputs(folder, "Linen", tmp_path / "w.msgpack"), linen[1], atol=1e-6)
    assert "weights w.msgpack: left out opt_state, step: of training, not of the model" in caplog.text


def test_orbax_of_an_nnx_model(folder, tmp_path):
    import orbax.checkpoint as ocp
    from flax import nnx

    scope: dict = {}
    exec(MODELS, scope)
    module = scope["Nnx"](nnx.Rngs(7))
    module.eval()
    # What flax's guide to checkpoints saves: the whole state but the random keys' own type.
    state = nnx.to_pure_dict(nnx.split(module, nnx.RngState, ...)[2])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "ckpt", state)
    np.testing.assert_allclose(outputs(folder, "Nnx", tmp_path / "ckpt"), np.asarray(module(ROWS)), atol=1e-6)


def test_orbax_steps_of_a_manager(folder, linen, tmp_path):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager((tmp_path / "run").absolute()) as manager:
        manager.save(30, args=ocp.args.StandardSave(linen[0]))
        manager.wait_until_finished()
    np.testing.assert_allclose(outputs(folder, "Linen", tmp_path / "run" / "30"), linen[1], atol=1e-6)
    assert refusal(tmp_path / "run") == "run: model.weights: holds the checkpoints of steps 30; name one of them"


def test_leaves_of_a_saved_nnx_state_lose_their_value(tmp_path):
    np.savez(tmp_path / "w.npz", **{"hidden.kernel.value": np.ones(2), "hidden.bias.value": np.zeros(2)})
    assert sorted(read_checkpoint(tmp_path / "w.npz")) == ["hidden.bias", "hidden.kernel"]
    np.savez(tmp_path / "v.npz", **{"attention.value": np.ones(2), "hidden.bias": np.zeros(2)})
    assert sorted(read_checkpoint(tmp_path / "v.npz")) == ["attention.value", "hidden.bias"]


def test_what_a_checkpoint_lacks_is_listed(folder, linen, tmp_path):
    from flax.traverse_util import flatten_dict

    arrays = {".".join(k): np.asarray(v) for k, v in flatten_dict(linen[0]).items()}
    del arrays["params.Dense_1.bias"]
    arrays["params.Dense_0.kernel"] = arrays["params.Dense_0.kernel"].T
    np.savez(tmp_path / "w.npz", **arrays, **{"params.Dense_9.bias": np.zeros(3, "f4")})
    with pytest.raises(JobError) as caught:
        outputs(folder, "Linen", tmp_path / "w.npz")
    assert str(caught.value).splitlines() == [
        "w.npz: model.weights: missing Dense_1.bias (3) float32; the file has Dense_9.bias",
        "w.npz: model.weights: unexpected Dense_9.bias (3) float32; did you mean Dense_1.bias?",
        "w.npz: model.weights: Dense_0.kernel has shape (5, 4); the model needs (4, 5)",
    ]


def test_workers_are_sent_safetensors(folder, tmp_path):
    arrays = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.array(True), "c": np.arange(3, dtype="i8")}
    np.savez(tmp_path / "w.npz", **arrays)
    sent = read_weights(package_model("m.py:Linen", {}, tmp_path / "w.npz", folder).weights, "w")
    for name, a in arrays.items():
        np.testing.assert_array_equal(sent[name], a)
        assert sent[name].dtype == a.dtype


def test_what_is_no_checkpoint_is_refused(folder, tmp_path):
    (tmp_path / "w.npz").write_bytes(b"PK\3\4 and then nothing")
    assert refusal(tmp_path / "w.npz").startswith("w.npz: model.weights: no .npz file of plain arrays: ")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    assert "no .npz file of plain arrays: Object arrays cannot be loaded" in refusal(tmp_path / "objects.npz")
    (tmp_path / "w.msgpack").write_bytes(b"\xc1\xff")
    assert "no file of flax.serialization.to_bytes" in refusal(tmp_path / "w.msgpack")
    (tmp_path / "one.msgpack").write_bytes(b"\x07")
    assert refusal(tmp_path / "one.msgpack") == (
        "one.msgpack: model.weights: holds int, expected a mapping of names to arrays")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == (
        "empty: model.weights: a folder that is no Orbax checkpoint (no _METADATA in it)")
    np.savez(tmp_path / "complex.npz", a=np.zeros(2, "c8"))
    with pytest.raises(JobError, match="a has dtype complex64; allowed are numbers and booleans"):
        package_model("m.py:Linen", {}, tmp_path / "complex.npz", folder)


@pytest.mark.parametrize("separator", ["/", "."])
def test_safetensors_of_a_linen_model_under_flaxs_names(folder, linen, tmp_path, separator):
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save_file

    arrays = {separator.join(k): np.asarray(v) for k, v in flatten_dict(linen[0]).items()}
    save_file(arrays, tmp_path / "w.safetensors")
    np.testing.assert_allclose(outputs(folder, "Linen", tmp_path / "w.safetensors"), linen[1], atol=1e-6)
    save_file(arrays | {"Dense_0.kernel": np.zeros((4, 5), "f4")}, tmp_path / "two.safetensors")
    with pytest.raises(JobError, match="two.safetensors: model.weights: has Dense_0.kernel twice: with params and without"):
        outputs(folder, "Linen", tmp_path / "two.safetensors")


def test_safetensors_under_the_models_own_names_are_sent_as_they_are(folder, tmp_path):
    from safetensors.numpy import save_file

    save_file({"key.kernel": np.ones(2, "f4"), "step": np.ones(1, "f4")}, tmp_path / "w.safetensors")
    assert package_model("m.py:Nnx", {}, tmp_path / "w.safetensors", folder).weights == (tmp_path / "w.safetensors").read_bytes()


def test_weights_of_16_bits_are_widened(folder, linen, tmp_path, caplog):
    import ml_dtypes
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save_file

    narrow = {".".join(k): np.asarray(v).astype(ml_dtypes.bfloat16) for k, v in flatten_dict(linen[0]).items()}
    save_file(narrow, tmp_path / "n.safetensors")
    save_file({n: a.astype(np.float32) for n, a in narrow.items()}, tmp_path / "w.safetensors")
    with caplog.at_level("INFO"):
        given = outputs(folder, "Linen", tmp_path / "n.safetensors")
    np.testing.assert_array_equal(given, outputs(folder, "Linen", tmp_path / "w.safetensors"))
    assert f"weights n.safetensors: {len(narrow)} of {len(narrow)} arrays are of 16 bits; where the model's own are float32 they are widened" in caplog.text


def test_a_wrapped_checkpoint_is_refused_with_what_to_do(folder, linen, tmp_path):
    from flax.serialization import to_bytes

    (tmp_path / "w.msgpack").write_bytes(to_bytes({"model": linen[0]["params"]}))
    with pytest.raises(JobError) as caught:
        outputs(folder, "Linen", tmp_path / "w.msgpack")
    assert str(caught.value) == (
        "w.msgpack: model.weights: every name in it begins with model., which the model's own names do not; save what is under it "
        "alone (checkpoint['model'])")
