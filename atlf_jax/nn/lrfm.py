"""LRFM, the low-rank fusion of CT and MR features.

Source: Liu et al. 2018, "Efficient low-rank multimodal fusion", and its code Justin1904/Low-rank-Multimodal-Fusion;
houxiaotong/ATLF-NET ``LRFM.py``.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from atlf_jax.array_types import Array
from atlf_jax.nn.layers import add_bias
from atlf_jax.nn.precision import wide_dtype

__all__ = ["LRFM"]

Initializer = Callable[..., Array]


def _factor_init(key: Array, shape: tuple[int, int, int], dtype: jnp.dtype) -> Float[jax.Array, "f1 r k"]:
    """Draw what PyTorch's ``xavier_normal`` draws for the published layout [rank, inputs + 1, outputs]."""
    inputs, rank, outputs = shape
    return jax.random.normal(key, shape, dtype) * (2 / ((inputs + rank) * outputs)) ** 0.5


def _weights_init(key: Array, shape: tuple[int], dtype: jnp.dtype) -> Float[jax.Array, " r"]:
    """Draw what PyTorch's ``xavier_normal`` draws for the published layout [1, rank]."""
    return jax.random.normal(key, shape, dtype) * (2 / (1 + shape[0])) ** 0.5


def _sum_factor_init(passed_rank: int) -> Initializer:
    """Return an initialiser whose rank ``passed_rank`` hands the features on and whose other leading rank gives 1."""

    def init(key: Array, shape: tuple[int, int, int], dtype: jnp.dtype) -> Float[Array, "f1 r k"]:
        identity = jnp.eye(shape[0], shape[2], dtype=dtype)  # last row, the constant's, is 0
        ones = jnp.zeros((shape[0], shape[2]), dtype).at[-1].set(1)
        factor = _factor_init(key, shape, dtype)
        return factor.at[:, passed_rank].set(identity).at[:, 1 - passed_rank].set(ones)

    return init


def _sum_weights_init(key: Array, shape: tuple[int], dtype: jnp.dtype) -> Float[Array, " r"]:
    return _weights_init(key, shape, dtype).at[:2].set(1)


class LRFM(nn.Module):
    """Fuse two modalities by a tensor product of rank ``rank``, at each pixel.

    y = sum_i a_i (W_c_i^T [z_c; 1]) (W_m_i^T [z_m; 1]) + b

    which is b + sum_jk T_jk [z_c; 1]_j [z_m; 1]_k with the tensor T = sum_i a_i W_c_i x W_m_i never formed.

    order "sum_last" is that formula. order "diagram" sums inside each factor, y = (sum_i W_c_i^T [z_c; 1])
    (sum_i W_m_i^T [z_m; 1]), as eq. 6-7 of Liu et al. and the published diagram print it (their codes do not): one
    rank only, no a, no b.
    kind "pixel" fuses each pixel; kind "sum" is z_c + z_m without a parameter, to see what the fusion is worth.
    start "xavier" is the published initialisation; "sum" makes the first two ranks z_c 1 and 1 z_m with a = 1, so that
    the output starts near z_c + z_m (exactly for rank 2), CDDFuse's rule.

    Example:
        >>> ct, mr = jnp.arange(4.0).reshape(1, 4), jnp.ones((1, 4))
        >>> fuse = jax.jit(LRFM(4, rank=2, start="sum").init_with_output)
        >>> fuse(jax.random.key(0), ct, mr)[0].tolist()  # at first the sum
        [[1.0, 2.0, 3.0, 4.0]]
    """

    features: int
    rank: int = 4
    order: Literal["sum_last", "diagram"] = "sum_last"
    kind: Literal["pixel", "sum"] = "pixel"
    start: Literal["xavier", "sum"] = "xavier"

    @nn.compact
    def __call__(self, ct: Float[Array, "*b f"], mr: Float[Array, "*b k"]) -> Float[Array, "*b o"]:
        self._check(ct.shape[-1], mr.shape[-1])
        if self.kind == "sum":
            return ct + mr
        return self._fuse(ct, mr)

    def _check(self, ct_features: int, mr_features: int) -> None:
        for field, choices in (
            ("order", ("sum_last", "diagram")),
            ("kind", ("pixel", "sum")),
            ("start", ("xavier", "sum")),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(f"LRFM {field}: got {getattr(self, field)!r}, wanted one of {choices}")
        same = ct_features == mr_features == self.features
        if self.kind != "pixel" and not same:
            raise ValueError(
                f"LRFM kind {self.kind!r} takes ct + mr: got {ct_features} and {mr_features} features, "
                f"wanted {self.features} twice"
            )
        if self.start == "sum" and not (same and self.rank >= 2 and self.order == "sum_last"):
            raise ValueError(
                "LRFM start 'sum' wants equal widths, rank >= 2 and order 'sum_last': got widths "
                f"{ct_features}, {mr_features} -> {self.features}, rank {self.rank}, order {self.order!r}"
            )

    def _fuse(self, ct: Float[Array, "*b f"], mr: Float[Array, "*b k"]) -> Float[Array, "*b o"]:
        summed = self.start == "sum"
        inits = (_sum_factor_init(0), _sum_factor_init(1)) if summed else (_factor_init, _factor_init)
        dtype = wide_dtype(ct.dtype)
        # [f + 1, rank, out]: the last row meets the constant 1
        factor_ct = self.param("factor_ct", inits[0], (ct.shape[-1] + 1, self.rank, self.features), dtype)
        factor_mr = self.param("factor_mr", inits[1], (mr.shape[-1] + 1, self.rank, self.features), dtype)
        if self.order == "diagram":
            return _affine(ct, factor_ct.sum(1)) * _affine(mr, factor_mr.sum(1))
        weights = self.param("weights", _sum_weights_init if summed else _weights_init, (self.rank,), dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), dtype)
        factor_ct = factor_ct * weights[None, :, None]  # the weights join the small factor, not the maps
        product = _affine(ct, factor_ct.reshape(-1, self.rank * self.features))
        product = product * _affine(mr, factor_mr.reshape(-1, self.rank * self.features))
        product = product.reshape(*ct.shape[:-1], self.rank, self.features)  # [*b, rank, out]
        return add_bias(product.sum(-2), bias)


def _affine(x: Float[Array, "*b f"], factor: Float[Array, "f1 k"]) -> Float[Array, "*b k"]:
    """Return [x; 1] . factor as one matrix product over all pixels."""
    y = add_bias(jnp.dot(x.reshape(-1, x.shape[-1]), factor[:-1].astype(x.dtype)), factor[-1])  # [pixels, k]
    return y.reshape(*x.shape[:-1], -1)
