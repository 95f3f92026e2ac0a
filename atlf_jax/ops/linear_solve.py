"""Conjugate gradients for Hermitian systems, with an implicit or an unrolled gradient."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from beartype import beartype
from jax import lax
from jaxtyping import Complex, jaxtyped

from atlf_jax.array_types import Array

__all__ = ["solve_hermitian"]


@jaxtyped(typechecker=beartype)
def solve_hermitian(
    matvec: Callable[[Array], Array],
    right: Complex[Array, "*b h w"],
    *,
    iterations: int,
    gradient: Literal["implicit", "unrolled"] = "implicit",
) -> Complex[Array, "*b h w"]:
    """Solve ``H x = right`` by conjugate gradients from ``x = 0``, each example with its own step lengths.

    Args:
        matvec: a Hermitian positive (semi-)definite operator on ``[*b, h, w]`` that keeps examples apart. It may close
            over arrays that are differentiated.
        right: ``[*b, h, w]``.
        iterations: fixed in number, so that one program serves every input.
        gradient: "unrolled" differentiates the iterations: exact for any number of them, and in reverse mode every
            iterate is stored. "implicit" solves the transposed system with as many iterations and stores none: it is
            the gradient of the exact solution, and off by as much as the iterations are from their end.

    Returns:
        ``[*b, h, w]``.

    Example:
        >>> diagonal = jnp.array([[1.0, 4.0]])  # two eigenvalues: two iterations
        >>> print(solve_hermitian(lambda x: diagonal * x, jnp.ones((1, 2), jnp.complex64), iterations=2).real.round(4))
        [[1.   0.25]]

    Source: Hestenes and Stiefel 1952; ``jax.scipy.sparse.linalg.cg`` has one step length for the whole batch, which
    would make an example's result depend on its neighbours.
    """

    def inner(a: Array, b: Array) -> Array:
        return jnp.sum(a.real * b.real + a.imag * b.imag, axis=(-2, -1), keepdims=True)

    def ratio(a: Array, b: Array, dtype: jnp.dtype) -> Array:
        """Divide, with 0 once the residual is exactly 0."""
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0).astype(dtype)

    def solve(matvec: Callable[[Array], Array], right: Array) -> Array:
        def step(_: int, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            x, residual, direction, energy = state
            image = matvec(direction)
            length = ratio(energy, inner(direction, image), right.dtype)
            x = x + length * direction
            residual = residual - length * image
            new_energy = inner(residual, residual)
            return x, residual, residual + ratio(new_energy, energy, right.dtype) * direction, new_energy

        return lax.fori_loop(0, iterations, step, (jnp.zeros_like(right), right, right, inner(right, right)))[0]

    if gradient == "unrolled":
        return solve(matvec, right)
    # The transpose of a Hermitian operator is its conjugate, not itself: `symmetric` would be wrong here.
    return lax.custom_linear_solve(matvec, right, solve, transpose_solve=solve)
