"""Less memory for more time: keep a module's inputs only, and compute its insides again in the backward pass."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from atlf_jax.array_types import Array

__all__ = ["KEPT", "recompute"]

KEPT = "kept"  # jax.ad_checkpoint.checkpoint_name of what is small, dear, and therefore kept all the same


def recompute(module: nn.Module, *arrays: Any, **static: Any) -> Any:
    """Return ``module(*arrays, **static)``; its insides are computed again for the gradient, but not those named KEPT.

    ``jax.checkpoint`` alone saves nothing on a CPU: XLA drops its barrier there, finds that everything is computed
    twice, and keeps the first. So the kept inputs are made to depend on the gradient that comes back, by adding zero
    times one of its entries, which a compiler may not drop: it could be NaN (docs/DESIGN.md, 23).

    Args:
        module: any module.
        arrays: its positional arguments, pytrees of arrays.
        static: its keyword arguments, which are not differentiated.
    """

    def apply(module: nn.Module, *arrays: Any) -> Any:
        return module(*arrays, **static)

    policy = jax.checkpoint_policies.save_only_these_names(KEPT)

    def forward(module: nn.Module, *arrays: Any) -> tuple[Any, Any]:
        return nn.vjp(nn.remat(apply, policy=policy), module, *arrays)

    def backward(kept: Any, gradient: Any) -> Any:
        zero = next(0 * leaf.ravel()[0].real for leaf in jax.tree.leaves(gradient) if _is_inexact(leaf))
        later = jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype) if _is_inexact(leaf) else leaf, kept)
        return later(gradient)

    return nn.custom_vjp(apply, forward, backward)(module, *arrays)


def _is_inexact(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
