"""Train DigitsResidual on the 1,437 rows that are not held out and write digits_residual.safetensors.

    python jobs/digits_residual/train.py

Half a minute on one core; needs optax: pip install 'enclaveml[train]'.

Seed, split, order and number of steps are fixed, and no choice is made by looking at the held-out
rows: their accuracy is measured once, at the end.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import save_file

from residual_model import DigitsResidual

HERE = Path(__file__).parent
SEED = 0
STEPS = 1200
BATCH = 128


def main() -> None:
    data = np.load(HERE.parent / "digits/digits.npz")
    train = np.setdiff1d(np.arange(len(data["x_all"])), data["rows"])
    x, y = jnp.asarray(data["x_all"][train]), jnp.asarray(data["y_all"][train])
    graph, params, statistics = nnx.split(DigitsResidual(rngs=nnx.Rngs(SEED)), nnx.Param, nnx.BatchStat)
    optimiser = optax.adamw(optax.cosine_decay_schedule(1e-2, STEPS), weight_decay=1e-2)

    def loss(params, statistics, rows):
        # A copy of the statistics, which belongs to this trace: training changes them.
        model = nnx.merge(graph, params, jax.tree.map(jnp.array, statistics))
        model.train()
        logits = model(x[rows])
        # Smoothed labels keep the logits within a few units: fixed point needs no wide range.
        soft = optax.smooth_labels(jax.nn.one_hot(y[rows], 10), 0.1)
        return optax.softmax_cross_entropy(logits, soft).mean(), nnx.state(model, nnx.BatchStat)

    @jax.jit
    def step(carry, key):
        params, statistics, slots = carry
        rows = jax.random.randint(key, (BATCH,), 0, len(x))
        gradient, statistics = jax.grad(loss, has_aux=True)(params, statistics, rows)
        updates, slots = optimiser.update(gradient, slots, params)
        return (optax.apply_updates(params, updates), statistics, slots), None

    keys = jax.random.split(jax.random.key(SEED), STEPS)
    (params, statistics, _), _ = jax.lax.scan(step, (params, statistics, optimiser.init(params)), keys)
    model = nnx.merge(graph, params, statistics)
    model.eval()
    for name, rows, digits in (("training", x, y), ("held-out", data["x"], data["y"])):
        print(f"{name} accuracy {float((model(rows).argmax(1) == digits).mean()):.4f} ({len(rows)} rows)")
    weights = {".".join(map(str, path)): np.asarray(v.get_value()) for path, v in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))}
    save_file(weights, HERE / "digits_residual.safetensors")


if __name__ == "__main__":
    main()
