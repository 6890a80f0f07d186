"""Train Co2Gru on the 417 windows that are not held out and write co2.safetensors.

    python jobs/co2/train.py

Half a minute on one core; needs optax: pip install 'enclaveml[train]'.

Seed, split, order and number of steps are fixed, and no choice is made by looking at the held-out
windows: their error is measured once, at the end.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import save_file

from co2_model import Co2Gru

HERE = Path(__file__).parent
SEED = 0
STEPS = 1500
BATCH = 64


def main() -> None:
    data = np.load(HERE / "co2.npz")
    train = slice(0, len(data["x_all"]) - len(data["x"]))
    x, y = jnp.asarray(data["x_all"][train]), jnp.asarray(data["y_all"][train])
    graph, state, rest = nnx.split(Co2Gru(rngs=nnx.Rngs(SEED)), nnx.Param, ...)  # the rest: the cell's random keys
    optimiser = optax.adamw(optax.cosine_decay_schedule(1e-2, STEPS), weight_decay=1e-3)

    def loss(state, rows):
        return jnp.mean((nnx.merge(graph, state, rest)(x[rows])[:, 0] - y[rows]) ** 2)

    @jax.jit
    def step(carry, key):
        state, slots = carry
        rows = jax.random.randint(key, (BATCH,), 0, len(x))
        updates, slots = optimiser.update(jax.grad(loss)(state, rows), slots, state)
        return (optax.apply_updates(state, updates), slots), None

    keys = jax.random.split(jax.random.key(SEED), STEPS)
    (state, _), _ = jax.lax.scan(step, (state, optimiser.init(state)), keys)
    model = nnx.merge(graph, state, rest)
    for name, rows, truth in (("training", x, y), ("held-out", data["x"], data["y"])):
        print(f"{name} mean absolute error {float(jnp.abs(model(rows)[:, 0] - truth).mean()):.4f} ({len(rows)} rows)")
    weights = {".".join(map(str, path)): np.asarray(v.get_value()) for path, v in nnx.to_flat_state(state)}
    save_file(weights, HERE / "co2.safetensors")


if __name__ == "__main__":
    main()
