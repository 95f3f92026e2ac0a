"""The CT adapter: what the CT adds to a network that can do without it."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float, Inexact, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import Conv, pixel_unshuffle, xavier
from atlf_jax.ops import ct_channels, ct_picture, to_channels
from atlf_jax.ops.differences import edge_field, total_variation_gradient

__all__ = ["CTAdapter", "guide"]

GUIDE_EDGE = 0.1  # a difference of the CT, in [0, 1], that is an edge: the largest, best of studies/solver_settings.py
GUIDE_SMOOTHING = 0.02  # differences of an image of peak 1 that are noise


@jaxtyped(typechecker=beartype)
def guide(image: Inexact[Array, "b h w"], ct: Float[Array, "b *k h w"]) -> Inexact[Array, "b h w"]:
    """Return what the edges of the CT change in the gradient of the image's total variation.

    ``grad TV_ct(x) - grad TV(x)`` with the directional total variation of ``ops.differences``: it lies on edges that
    the CT shares, whatever their sign and, once far above ``GUIDE_EDGE``, their height, and is zero where the CT is
    flat. So display window and contrast of the CT matter for its weak edges alone.

    Args:
        image: x, ``[b, h, w]``, real or complex.
        ct: in [0, 1], ``[b, h, w]``, or ``[b, k, h, w]`` of k windows, of which the mean is taken.

    Returns:
        ``[b, h, w]``.

    Example:
        >>> import jax, numpy as np
        >>> edge = np.array([[[0, 1, 1, 0]] * 2], np.float32)
        >>> flat, shared = (np.asarray(jax.jit(guide)(edge, ct)) for ct in (0 * edge, edge))
        >>> bool(flat.any()), bool(shared.any())
        (False, True)

    Source: ours, from Ehrhardt and Betcke 2016.
    """
    edges = edge_field(ct_picture(ct), GUIDE_EDGE)
    guided, plain = (
        total_variation_gradient(image, field, smoothing=GUIDE_SMOOTHING) for field in (edges, jnp.zeros_like(edges))
    )
    return guided - plain


class CTAdapter(nn.Module):
    """Add features of the CT to those of a phase: f + W3 relu(W2 relu(W1 [c, f])); without a CT the result is f.

    ``c`` are the CT's channels, its guide, or both. W3 starts at zero, so that an adapter can be added to a
    network that was trained without CT. A CT that is zero everywhere counts as no CT.

    Source: ours; a small network beside a trained one, which starts at zero, is the adapter of Houlsby et al. 2019 and
    the zero convolution of ControlNet (Zhang et al. 2023).
    """

    sees: Literal["ct", "guide", "ct+guide"] = "ct+guide"
    features: int = 32  # between the convolutions
    stride: int = 1  # side of the cells of pixels that the features stand for

    @nn.compact
    def __call__(
        self, f: Float[Array, "b h1 w1 f"], image: Inexact[Array, "b h w"], ct: Float[Array, "b *k h w"]
    ) -> Float[Array, "b h1 w1 f"]:
        has_ct = (ct_picture(ct).max((-2, -1)) > 0)[:, None, None, None]
        c = pixel_unshuffle(jnp.concatenate(self._channels(image, ct), axis=-1).astype(f.dtype), self.stride)
        hidden = nn.relu(Conv(self.features, kernel_init=xavier, name="conv1")(jnp.concatenate([c, f], axis=-1)))
        hidden = nn.relu(Conv(self.features, kernel_init=xavier, name="conv2")(hidden))
        added = Conv(f.shape[-1], kernel_init=nn.initializers.zeros, name="conv3")(hidden)
        return f + jnp.where(has_ct, added, 0)

    def _channels(self, image: Array, ct: Array) -> list[Float[Array, "b h w c"]]:
        channels = []
        if "ct" in self.sees:
            channels.append(ct_channels(ct))
        if "guide" in self.sees:
            field = guide(image, ct)
            channels.append(to_channels(field) if jnp.iscomplexobj(field) else field[..., None])
        return channels
