"""A small classifier of breast masses."""

from __future__ import annotations

import jax
from flax import nnx


class CancerMLP(nnx.Module):
    """30 standardised features -> 16 hidden units with ReLU -> 2 logits (malignant, benign)."""

    def __init__(self, hidden: int = 16, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(30, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows x (B, 30) float32 -> logits (B, 2) float32: class 0 malignant, class 1 benign."""
        return self.out(nnx.relu(self.hidden(x)))
