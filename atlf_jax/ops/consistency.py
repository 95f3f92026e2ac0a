"""Data consistency: how a reconstruction is brought back to the measured samples.

All of them concern ``argmin_x ||x - z||^2 + v ||A x - y||^2`` for an image z, measured samples y and ``A = M F S``.
The weight v is the inverse of MoDL's lambda; v = 0 returns z, v -> inf replaces the measured samples. DC-CNN and
DuDoRNet code reads a weight of 0 as "hard": here 0 is the identity and ``jnp.inf`` is hard.

The state is complex. A real-valued image model takes the real part of the result (Re o DC).
"""

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Bool, Complex, Float, jaxtyped

from atlf_jax.array_types import Array
from atlf_jax.ops.fourier import fft2c, ifft2c
from atlf_jax.ops.linear_solve import solve_hermitian
from atlf_jax.ops.operators import adjoint, check_ranks, forward, normal

__all__ = ["coilwise", "conjugate_gradient", "gradient", "hard", "varnet", "weighted"]

Weight = float | Float[Array, ""] | Float[Array, "*#b 1 1"]


@jaxtyped(typechecker=beartype)
def hard(
    image: Complex[Array, "*b h w"],
    kspace: Complex[Array, "*bc h w"],
    mask: Bool[Array, "*#b #h w"],
    coil_maps: Complex[Array, "*#b c h w"] | None = None,
) -> Complex[Array, "*b h w"]:
    """Replace the measured samples: ``x = F^H ((1 - M) F z + M y)``.

    Args:
        image: z, ``[*b, h, w]``.
        kspace: y, ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.
        mask: ``[*#b, 1|h, w]``.
        coil_maps: normalised; with them this is ``coilwise`` at v = inf, which is approximate.

    Returns:
        ``[*b, h, w]``. With one coil, ``M F x = M y``.

    Example:
        >>> z, y = jnp.zeros((1, 2), jnp.complex64), jnp.ones((1, 2), jnp.complex64)
        >>> abs(fft2c(hard(z, y, jnp.array([[True, False]])))).round(4).tolist()
        [[1.0, 0.0]]
    """
    if coil_maps is not None:
        return coilwise(image, kspace, mask, jnp.inf, coil_maps)
    return weighted(image, kspace, mask, jnp.inf)


@jaxtyped(typechecker=beartype)
def weighted(
    image: Complex[Array, "*b h w"],
    kspace: Complex[Array, "*bc h w"],
    mask: Bool[Array, "*#b #h w"],
    v: Weight,
    coil_maps: Complex[Array, "*#b c h w"] | None = None,
) -> Complex[Array, "*b h w"]:
    """Average the measured samples in: ``x = F^H (F z + M (y - F z) v / (1 + v))``, the exact minimiser.

    Args:
        image: z, ``[*b, h, w]``.
        kspace: y, ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.
        mask: ``[*#b, 1|h, w]``.
        v: weight >= 0, a scalar or ``[*#b, 1, 1]``; ``jnp.inf`` is allowed with one coil.
        coil_maps: with them there is no closed form and ``conjugate_gradient`` is used.

    Returns:
        ``[*b, h, w]``.

    Example:
        >>> z, y = jnp.zeros((2, 2), jnp.complex64), jnp.ones((2, 2), jnp.complex64)
        >>> round(float(fft2c(weighted(z, y, jnp.ones((2, 2), bool), 3.0))[0, 0].real), 6)
        0.75

    Source: Schlemper et al. 2018 (IEEE TMI 37:491), eq. 8; compared with the DC-CNN and DuDoRNet layers.
    """
    if coil_maps is not None:
        return conjugate_gradient(image, kspace, mask, v, coil_maps)
    check_ranks(mask, image.ndim)
    k = fft2c(image)
    # v / (1 + v), written so that v = inf gives 1 and the gradient at v = 0 is finite.
    share = 1 - 1 / (1 + jnp.asarray(v, k.real.dtype))
    # At share 1 the samples are returned exactly, without the rounding of k + (y - k).
    return ifft2c(jnp.where(mask, (1 - share).astype(k.dtype) * k + share.astype(k.dtype) * kspace, k))


@jaxtyped(typechecker=beartype)
def conjugate_gradient(
    image: Complex[Array, "*b h w"],
    kspace: Complex[Array, "*bc h w"],
    mask: Bool[Array, "*#b #h w"],
    v: Weight,
    coil_maps: Complex[Array, "*#b c h w"] | None,
    *,
    iterations: int = 8,
) -> Complex[Array, "*b h w"]:
    """Solve ``(I + v A^H A) x = z + v A^H y`` by conjugate gradients from x = z, with an implicit gradient.

    Args:
        image: z, ``[*b, h, w]``.
        kspace: y, ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.
        mask: ``[*#b, 1|h, w]``.
        v: finite weight >= 0, a scalar or ``[*#b, 1, 1]``. The condition number is at most ``1 + v`` for normalised
            maps: at v = 1, eight iterations reach about 1e-6.
        coil_maps: ``[*#b, c, h, w]``; None is allowed, but ``weighted`` is then exact and cheaper.
        iterations: of conjugate gradients, in the backward pass too.

    Returns:
        ``[*b, h, w]``.

    Example:
        >>> z, y, mask = jnp.zeros((1, 2), jnp.complex64), jnp.ones((1, 2), jnp.complex64), jnp.array([[True, False]])
        >>> bool(jnp.allclose(conjugate_gradient(z, y, mask, 3.0, None), weighted(z, y, mask, 3.0), atol=1e-6))
        True

    Source: MoDL (Aggarwal et al. 2019, IEEE TMI 38:394), eq. 12 divided by lambda, so v = 1 / lambda.
    """
    v = jnp.asarray(v, image.real.dtype).astype(image.dtype)

    def matvec(x: Array) -> Array:
        return x + v * normal(x, mask, coil_maps)

    # Solving for x - z is the same as starting at z, and leaves z untouched at v = 0.
    residual = adjoint(kspace - forward(image, mask, coil_maps), mask, coil_maps)
    return image + solve_hermitian(matvec, v * residual, iterations=iterations)


@jaxtyped(typechecker=beartype)
def gradient(
    image: Complex[Array, "*b h w"],
    kspace: Complex[Array, "*bc h w"],
    mask: Bool[Array, "*#b #h w"],
    step: Weight,
    coil_maps: Complex[Array, "*#b c h w"] | None = None,
) -> Complex[Array, "*b h w"]:
    """Take one step down ``||A x - y||^2 / 2``: ``x = z - step A^H (A z - y)``.

    With one coil and step = v / (1 + v) < 1 this equals ``weighted``. Trained steps go beyond 1.

    Args:
        image: z, ``[*b, h, w]``.
        kspace: y, ``[*b, h, w]``, with coil maps ``[*b, c, h, w]``.
        mask: ``[*#b, 1|h, w]``.
        step: unconstrained, a scalar or ``[*#b, 1, 1]``.
        coil_maps: ``[*#b, c, h, w]``, or None for one coil.

    Returns:
        ``[*b, h, w]``.

    Example:
        >>> z, y, mask = jnp.zeros((1, 2), jnp.complex64), jnp.ones((1, 2), jnp.complex64), jnp.array([[True, False]])
        >>> bool(jnp.allclose(gradient(z, y, mask, 0.75), weighted(z, y, mask, 3.0), atol=1e-6))
        True

    Source: ISTA-Net (Zhang and Ghanem 2018), eq. 5; the explicit adjoint, since ``jax.grad`` at complex arguments
    gives the conjugate.
    """
    step = jnp.asarray(step, image.real.dtype).astype(image.dtype)
    return image - step * adjoint(forward(image, mask, coil_maps) - kspace, mask, coil_maps)


@jaxtyped(typechecker=beartype)
def coilwise(
    image: Complex[Array, "*b h w"],
    kspace: Complex[Array, "*b c h w"],
    mask: Bool[Array, "*#b #h w"],
    v: Weight,
    coil_maps: Complex[Array, "*#b c h w"],
) -> Complex[Array, "*b h w"]:
    """Apply ``weighted`` to each coil image and combine: ``x = sum_c conj(S_c) DC_v(S_c z; y_c)``.

    Exact only for one coil with S = 1 or for a full mask. Needs normalised maps; where all maps are 0, so is x.

    Args:
        image: z, ``[*b, h, w]``.
        kspace: y, ``[*b, c, h, w]``.
        mask: ``[*#b, 1|h, w]``.
        v: weight >= 0, a scalar or ``[*#b, 1, 1]``; ``jnp.inf`` is allowed.
        coil_maps: ``[*#b, c, h, w]``, normalised.

    Returns:
        ``[*b, h, w]``.

    Example:
        >>> z, y, mask = jnp.zeros((1, 2), jnp.complex64), jnp.ones((1, 2), jnp.complex64), jnp.array([[True, False]])
        >>> result = coilwise(z, y[None], mask, 3.0, jnp.ones((1, 1, 2), jnp.complex64))  # one coil
        >>> bool(jnp.allclose(result, weighted(z, y, mask, 3.0)))
        True
    """
    v = jnp.asarray(v, image.real.dtype)
    coil_v = v if v.ndim == 0 else v[..., None, :, :]  # [*b 1 1 1]
    coil_images = weighted(coil_maps * image[..., None, :, :], kspace, mask[..., None, :, :], coil_v)  # [*b c h w]
    return jnp.sum(coil_maps.conj() * coil_images, axis=-3)


@jaxtyped(typechecker=beartype)
def varnet(
    estimate: Complex[Array, "*bc h w"],
    kspace: Complex[Array, "*bc h w"],
    mask: Bool[Array, "*#b #h w"],
    step: Weight,
) -> Complex[Array, "*bc h w"]:
    """Pull a k-space estimate towards the samples: ``k - step M (k - y)``.

    Args:
        estimate: k, ``[*b, h, w]`` or ``[*b, c, h, w]``.
        kspace: y, of the same shape.
        mask: ``[*#b, 1|h, w]``, without a coil axis.
        step: a scalar, or ``[*#b, 1, 1]``.

    Returns:
        k-space, of the shape of ``estimate``.

    Example:
        >>> k, y = jnp.zeros((1, 2), jnp.complex64), jnp.ones((1, 2), jnp.complex64)
        >>> varnet(k, y, jnp.array([[True, False]]), 0.5).real.tolist()
        [[0.5, 0.0]]

    Source: end-to-end VarNet (Sriram et al. 2020), eq. 10 without its refinement term.
    """
    step = jnp.asarray(step, estimate.real.dtype).astype(estimate.dtype)
    if estimate.ndim == mask.ndim + 1:
        mask = mask[..., None, :, :]  # [*b 1 h w]
        step = step if step.ndim == 0 else step[..., None, :, :]
    check_ranks(mask, estimate.ndim)
    return jnp.where(mask, estimate - step * (estimate - kspace), estimate)
