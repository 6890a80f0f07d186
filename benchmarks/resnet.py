"""A ResNet-50-sized CNN in Flax, for measurements: 25.6 million weights, 4.1 billion multiply-adds a row of 224x224x3.

References: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1, with the
stride in the 3x3 product, as everybody has it now.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn


class Bottleneck(nn.Module):
    """1x1 to ``width``, 3x3 with ``stride``, 1x1 to four times ``width``, and what came in on top."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H / stride, W / stride, 4 width) float32."""
        def norm(y: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=True)(y)

        y = nn.relu(norm(nn.Conv(self.width, (1, 1), use_bias=False)(x)))
        y = nn.relu(norm(nn.Conv(self.width, (3, 3), (self.stride, self.stride), use_bias=False)(y)))
        y = norm(nn.Conv(4 * self.width, (1, 1), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm(nn.Conv(4 * self.width, (1, 1), (self.stride, self.stride), use_bias=False)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """``blocks`` bottlenecks in each of four stages, of twice the width and half the size each; ResNet-50 by default."""

    blocks: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows (B, H, W, 3) float32 -> logits (B, classes) float32."""
        x = nn.Conv(self.width, (7, 7), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                x = Bottleneck(self.width << stage, 2 if stage and not block else 1)(x)
        return nn.Dense(self.classes)(x.mean((1, 2)))
