"""Which numbers are float32 when the features are bfloat16: parameters, statistics and whatever is summed or divided.

Every module computes in the dtype of its input. With features in float32 (or float64) nothing here does anything.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from atlf_jax.array_types import Array

__all__ = ["in_float32", "narrow", "parameter", "wide", "wide_dtype"]


def wide_dtype(dtype: Any) -> jnp.dtype:
    """Return float32, or float64 for float64.

    Example:
        >>> wide_dtype(jnp.bfloat16), wide_dtype(jnp.float64)
        (dtype('float32'), dtype('float64'))
    """
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits > 32 else jnp.dtype(jnp.float32)


def wide(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Return ``x`` in float32 at least.

    Example:
        >>> wide(jnp.ones(2, jnp.bfloat16)).dtype
        dtype('float32')
    """
    return x.astype(wide_dtype(x.dtype))


def narrow(x: Float[Array, "*b"], dtype: str) -> Float[Array, "*b"]:
    """Return ``x`` as what features are computed from: "float32" leaves it as it is, also if that is float64.

    Example:
        >>> narrow(jnp.ones(2), "bfloat16").dtype, narrow(jnp.ones(2), "float32").dtype
        (dtype(bfloat16), dtype('float32'))
    """
    return x.astype(jnp.bfloat16) if dtype == "bfloat16" else x


def parameter(module: nn.Module, name: str, init: Callable[..., Array], shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a parameter of ``module`` in ``dtype``; it is kept in float32 at least."""
    return module.param(name, init, shape, wide_dtype(dtype)).astype(dtype)


def in_float32(function: Callable[..., Array]) -> Callable[..., Array]:
    """Let a function compute in float32 at least; its result has the dtype of its first argument.

    Of bfloat16 arguments, these and no wider intermediate result are kept for the gradient, which computes the
    function again: elementwise functions and statistics are bound by the bytes that they read and write.

    Example:
        >>> def double(x):
        ...     print(x.dtype)
        ...     return 2 * x
        >>> in_float32(double)(jnp.ones(2, jnp.bfloat16)).dtype
        float32
        dtype(bfloat16)
    """

    @wraps(function)
    def computed(x: Array, *others: Any, **options: Any) -> Array:
        if x.dtype == wide_dtype(x.dtype):
            return function(x, *others, **options)

        @jax.checkpoint
        def widened(*arrays: Any) -> Array:
            return function(*jax.tree.map(lambda leaf: wide(jnp.asarray(leaf)), arrays), **options).astype(x.dtype)

        return widened(x, *others)

    return computed
