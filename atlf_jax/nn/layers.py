"""Elementary layers in the formulations that are fast in XLA, under their ordinary names.

Each layer computes exactly what its plain ``lax`` form computes (``tests/nn/test_layers.py`` compares value and
gradient); only the order of the work differs. Measured ratios are in docs/DESIGN.md.
"""

import functools
import math
import operator
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from atlf_jax.array_types import Array
from atlf_jax.nn import backend
from atlf_jax.nn.precision import in_float32, parameter, wide, wide_dtype
from atlf_jax.nn.recompute import REUSED_NAME

__all__ = [
    "ChannelNorm",
    "Conv",
    "Depthwise",
    "Pointwise",
    "add_bias",
    "channel_norm",
    "convolve",
    "depthwise",
    "gelu",
    "pixel_shuffle",
    "pixel_unshuffle",
    "uniform_fan_in",
    "xavier",
    "zero_border",
]

Initializer = Callable[..., Array]

ROW_PARTS = 32  # of a row: 8 pixels at a width of 256

# PyTorch's default convolution initialisation, U(+-1/sqrt(fan_in)): what the published blocks started from.
uniform_fan_in: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
xavier: Initializer = nn.initializers.xavier_normal()


@in_float32
def add_bias(x: Float[Array, "*b f"], bias: Float[Array, " f"]) -> Float[Array, "*b f"]:
    """Add a bias to every pixel; in float32, since the bias' gradient is a sum over all pixels.

    Example:
        >>> add_bias(jnp.zeros((1, 1, 2, 2)), jnp.array([1.0, 2.0])).tolist()
        [[[[1.0, 2.0], [1.0, 2.0]]]]
    """
    return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class Pointwise(nn.Module):
    """A 1x1 convolution, written as one matrix product over all pixels (2-5 times faster than ``lax.conv``)."""

    features: int
    use_bias: bool = False
    kernel_init: Initializer = uniform_fan_in

    @nn.compact
    def __call__(self, x: Float[Array, "*b f"]) -> Float[Array, "*b k"]:
        kernel = parameter(self, "kernel", self.kernel_init, (x.shape[-1], self.features), x.dtype)
        y = jnp.dot(x.reshape(-1, x.shape[-1]), kernel)  # [pixels, f] . [f, k]
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,), wide_dtype(x.dtype)))
        return y.reshape(*x.shape[:-1], self.features)


def _convolve(x: Array, kernel: Array, *, stride: int = 1, groups: int = 1) -> Array:
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(kernel),
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@jax.custom_vjp
def _convolve_by_rows(x: Array, kernel: Array) -> Array:
    return _convolve(x, kernel)


def _convolve_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel), (x, kernel)


def _convolve_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    size, _, inputs, outputs = kernel.shape
    d_x = _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3))
    w, padded = x.shape[2], zero_border(x, size // 2)

    def add_row(total: Array, y: Array) -> tuple[Array, None]:
        window = lax.dynamic_slice_in_dim(padded, y, size, axis=1)  # [b, size, w1, f]
        taps = [window[:, i, j : j + w] for i in range(size) for j in range(size)]
        taps = jnp.concatenate(taps, axis=-1).reshape(-1, size * size * inputs)  # [b w, size size f]
        d_row = lax.dynamic_index_in_dim(dy, y, axis=1, keepdims=False).reshape(-1, outputs)  # [b w, k]
        return total + jnp.matmul(taps.T, d_row, preferred_element_type=total.dtype), None

    start = jnp.zeros((size * size * inputs, outputs), wide_dtype(kernel.dtype))
    d_kernel, _ = lax.scan(add_row, start, jnp.arange(x.shape[1]))
    return d_x, d_kernel.reshape(kernel.shape).astype(kernel.dtype)


_convolve_by_rows.defvjp(_convolve_forward, _convolve_backward)


def convolve(x: Float[Array, "b h w f"], kernel: Float[Array, "size size f k"]) -> Float[Array, "b h w k"]:
    """Correlate with a square kernel of odd size, with zeros outside the image.

    On a CPU the kernel's gradient is a sum over the rows of the image of one matrix product each, which reads a row's
    neighbourhood from cache: up to five times faster than the automatic one, a convolution with a kernel as large as
    the image. It has one derivative there, in reverse mode.

    Example:
        >>> convolve(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
        [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    return _convolve(x, kernel) if backend.accelerated() else _convolve_by_rows(x, kernel)


class Conv(nn.Module):
    """A ``size`` x ``size`` convolution with symmetric zero padding ``size // 2``, as in PyTorch."""

    features: int
    size: int = 3
    stride: int = 1
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = uniform_fan_in

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h1 w1 k"]:
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        kernel = parameter(self, "kernel", self.kernel_init, shape, x.dtype)
        if self.stride == self.groups == 1 and self.size % 2 == 1:
            y = convolve(x, kernel)
        else:
            y = _convolve(x, kernel, stride=self.stride, groups=self.groups)
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,), wide_dtype(x.dtype)))
        return y


def _shifted_sum(padded: Array, kernel: Array) -> Array:
    """Return sum over (i, j) of kernel[i, j] * padded shifted by (i, j): a valid depthwise correlation."""
    rows, columns, _ = kernel.shape
    h, w = padded.shape[1] - rows + 1, padded.shape[2] - columns + 1
    kernel = wide(kernel)[:, :, None, None, None]  # [rows, columns, 1, 1, 1, f]
    shifted = (wide(padded[:, i : i + h, j : j + w]) * kernel[i, j] for i in range(rows) for j in range(columns))
    return functools.reduce(operator.add, shifted).astype(padded.dtype)


@jax.custom_vjp
def depthwise(padded: Float[Array, "b h1 w1 f"], kernel: Float[Array, "rows columns f"]) -> Float[Array, "b h w f"]:
    """Correlate every channel of an already padded map with its own small kernel.

    y[b, h, w, f] = sum_ij kernel[i, j, f] padded[b, h + i, w + j, f]

    ``lax.conv`` with ``feature_group_count`` is 5 to 50 times slower on CPU, and the automatic gradient of the
    shifted sum reads the map nine times from memory; the gradient here goes through it row by row. On an accelerator
    it takes all rows at once. Sums are float32 at least.

    Example:
        >>> depthwise(jnp.arange(8.0).reshape(1, 2, 2, 2), jnp.ones((2, 2, 2))).ravel().tolist()  # sums by channel
        [12.0, 16.0]
    """
    return _shifted_sum(padded, kernel)


def _depthwise_forward(padded: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(padded, kernel), (padded, kernel)


def _depthwise_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    padded, kernel = saved
    rows, columns, _ = kernel.shape
    h, w = dy.shape[1:3]
    border = ((0, 0), (rows - 1, rows - 1), (columns - 1, columns - 1), (0, 0))
    d_padded = _shifted_sum(jnp.pad(dy, border), kernel[::-1, ::-1])

    if backend.accelerated():
        # stacked before the channels, the taps are one reduction that reads its operands; each by itself, they are 18
        taps = [padded[:, i : i + h, j : j + w] for i in range(rows) for j in range(columns)]
        d_kernel = (wide(jnp.stack(taps, axis=3)) * wide(dy)[:, :, :, None]).sum((0, 1, 2))
    else:
        d_kernel = _sum_by_rows(wide(padded), wide(dy), rows, columns)
    return d_padded, d_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _sum_by_rows(padded: Array, dy: Array, rows: int, columns: int) -> Float[Array, "taps f"]:
    """Sum padded, shifted by each tap, times dy over the pixels: row after row, so that what is read is in cache.

    A row is summed as ``ROW_PARTS`` vectors of a few pixels each, which needs no sum within a vector before the end.
    """
    b, h, w, f = dy.shape
    parts = math.gcd(b * w, ROW_PARTS)

    def add_row(total: Array, y: Array) -> tuple[Array, None]:
        window = lax.dynamic_slice_in_dim(padded, y, rows, axis=1)  # [b, rows, w1, f]
        d_row = lax.dynamic_index_in_dim(dy, y, axis=1, keepdims=False)  # [b, w, f]
        taps = [window[:, i, j : j + w] * d_row for i in range(rows) for j in range(columns)]
        return total + jnp.stack([sum(tap.reshape(parts, -1, f)) for tap in taps]), None

    start = jnp.zeros((rows * columns, b * w // parts, f), padded.dtype)
    total, _ = lax.scan(add_row, start, jnp.arange(h))
    return total.sum(1)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


class Depthwise(nn.Module):
    """A depthwise ``size`` x ``size`` convolution; ``pad_mode`` is numpy's ("constant" = zeros, or "reflect").

    "valid" pads nothing, for a map that has its border already.
    """

    size: int = 3
    use_bias: bool = False
    pad_mode: str = "constant"
    kernel_init: Initializer = uniform_fan_in

    @nn.compact
    def __call__(self, x: Float[Array, "b h w f"]) -> Float[Array, "b h w f"]:
        features, pad = x.shape[-1], self.size // 2
        # stored as [size, size, 1, f], the layout of a grouped convolution, so that the fan-in is size * size
        kernel = parameter(self, "kernel", self.kernel_init, (self.size, self.size, 1, features), x.dtype)
        if self.pad_mode != "valid":
            x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=self.pad_mode)
        y = depthwise(x, kernel[:, :, 0])
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (features,), wide_dtype(x.dtype)))
        return y


def zero_border(x: Float[Array, "b h w f"], width: int = 1) -> Float[Array, "b h1 w1 f"]:
    """Put a border of zeros around the image.

    Example:
        >>> zero_border(jnp.ones((1, 1, 1, 1)))[0, :, :, 0].tolist()
        [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)))


@in_float32
def gelu(x: Float[Array, "*b f"]) -> Float[Array, "*b f"]:
    """Return the exact GELU, x (1 + erf(x / sqrt 2)) / 2; ``nn.gelu`` takes erfc, which is slower on CPU.

    Example:
        >>> x = jnp.array([-3.0, 0.0, 0.5])
        >>> bool(jnp.allclose(gelu(x) - gelu(-x), x))
        True
    """
    return x * (0.5 + 0.5 * lax.erf(x * 0.5**0.5))


def channel_norm(x: Float[Array, "*b f"], *, epsilon: float = 1e-5, centre: bool = True) -> Float[Array, "*b f"]:
    """Normalise each pixel over its channels, (x - mean) / sqrt(var + eps), biased variance.

    ``centre=False`` divides without subtracting the mean (Restormer's bias-free norm; the variance is still taken
    about the mean).

    Example:
        >>> channel_norm(jnp.array([[1.0, 3.0]])).round(3).tolist()
        [[-1.0, 1.0]]
    """
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean if centre else x) * lax.rsqrt(variance + epsilon)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, with scale and (unless bias-free) shift; eps 1e-5 as PyTorch."""

    bias_free: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*b f"]) -> Float[Array, "*b f"]:
        shape = (x.shape[-1],)
        ones = (1,) * (x.ndim - 1)
        dtype = wide_dtype(x.dtype)
        affine = [self.param("scale", nn.initializers.ones, shape, dtype).reshape(*ones, -1)]
        if not self.bias_free:
            affine.append(self.param("bias", nn.initializers.zeros, shape, dtype).reshape(*ones, -1))

        @in_float32
        def norm(x: Array, scale: Array, *bias: Array) -> Array:
            normed = checkpoint_name(channel_norm(x, centre=not self.bias_free), REUSED_NAME)
            return sum(bias, start=normed * scale)

        return norm(x, *affine)


def pixel_unshuffle(x: Float[Array, "b h w f"], factor: int) -> Float[Array, "b h1 w1 f1"]:
    """Move each ``factor`` x ``factor`` cell of pixels into the features; both sides must be multiples of it.

    Example:
        >>> image = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> pixel_unshuffle(image, 2).shape, pixel_unshuffle(image, 2)[0, 0, 0].tolist()
        ((1, 2, 2, 4), [0.0, 1.0, 4.0, 5.0])
    """
    b, h, w, f = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, f).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // factor, w // factor, factor * factor * f)


def pixel_shuffle(x: Float[Array, "b h1 w1 f1"], factor: int) -> Float[Array, "b h w f"]:
    """Undo ``pixel_unshuffle``.

    Example:
        >>> pixel_shuffle(jnp.arange(4.0).reshape(1, 1, 1, 4), 2)[0, :, :, 0].tolist()
        [[0.0, 1.0], [2.0, 3.0]]
    """
    b, h, w, f = x.shape
    x = x.reshape(b, h, w, factor, factor, f // factor**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * factor, w * factor, f // factor**2)
