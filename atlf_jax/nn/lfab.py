"""LFAB, the local feature block of the fusion process: an invertible network.

Source: CDDFuse ``net.py`` DetailNode (coupling, with its names phi, rho, eta); Kingma and Dhariwal 2018, "Glow",
section 3.2, and y0ast/Glow-PyTorch ``modules.py`` (invertible 1x1 convolution in LU form).
"""

from functools import lru_cache
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import scipy
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import Depthwise, Pointwise, add_bias, uniform_fan_in
from atlf_jax.nn.precision import wide, wide_dtype
from atlf_jax.nn.scaffold import ConvBatchNorm

__all__ = ["LFAB", "AffineCoupling", "BiasedMix", "InvertibleLU", "rotation_factors"]


@lru_cache(maxsize=64)
def rotation_factors(features: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factorise a fixed random rotation as W[o] = (L (U + diag(sign e^log|s|)))[permutation[o]].

    The rotation is the Q factor, with the sign that makes R's diagonal positive, of the Gaussian matrix that
    ``numpy.random.RandomState(seed)`` draws: a pure function of its arguments.

    Args:
        features: side of the matrix.
        seed: which rotation; the layers of one network take 0, 1, 2.

    Returns:
        packed [features, features] float64: L strictly below the diagonal (its own diagonal is 1), log|s| on it,
        U strictly above; permutation [features] int; sign [features] float64.

    Example:
        >>> packed, permutation, sign = rotation_factors(4, 0)
        >>> packed.shape, sorted(permutation.tolist()), bool((abs(sign) == 1).all())
        ((4, 4), [0, 1, 2, 3], True)
    """
    q, r = np.linalg.qr(np.random.RandomState(seed).standard_normal((features, features)))
    permutation, lower, upper = scipy.linalg.lu(q * np.sign(np.diag(r)), p_indices=True)
    diagonal = np.diag(upper)
    packed = np.tril(lower, -1) + np.triu(upper, 1) + np.diag(np.log(np.abs(diagonal)))
    return packed, permutation, np.sign(diagonal)


class InvertibleLU(nn.Module):
    """An invertible 1x1 convolution with its matrix kept as P L (U + diag(sign e^log|s|)).

    L, log|s| and U are the parameters, packed in one ``features`` x ``features`` array. P and sign are constants
    that follow from ``features`` and ``seed`` (``rotation_factors``); L, log|s| and U start from the same
    factorisation, so the matrix is orthogonal at initialisation and the log-determinant 0.

    Called with ``inverse=True`` it undoes itself. Returns the map and the log|det| of what was applied, per example.
    Source: Glow, eq. 10. Departures: packed storage (f^2 scalars instead of 2 f^2 + f), fixed seeds, and
    log-determinant per example.
    """

    features: int
    seed: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w f"], *, inverse: bool = False
    ) -> tuple[Float[Array, "b h w f"], Float[Array, " b"]]:
        start, permutation, sign = rotation_factors(self.features, self.seed)
        dtype = wide_dtype(x.dtype)
        packed = self.param("packed", lambda _: jnp.asarray(start, dtype))
        eye = jnp.eye(self.features, dtype=dtype)
        lower = jnp.tril(packed, -1) + eye
        upper = jnp.triu(packed, 1) + eye * jnp.asarray(sign, dtype)[:, None] * jnp.exp(eye * packed)
        logdet = x.shape[1] * x.shape[2] * (eye * packed).sum()
        if inverse:
            selection = jnp.eye(self.features, dtype=dtype)[:, permutation]  # P^T: [permutation[o], o] is 1
            matrix = solve_triangular(upper, solve_triangular(lower, selection, lower=True, unit_diagonal=True))
            logdet = -logdet
        else:
            matrix = (lower @ upper)[permutation]
        y = jnp.einsum("bhwf,kf->bhwk", x, matrix.astype(x.dtype))
        return y, jnp.broadcast_to(logdet, x.shape[:1])


class BiasedMix(nn.Module):
    """An ordinary 1x1 convolution with bias, invertible for almost every matrix (CDDFuse's "shuffle" convolution)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w f"], *, inverse: bool = False
    ) -> tuple[Float[Array, "b h w f"], Float[Array, " b"]]:
        f = x.shape[-1]
        dtype = wide_dtype(x.dtype)
        kernel = self.param("kernel", uniform_fan_in, (f, f), dtype)
        bias = self.param("bias", nn.initializers.zeros, (f,), dtype)
        logdet = x.shape[1] * x.shape[2] * jnp.linalg.slogdet(kernel)[1]
        if inverse:
            y = jnp.einsum("bhwf,fk->bhwk", add_bias(x, -bias), jnp.linalg.inv(kernel).astype(x.dtype))
            logdet = -logdet
        else:
            y = add_bias(jnp.einsum("bhwf,fk->bhwk", x, kernel.astype(x.dtype)), bias)
        return y, jnp.broadcast_to(logdet, x.shape[:1])


class InvertedResidual(nn.Module):
    """Compute PW(relu6(DW3x3(relu6(PW x)))) with twice the features inside and reflected borders.

    Source: Sandler et al. 2018, "MobileNetV2"; CDDFuse ``net.py`` InvertedResidualBlock (no norm, no residual sum).
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        f = x.shape[-1]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")  # of the fewer channels: the same values
        x = nn.relu6(Pointwise(2 * f, name="expand")(x))
        x = nn.relu6(Depthwise(pad_mode="valid", name="dwconv")(x))
        return Pointwise(f, name="reduce")(x)


class AffineCoupling(nn.Module):
    """Couple the halves (u1, u2) of the features invertibly, whatever phi, rho and eta are.

    v2 = u2 + phi(u1); v1 = u1 e^s + eta(v2), s = rho(v2), log|det| = sum s

    ``s_clamp`` c bounds the scale, s <- c (2/pi) atan(s / c) (FrEIA; slope 2/pi at 0); None leaves it unbounded as
    CDDFuse does.
    Source: CDDFuse ``net.py`` DetailNode.
    """

    s_clamp: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w f"], *, inverse: bool = False
    ) -> tuple[Float[Array, "b h w f"], Float[Array, " b"]]:
        if x.shape[-1] % 2:
            raise ValueError(f"affine coupling halves the features: got {x.shape[-1]}, wanted an even number")
        phi, rho, eta = (InvertedResidual(name=name) for name in ("phi", "rho", "eta"))
        first, second = jnp.split(x, 2, axis=-1)
        if not inverse:
            second = second + phi(first)
        scale = wide(rho(second))
        if self.s_clamp is not None:
            scale = self.s_clamp * (2 / np.pi) * jnp.arctan(scale / self.s_clamp)
        logdet = scale.sum((1, 2, 3))
        if inverse:
            first = (wide(first - eta(second)) * jnp.exp(-scale)).astype(x.dtype)
            second = second - phi(first)
            logdet = -logdet
        else:
            first = (wide(first) * jnp.exp(scale)).astype(x.dtype) + eta(second)
        return jnp.concatenate([first, second], axis=-1), logdet


class LFAB(nn.Module):
    """Extract local (detail) features; the same weights serve CT and MR.

    kind "inn": ``layers`` times InvertibleLU and AffineCoupling. The sources disagree here: this is CDDFuse's detail
    node with its biased 1x1 convolution replaced by Glow's invertible one.
    kind "detail": CDDFuse's detail node itself.
    kind "conv": two conv3x3-BatchNorm-ReLU, the published scaffold; not invertible.

    ``__call__`` gives the features, ``forward`` also log|det| of the Jacobian per example, ``inverse`` undoes both.
    No likelihood enters any loss: invertibility is structural.

    Example:
        >>> import jax
        >>> x = jnp.zeros((2, 16, 16, 8))
        >>> features, variables = jax.eval_shape(LFAB().init_with_output, jax.random.key(0), x)
        >>> back = jax.eval_shape(lambda *arrays: LFAB().apply(*arrays, method="inverse"), variables, features)
        >>> features.shape, back.shape
        ((2, 16, 16, 8), (2, 16, 16, 8))
    """

    kind: Literal["inn", "conv", "detail"] = "inn"
    layers: int = 3
    s_clamp: float | None = None

    def __call__(self, x: Float[Array, "b h w f"], *, deterministic: bool = True) -> Float[Array, "b h w f"]:
        return self._transform(x, deterministic=deterministic)[0]

    def forward(self, x: Float[Array, "b h w f"]) -> tuple[Float[Array, "b h w f"], Float[Array, " b"]]:
        """Return the features and the log|det| of the Jacobian of each example."""
        self._require_invertible()
        return self._transform(x)

    def inverse(self, y: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        """Return the x whose features are y."""
        self._require_invertible()
        return self._transform(y, inverse=True)[0]

    def _require_invertible(self) -> None:
        if self.kind == "conv":
            raise ValueError("LFAB kind 'conv' is not invertible: call it, or choose 'inn' or 'detail'")

    @nn.compact
    def _transform(self, x: Array, *, inverse: bool = False, deterministic: bool = True) -> tuple[Array, Array]:
        logdet = jnp.zeros(x.shape[:1], wide_dtype(x.dtype))
        if self.kind == "conv":
            for i in range(2):
                x = ConvBatchNorm(x.shape[-1], name=f"conv_{i}")(x, deterministic=deterministic)
            return x, logdet
        steps = self._steps(x.shape[-1])
        for step in reversed(steps) if inverse else steps:
            x, step_logdet = step(x, inverse=inverse)
            logdet = logdet + step_logdet
        return x, logdet

    def _steps(self, features: int) -> list[nn.Module]:
        if self.kind not in ("inn", "detail"):
            raise ValueError(f"LFAB kind: got {self.kind!r}, wanted 'inn', 'detail' or 'conv'")
        steps = []
        for i in range(self.layers):
            mix = InvertibleLU(features, seed=i, name=f"mix_{i}") if self.kind == "inn" else BiasedMix(name=f"mix_{i}")
            steps += [mix, AffineCoupling(self.s_clamp, name=f"coupling_{i}")]
        return steps
