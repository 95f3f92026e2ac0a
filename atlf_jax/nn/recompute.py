"""Less memory for more time: keep a module's inputs only, and compute its insides again in the backward pass."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["recompute"]


def recompute(module: nn.Module, *arrays: Any, **static: Any) -> Any:
    """Return ``module(*arrays, **static)``; its insides are not kept for the gradient but computed again.

    ``jax.checkpoint`` alone saves nothing on a CPU: XLA drops its barrier there, finds that everything is computed
    twice, and keeps the first. So the order is written into the values: what was kept waits for the gradient that comes
    back, and the gradients handed on wait for each other, so that no product of weights is put off to the end with all
    that it needs (docs/DESIGN.md, 23).

    Args:
        module: any module.
        arrays: its positional arguments, pytrees of arrays.
        static: its keyword arguments, which are not differentiated.
    """

    def apply(module: nn.Module, *arrays: Any) -> Any:
        return module(*arrays, **static)

    def forward(module: nn.Module, *arrays: Any) -> tuple[Any, Any]:
        return nn.vjp(nn.remat(apply, prevent_cse=False), module, *arrays)

    def backward(kept: Any, gradient: Any) -> Any:
        gradients = _after(kept, gradient)(gradient)
        return _after(gradients, gradients)

    return nn.custom_vjp(apply, forward, backward)(module, *arrays)


def _after(values: Any, first: Any) -> Any:
    """Return the values, unchanged, but not before every array of ``first`` is there.

    Zero times an entry of each is added. A compiler may not drop that: the entry could be NaN.
    """
    zero = sum(0 * leaf.ravel()[0].real for leaf in jax.tree.leaves(first) if _is_inexact(leaf))
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype) if _is_inexact(leaf) else leaf, values)


def _is_inexact(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
