"""The cases of the table of layers: one layer or function each, as a user would write it with Flax or jax.numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclaveml.zk.interface import ModelFunction

Maker = Callable[[], Callable[[Any], Any]]


@dataclass(frozen=True)
class Case:
    """A layer: ``maker`` gives the function of rows (B, *shape). ``ids``: rows of whole numbers below it.

    ``grain``: rows are multiples of 1/grain, so that a coarse one hits whole numbers.
    """

    name: str
    shape: tuple[int, ...]
    maker: Maker
    note: str = ""
    ids: int = 0
    positive: bool = False
    grain: int = 16

    def make(self, rows: int) -> tuple[ModelFunction, np.ndarray]:
        """The function, and so many rows of it: multiples of 1/16 or coarser, so that inputs lose nothing at any scale."""
        rng = np.random.default_rng(5)
        if self.ids:
            data = rng.integers(0, self.ids, size=(rows, *self.shape)).astype(np.int32)
        else:
            data = (np.round(rng.normal(size=(rows, *self.shape)) * self.grain) / self.grain).astype(np.float32)
            data = np.abs(data) + np.float32(0.25) if self.positive else data
        return ModelFunction(self.maker(), self.shape, data.dtype, f"layer-{self.name}"), data


def _nnx(name: str, *args: Any, **more: Any) -> Maker:
    """A layer of flax.nnx with random weights, in inference mode."""

    def make() -> Callable[[Any], Any]:
        from flax import nnx

        layer = getattr(nnx, name)(*args, rngs=nnx.Rngs(0), **more)
        layer.eval()
        return _with_statistics(layer)

    return make


def _with_statistics(layer: Any) -> Any:
    """A norm's running statistics and gains as training leaves them: none is 0 or 1."""
    import jax.numpy as jnp

    for name, value in (("mean", 0.3), ("var", 1.7), ("scale", 1.2), ("bias", -0.4)):
        variable = getattr(layer, name, None)
        if type(layer).__name__.endswith("Norm") and variable is not None:
            variable.set_value(jnp.full_like(variable.get_value(), value))
    return layer


def _jax(function: Callable[[Any, Any, Any], Any]) -> Maker:
    """A function of (jax, jax.numpy, x)."""

    def make() -> Callable[[Any], Any]:
        import jax
        import jax.numpy as jnp

        return lambda x: function(jax, jnp, x)

    return make


def _pool(name: str, **more: Any) -> Maker:
    def make() -> Callable[[Any], Any]:
        from flax import nnx

        return lambda x: getattr(nnx, name)(x, **more)

    return make


def _residual() -> Callable[[Any], Any]:
    from flax import nnx

    rngs = nnx.Rngs(0)
    first, second = (nnx.Conv(2, 2, (3, 3), use_bias=False, rngs=rngs) for _ in range(2))
    norms = [_with_statistics(nnx.BatchNorm(2, use_running_average=True, rngs=rngs)) for _ in range(2)]
    return lambda x: nnx.relu(x + norms[1](second(nnx.relu(norms[0](first(x))))))


def _attention() -> Callable[[Any], Any]:
    from flax import nnx

    layer = nnx.MultiHeadAttention(num_heads=2, in_features=4, decode=False, rngs=nnx.Rngs(0))
    return lambda x: layer(x)


def _encoder() -> Callable[[Any], Any]:
    from flax import nnx

    rngs = nnx.Rngs(0)
    attention = nnx.MultiHeadAttention(num_heads=2, in_features=4, decode=False, rngs=rngs)
    norm, up, down = nnx.LayerNorm(4, epsilon=1e-3, rngs=rngs), nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def apply(x: Any) -> Any:
        x = norm(x + attention(x))
        return x + down(nnx.relu(up(x)))

    return apply


def _cell(name: str, pair: bool = False) -> Maker:
    """A recurrent cell over three steps of two numbers, unrolled; its last output."""

    def make() -> Callable[[Any], Any]:
        from flax import nnx
        import jax.numpy as jnp

        cell = getattr(nnx, name)(2, 3, rngs=nnx.Rngs(0))

        def apply(x: Any) -> Any:
            zero = jnp.zeros((x.shape[0], 3), x.dtype)
            carry, out = (zero, zero) if pair else zero, zero
            for step in range(3):
                carry, out = cell(carry, x[:, step])
            return out

        return apply

    return make


def _rnn() -> Callable[[Any], Any]:
    from flax import nnx

    return nnx.RNN(nnx.GRUCell(2, 3, rngs=nnx.Rngs(0)))


def _linen() -> Callable[[Any], Any]:
    import flax.linen as linen
    import jax

    layer = linen.Dense(3)
    variables = layer.init(jax.random.key(0), np.zeros((1, 6), np.float32))
    return lambda x: layer.apply(variables, x)


_UNROLL = "write the steps as a Python loop over the cell"

CASES: tuple[Case, ...] = (
    Case("`nnx.Linear`", (6,), _nnx("Linear", 6, 3), "a matrix product costs about its two sides, whatever the rows of a proof share"),
    Case("`linen.Dense`", (6,), _linen),
    Case("`nnx.Conv`, 1-D", (6, 2), _nnx("Conv", 2, 3, (3,))),
    Case("`nnx.Conv`, 2-D, `SAME`", (5, 5, 2), _nnx("Conv", 2, 3, (3, 3)), "proved as one matrix product of patches"),
    Case("`nnx.Conv`, 2-D, `VALID`, stride 2", (5, 5, 2), _nnx("Conv", 2, 3, (3, 3), strides=2, padding="VALID")),
    Case("`nnx.Conv`, depthwise", (5, 5, 2), _nnx("Conv", 2, 2, (3, 3), feature_group_count=2), "proved as a convolution: about two cells a multiply-add"),
    Case("`nnx.Conv`, dilated", (6, 2), _nnx("Conv", 2, 3, (3,), kernel_dilation=2, padding="VALID")),
    Case("`nnx.ConvTranspose`", (3, 3, 2), _nnx("ConvTranspose", 2, 2, (2, 2), strides=2)),
    Case("`nnx.max_pool`", (4, 4, 2), _pool("max_pool", window_shape=(2, 2), strides=(2, 2)), "call it with keywords"),
    Case("`nnx.avg_pool`", (4, 4, 2), _pool("avg_pool", window_shape=(2, 2), strides=(2, 2)), "before a dense layer or convolution its factor is folded into the weights"),
    Case("global mean over pixels", (4, 4, 2), _jax(lambda jax, jnp, x: jnp.mean(x, axis=(1, 2)))),
    Case("global maximum over pixels", (4, 4, 2), _jax(lambda jax, jnp, x: jnp.max(x, axis=(1, 2)))),
    Case("`nnx.BatchNorm`", (4,), _nnx("BatchNorm", 4, use_running_average=True), "after a convolution or dense layer it is folded into the weights, and costs nothing"),
    Case("`nnx.LayerNorm`, epsilon 1e-3", (6,), _nnx("LayerNorm", 6, epsilon=1e-3), "a smaller epsilon is 0 in fixed point: rows of equal values then fail"),
    Case("`nnx.LayerNorm` as it comes, epsilon 1e-6", (6,), _nnx("LayerNorm", 6), "its epsilon is 0: rows of equal values, or far below 1, have no witness; `enclaveml check` says so"),
    Case("`nnx.RMSNorm`, epsilon 1e-3", (6,), _nnx("RMSNorm", 6, epsilon=1e-3)),
    Case("`nnx.GroupNorm`, epsilon 1e-3", (4, 4, 2), _nnx("GroupNorm", 2, num_groups=2, epsilon=1e-3)),
    Case("`nnx.Dropout` in inference", (6,), _nnx("Dropout", 0.5, deterministic=True), "leaves the graph"),
    Case("residual block with BatchNorm", (4, 4, 2), _residual),
    Case("`nnx.MultiHeadAttention`, 2 heads", (3, 4), _attention, "every score takes an exponential and a division"),
    Case("encoder block", (3, 4), _encoder, "`jobs/digits_transformer`"),
    Case("`nnx.Embed`", (3,), _nnx("Embed", 5, 2), "ids as int32; an id outside the table is no proof", ids=5),
    Case("`nnx.SimpleCell`, unrolled", (3, 2), _cell("SimpleCell")),
    Case("`nnx.GRUCell`, unrolled", (3, 2), _cell("GRUCell"), "`jobs/co2`"),
    Case("`nnx.LSTMCell`, unrolled", (3, 2), _cell("LSTMCell", pair=True)),
    Case("`nnx.RNN`", (3, 2), _rnn, f"a scan: {_UNROLL}"),
    Case("`jax.lax.fori_loop`", (6,), _jax(lambda jax, jnp, x: jax.lax.fori_loop(0, 3, lambda i, y: y * 0.5 + x, x)), "a loop: write it as a Python loop"),
    Case("`relu`", (6,), _jax(lambda jax, jnp, x: jax.nn.relu(x)), "the cheapest activation; 11 cells where its factor folds into the next weights"),
    Case("`leaky_relu`", (6,), _jax(lambda jax, jnp, x: jax.nn.leaky_relu(x))),
    Case("`relu6`", (6,), _jax(lambda jax, jnp, x: jax.nn.relu6(x))),
    Case("`elu`", (6,), _jax(lambda jax, jnp, x: jax.nn.elu(x))),
    Case("`sigmoid`", (6,), _jax(lambda jax, jnp, x: jax.nn.sigmoid(x))),
    Case("`tanh`", (6,), _jax(lambda jax, jnp, x: jnp.tanh(x))),
    Case("`silu`", (6,), _jax(lambda jax, jnp, x: jax.nn.silu(x))),
    Case("`softplus`", (6,), _jax(lambda jax, jnp, x: jax.nn.softplus(x))),
    Case("`gelu`", (6,), _jax(lambda jax, jnp, x: jax.nn.gelu(x, approximate=False))),
    Case("`gelu`, approximate", (6,), _jax(lambda jax, jnp, x: jax.nn.gelu(x, approximate=True))),
    Case("`softmax`", (6,), _jax(lambda jax, jnp, x: jax.nn.softmax(x))),
    Case("`log_softmax`", (6,), _jax(lambda jax, jnp, x: jax.nn.log_softmax(x))),
    Case("product of two values", (6,), _jax(lambda jax, jnp, x: x[:, :3] * x[:, 3:])),
    Case("division by a value", (6,), _jax(lambda jax, jnp, x: x[:, :3] / x[:, 3:]), positive=True),
    Case("`sqrt`", (6,), _jax(lambda jax, jnp, x: jnp.sqrt(x)), positive=True),
    Case("`exp`", (6,), _jax(lambda jax, jnp, x: jnp.exp(x))),
    Case("`log`", (6,), _jax(lambda jax, jnp, x: jnp.log(x)), positive=True),
    Case("`sin`", (6,), _jax(lambda jax, jnp, x: jnp.sin(x)), "high frequencies need finer scales"),
    Case("`abs`", (6,), _jax(lambda jax, jnp, x: jnp.abs(x))),
    Case("`clip`", (6,), _jax(lambda jax, jnp, x: jnp.clip(x, -0.5, 0.5))),
    Case("`maximum` of two values", (6,), _jax(lambda jax, jnp, x: jnp.maximum(x[:, :3], x[:, 3:]))),
    Case("`where`", (6,), _jax(lambda jax, jnp, x: jnp.where(x > 0, x, 2 * x))),
    Case("`argmax`", (6,), _jax(lambda jax, jnp, x: jnp.argmax(x, axis=1).astype(jnp.float32)[:, None])),
    Case("`concatenate`, `transpose`, slices", (3, 2), _jax(lambda jax, jnp, x: jnp.concatenate([x.transpose(0, 2, 1)[:, :, 1:], x[:, 1:, :].transpose(0, 2, 1)], axis=1))),
    Case("`einsum` of two values", (3, 2), _jax(lambda jax, jnp, x: jnp.einsum("bij,bkj->bik", x, x))),
    Case("division by a norm", (6,), _jax(lambda jax, jnp, x: x / jnp.linalg.norm(x, axis=-1, keepdims=True))),
    Case("`sort`", (6,), _jax(lambda jax, jnp, x: jnp.sort(x, axis=-1)), "return the values, and sort outside the model"),
    Case("`top_k`", (6,), _jax(lambda jax, jnp, x: jax.lax.top_k(x, 2)[0]), "return all values, and choose outside the model"),
    Case("`jnp.tile`", (6,), _jax(lambda jax, jnp, x: jnp.tile(x, (1, 2)))),
    Case("`jnp.mod`", (6,), _jax(lambda jax, jnp, x: jnp.mod(x, 2))),
    Case("`jnp.fft.rfft`", (8,), _jax(lambda jax, jnp, x: jnp.abs(jnp.fft.rfft(x)))),
    Case("`jax.lax.cond`", (6,), _jax(lambda jax, jnp, x: jax.lax.cond(x.sum() > 0, lambda y: y, lambda y: -y, x)), "compute both sides and select with `jnp.where`"),
    Case("`jax.random`", (6,), _jax(lambda jax, jnp, x: x + jax.random.normal(jax.random.key(0), x.shape)), "leave it out in inference, or draw it before and give it as an input"),
    Case("`jax.image.resize`", (2, 2, 1), _jax(lambda jax, jnp, x: jax.image.resize(x, (x.shape[0], 4, 4, 1), "bilinear")), "repeat rows and columns with `jnp.repeat`"),
    Case("float compared with an integer", (6,), _jax(lambda jax, jnp, x: (x == 1).astype(jnp.float32)), "rewritten: ezkl's own comparison gives 2^-scale for 1", grain=2),
    Case("`where` two values are equal", (6,), _jax(lambda jax, jnp, x: jnp.where(x[:, :3] == x[:, 3:], 5.0, x[:, :3])), grain=2),
    Case("count of equal values", (6,), _jax(lambda jax, jnp, x: (x == 1).sum(axis=1, keepdims=True)), "rewritten as above", grain=2),
    Case("`astype(int32)` of floats", (6,), _jax(lambda jax, jnp, x: x.astype(jnp.int32).astype(jnp.float32)), "rewritten: ezkl's own cast rounds down, also below 0"),
    Case("`astype(bool)` of floats", (6,), _jax(lambda jax, jnp, x: x.astype(bool).astype(jnp.float32)), "rewritten: ezkl's own cast leaves the value as it is", grain=2),
    Case("`floor`", (6,), _jax(lambda jax, jnp, x: jnp.floor(x))),
)
