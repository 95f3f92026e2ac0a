"""Save memory at the cost of time: keep only a module's inputs and recompute its activations in the backward pass."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlf_jax.array_types import Array
from atlf_jax.nn import backend

__all__ = ["REUSED_NAME", "SAVED_NAME", "keep_products", "recompute"]

SAVED_NAME = "kept"  # checkpoint_name of arrays that are small and slow to compute: these are kept
REUSED_NAME = "reused"  # of arrays that cost a kernel of their own to compute again: ``keep_products`` keeps these too
WIDENING = 3  # a matrix product whose result is so many times its argument is computed again


def recompute(module: nn.Module, *arrays: Any, **static: Any) -> Any:
    """Return ``module(*arrays, **static)``; activations are recomputed for the gradient, except those of SAVED_NAME.

    ``jax.checkpoint`` alone saves no memory on a CPU: XLA removes its barrier there, merges the two equal computations
    and keeps the activations. Here the kept inputs depend on the incoming gradient: zero times one of its entries is
    added, which a compiler must not remove, since the entry could be NaN (docs/DESIGN.md, 23).

    Args:
        module: any module.
        arrays: its positional arguments, pytrees of arrays.
        static: its keyword arguments, which are not differentiated.
    """

    def apply(module: nn.Module, *arrays: Any) -> Any:
        return module(*arrays, **static)

    policy = jax.checkpoint_policies.save_only_these_names(SAVED_NAME)

    def forward(module: nn.Module, *arrays: Any) -> tuple[Any, Any]:
        return nn.vjp(nn.remat(apply, policy=policy), module, *arrays)

    def backward(kept: Any, gradient: Any) -> Any:
        zero = next(0 * leaf.ravel()[0].real for leaf in jax.tree.leaves(gradient) if _is_inexact(leaf))
        later = jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype) if _is_inexact(leaf) else leaf, kept)
        return later(gradient)

    return nn.custom_vjp(apply, forward, backward)(module, *arrays)


def keep_products(module: nn.Module, *arrays: Any, **static: Any) -> Any:
    """Return ``module(*arrays, **static)``; on an accelerator the backward pass computes what is cheap again.

    Kept are convolutions, transforms, matrix products unless they widen their argument much, and named arrays;
    activations, gates and depthwise convolutions, which are bound by the bytes that they read, are computed again. On a
    CPU nothing is.

    Args:
        module: any module.
        arrays: its positional arguments, pytrees of arrays.
        static: its keyword arguments, which are not differentiated.
    """
    if not backend.accelerated():
        return module(*arrays, **static)
    return nn.remat(lambda module, *arrays: module(*arrays, **static), policy=_is_kept)(module, *arrays)


def _is_kept(primitive: Any, *given: Any, **parameters: Any) -> bool:
    if primitive.name == "name":
        return parameters["name"] in (SAVED_NAME, REUSED_NAME)
    if primitive.name == "dot_general":
        (left, right), (_, batch) = parameters["dimension_numbers"]
        free = [size for axis, size in enumerate(given[1].shape) if axis not in (*right, *batch)]
        result = math.prod(free) * given[0].size // math.prod(given[0].shape[axis] for axis in left)
        return result < WIDENING * max(array.size for array in given)
    return primitive.name in ("conv_general_dilated", "fft")


def _is_inexact(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
