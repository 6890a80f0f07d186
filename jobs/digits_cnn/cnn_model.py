"""A small convolutional classifier of handwritten digits."""

from __future__ import annotations

import jax
from flax import nnx


class DigitsCNN(nnx.Module):
    """64 pixels in 0..1, as an 8x8 image -> two 3x3 convolutions, each with 2x2 means and ReLU -> 10 logits.

    23,680 multiply-adds a row. The means come before the ReLU, as in LeNet-5: 192 ReLUs a row instead of
    768, and a ReLU costs more to prove than twenty multiply-adds.
    """

    def __init__(self, channels: tuple[int, int] = (8, 16), *, rngs: nnx.Rngs) -> None:
        first, second = channels
        self.first = nnx.Conv(1, first, (3, 3), rngs=rngs)
        self.second = nnx.Conv(first, second, (3, 3), rngs=rngs)
        self.out = nnx.Linear(4 * second, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows x (B, 64) float32 -> logits (B, 10) float32."""
        x = x.reshape(x.shape[0], 8, 8, 1)
        for convolution in (self.first, self.second):
            x = nnx.relu(nnx.avg_pool(convolution(x), window_shape=(2, 2), strides=(2, 2)))
        return self.out(x.reshape(x.shape[0], -1))
