"""A small regression of diabetes progression."""

from __future__ import annotations

import jax
from flax import nnx


class DiabetesMLP(nnx.Module):
    """10 standardised measurements -> 16 hidden units with ReLU -> progression in a year, standardised."""

    def __init__(self, hidden: int = 16, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(10, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows x (B, 10) float32 -> (B, 1) float32."""
        return self.out(nnx.relu(self.hidden(x)))
