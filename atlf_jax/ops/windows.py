"""A CT seen through several windows at once, as channels for a network and as one picture."""

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float, jaxtyped

from atlf_jax.array_types import Array

__all__ = ["ct_channels", "ct_picture"]


@jaxtyped(typechecker=beartype)
def ct_channels(ct: Float[Array, "b *k h w"]) -> Float[Array, "b h w f"]:
    """Return a CT as channels, one for each window.

    Args:
        ct: ``[b, h, w]`` of one window, ``[b, k, h, w]`` of several.

    Example:
        >>> ct_channels(jnp.zeros((1, 4, 5))).shape, ct_channels(jnp.zeros((1, 3, 4, 5))).shape
        ((1, 4, 5, 1), (1, 4, 5, 3))
    """
    return ct[..., None] if ct.ndim == 3 else jnp.moveaxis(ct, 1, -1)


@jaxtyped(typechecker=beartype)
def ct_picture(ct: Float[Array, "b *k h w"]) -> Float[Array, "b h w"]:
    """Return a CT as one picture in [0, 1]: the mean of its windows, which shows what any of them shows.

    Each window rises with the Hounsfield unit or is flat, so their mean rises wherever one of them does.

    Args:
        ct: ``[b, h, w]`` of one window, which stays as it is, or ``[b, k, h, w]`` of several.

    Example:
        >>> ct_picture(jnp.array([[[[0.0]], [[0.5]]]])).tolist()
        [[[0.25]]]
    """
    return ct if ct.ndim == 3 else ct.mean(axis=1)
