"""A small residual network with BatchNorm for handwritten digits."""

from __future__ import annotations

import jax
from flax import nnx


class DigitsResidual(nnx.Module):
    """64 pixels in 0..1, as an 8x8 image -> convolution with stride 2, one residual block, mean -> 10 logits.

    Each convolution is followed by BatchNorm, whose running statistics are part of the weights.
    """

    def __init__(self, channels: int = 8, *, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, channels, (3, 3), strides=(2, 2), use_bias=False, rngs=rngs)
        self.first = nnx.Conv(channels, channels, (3, 3), use_bias=False, rngs=rngs)
        self.second = nnx.Conv(channels, channels, (3, 3), use_bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(channels, momentum=0.9, rngs=rngs) for _ in range(3)])
        self.out = nnx.Linear(4 * channels, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows x (B, 64) float32 -> logits (B, 10) float32."""
        x = nnx.relu(self.norms[0](self.stem(x.reshape(x.shape[0], 8, 8, 1))))
        y = nnx.relu(self.norms[1](self.first(x)))
        x = nnx.relu(x + self.norms[2](self.second(y)))
        x = nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        return self.out(x.reshape(x.shape[0], -1))
