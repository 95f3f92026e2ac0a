"""A plain stack of convolutions, the denoiser of unrolled cascades."""

import flax.linen as nn
from jaxtyping import Float

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import Conv

__all__ = ["CNN"]


class CNN(nn.Module):
    """Compute conv(relu(conv(... relu(conv(x))))) with 3x3 convolutions and biases, at full resolution.

    The last convolution starts at zero, so that a residual network starts as the identity.

    Example:
        >>> import jax, numpy as np
        >>> x = np.ones((1, 8, 8, 3), np.float32)
        >>> output, _ = jax.jit(CNN(2, width=4, depth=2).init_with_output)(jax.random.key(0), x)
        >>> output.shape, bool(np.asarray(output).any())
        ((1, 8, 8, 2), False)
    """

    outputs: int
    width: int = 64
    depth: int = 5

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w k"]:
        for layer in range(self.depth - 1):
            x = nn.relu(
                Conv(self.width, use_bias=True, kernel_init=nn.initializers.he_normal(), name=f"conv_{layer}")(x)
            )
        return Conv(self.outputs, use_bias=True, kernel_init=nn.initializers.zeros, name=f"conv_{self.depth - 1}")(x)
