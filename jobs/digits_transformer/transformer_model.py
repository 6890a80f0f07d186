"""A small transformer encoder for handwritten digits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class DigitsTransformer(nnx.Module):
    """64 pixels in 0..1, as 4 tokens of 16 pixels -> one encoder block (2 heads) -> mean over tokens -> 10 logits.

    LayerNorm's epsilon is 1e-3: a smaller one is nothing in fixed point.
    """

    def __init__(self, width: int = 8, *, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Linear(16, width, rngs=rngs)
        self.position = nnx.Param(0.1 * jax.random.normal(rngs.params(), (4, width)))
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=width, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-3, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows x (B, 64) float32 -> logits (B, 10) float32."""
        x = self.embed(x.reshape(x.shape[0], 4, 16)) + self.position[...]
        x = self.norm(x + self.attention(x))
        x = x + self.down(nnx.relu(self.up(x)))
        return self.out(jnp.mean(x, axis=1))
