"""A small classifier of handwritten digits."""

from __future__ import annotations

import jax
from flax import nnx


class DigitsMLP(nnx.Module):
    """64 pixels in 0..1 -> 32 hidden units with ReLU -> 10 logits, one a digit: 2,368 multiply-adds."""

    def __init__(self, hidden: int = 32, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(64, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows x (B, 64) float32 -> logits (B, 10) float32."""
        return self.out(nnx.relu(self.hidden(x)))
