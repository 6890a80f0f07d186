"""Train DigitsEnsemble on the 1,437 rows that are not held out and write digits_ensemble.safetensors.

    python jobs/digits_ensemble/train.py

Half a minute on one core; needs optax: pip install 'enclaveml[train]'.

Each member is trained by itself on its own bootstrap sample of the rows. Seed, split, order and number of steps
are fixed, and no choice is made by looking at the held-out rows: their accuracy is measured once, at the end.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import save_file

from ensemble_model import DigitsEnsemble

HERE = Path(__file__).parent
SEED = 0
STEPS = 1200
BATCH = 128


def main() -> None:
    data = np.load(HERE.parent / "digits/digits.npz")
    train = np.setdiff1d(np.arange(len(data["x_all"])), data["rows"])
    x, y = jnp.asarray(data["x_all"][train]), jnp.asarray(data["y_all"][train])
    graph, state = nnx.split(DigitsEnsemble(rngs=nnx.Rngs(SEED)))
    members = len(nnx.merge(graph, state).out)
    bags = jax.random.randint(jax.random.key(SEED + 1), (members, len(x)), 0, len(x))
    optimiser = optax.adamw(optax.cosine_decay_schedule(1e-2, STEPS), weight_decay=1e-2)

    def loss(state, places):
        model, total = nnx.merge(graph, state), 0.0
        for member in range(members):  # no weight is shared: each member's gradient is its own loss's
            rows = bags[member][places]
            # Smoothed labels keep the logits within a few units: fixed point needs no wide range.
            soft = optax.smooth_labels(jax.nn.one_hot(y[rows], 10), 0.1)
            total += optax.softmax_cross_entropy(model.logits(x[rows])[member], soft).mean()
        return total

    @jax.jit
    def step(carry, key):
        state, slots = carry
        places = jax.random.randint(key, (BATCH,), 0, len(x))
        updates, slots = optimiser.update(jax.grad(loss)(state, places), slots, state)
        return (optax.apply_updates(state, updates), slots), None

    keys = jax.random.split(jax.random.key(SEED), STEPS)
    (state, _), _ = jax.lax.scan(step, (state, optimiser.init(state)), keys)
    model = nnx.merge(graph, state)
    for name, rows, digits in (("training", x, y), ("held-out", data["x"], data["y"])):
        alone = [f"{float((logits.argmax(1) == digits).mean()):.4f}" for logits in model.logits(rows)]
        print(f"{name} accuracy {float((model(rows).argmax(1) == digits).mean()):.4f}; "
              f"of each member {', '.join(alone)} ({len(rows)} rows)")
    weights = {".".join(map(str, path)): np.asarray(v.get_value()) for path, v in nnx.to_flat_state(state)}
    save_file(weights, HERE / "digits_ensemble.safetensors")


if __name__ == "__main__":
    main()
