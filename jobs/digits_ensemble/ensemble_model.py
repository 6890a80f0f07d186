"""An ensemble of three small networks for handwritten digits, with their vote inside the model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class DigitsEnsemble(nnx.Module):
    """64 pixels in 0..1 -> three members 64-16-10 with ReLU, weights of their own -> the mean of their softmaxes.

    The vote is part of the function that is proved: who checks a row checks all members and their mean.
    """

    def __init__(self, members: int = 3, hidden: int = 16, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.List([nnx.Linear(64, hidden, rngs=rngs) for _ in range(members)])
        self.out = nnx.List([nnx.Linear(hidden, 10, rngs=rngs) for _ in range(members)])

    def logits(self, x: jax.Array) -> list[jax.Array]:
        """Each member's logits (B, 10)."""
        return [out(nnx.relu(hidden(x))) for hidden, out in zip(self.hidden, self.out, strict=True)]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows x (B, 64) float32 -> probabilities (B, 10) float32."""
        votes = [nnx.softmax(logits) for logits in self.logits(x)]
        return sum(votes[1:], votes[0]) * jnp.float32(1 / len(votes))
