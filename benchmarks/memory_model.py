"""A model that is cheap beside its rows: for measuring memory and transfers, not inference."""

from __future__ import annotations

import jax
from flax import nnx


class Pooled(nnx.Module):
    """512x512 values, averaged over 64x64 squares, then a linear map to 10 outputs."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows x (B, 512, 512) float32 -> (B, 10) float32."""
        return self.out(x.reshape(-1, 8, 64, 8, 64).mean((2, 4)).reshape(-1, 64))
