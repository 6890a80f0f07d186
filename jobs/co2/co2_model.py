"""A small recurrent forecast of the monthly change of carbon dioxide in the air."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Co2Gru(nnx.Module):
    """Twelve monthly changes (ppm) -> a GRU of 4 units, two months a step -> the next month's change (ppm).

    The steps are a loop in Python: a circuit has no loops (nnx.RNN is one), so each step is in it by itself.
    """

    def __init__(self, units: int = 4, months: int = 2, *, rngs: nnx.Rngs) -> None:
        self.units, self.months = units, months
        self.cell = nnx.GRUCell(months, units, rngs=rngs)
        self.out = nnx.Linear(units, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows x (B, 12) float32 -> (B, 1) float32."""
        hidden = jnp.zeros((x.shape[0], self.units), x.dtype)
        for month in range(0, x.shape[1], self.months):
            hidden, _ = self.cell(hidden, x[:, month : month + self.months])
        return self.out(hidden)
