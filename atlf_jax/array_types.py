"""The axis legend, and the few records that travel between the parts of the library.

Axis letters, the same in annotations, shape comments and einsum strings:

    b  batch (any number of leading batch axes where written ``*b``)
    c  receive coils
    h  image rows, the readout axis of k-space
    w  image columns, the phase-encoding axis of k-space
    f  features of a network layer
    g  groups or heads
    n  queries (pixels) of an attention
    m  keys (sampled points) of an attention
    k  windows of the CT, if there are several

Images are ``[*b, h, w]`` and k-space ``[*b, h, w]`` (one coil) or ``[*b, c, h, w]``; feature maps are
``[b, h, w, f]``. Only negative axes are named, so leading batch axes are free.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

__all__ = ["Array", "Batch", "FusionFeatures", "Measurement", "Reconstruction", "Reconstructor"]


Array = jax.Array | np.ndarray  # operators take either; what they return is a jax.Array


class Measurement(NamedTuple):
    """The input of a reconstruction: a model gets nothing else.

    k-space and coil maps follow ``ops.operators``; k-space is zero where it was not acquired and is divided by
    the record's scale ``max|A^H y|``, so that the zero-filled image has maximum 1.
    """

    kspace: Complex[Array, "b *c h w"]  # measured samples, complex64
    mask: Bool[Array, "b #h w"]  # True = acquired; [b, 1, w] for line masks
    ct: Float[Array, "b *k h w"]  # windowed to [0, 1], on the MR grid; zeros where there is no CT
    coil_maps: Complex[Array, "b c h w"] | None = None


class Batch(NamedTuple):
    """One batch of training or evaluation: the measurement, and values that only losses and scores may use."""

    measurement: Measurement
    target: Complex[Array, "b h w"]  # fully sampled image, divided by scale
    scale: Float[Array, " b"]  # max|A^H y| of the record before division (1 when that is 0)
    record: Int[Array, " b"]  # index into the source, to name records in messages


class FusionFeatures(NamedTuple):
    """Features of both modalities before the low-rank fusion, for the decomposition loss."""

    global_ct: Float[Array, "b h w f"]  # GFAB of the CT
    global_mr: Float[Array, "b h w f"]
    local_ct: Float[Array, "b h w f"]  # LFAB of the CT
    local_mr: Float[Array, "b h w f"]


class Reconstruction(NamedTuple):
    """The output of a model; parts that a model does not compute are None."""

    image: Complex[Array, "b h w"]  # in units of Batch.scale
    fused: Float[Array, "b h w"] | None = None  # fused CT-MR image in (0, 1)
    coil_maps: Complex[Array, "b c h w"] | None = None  # if the network estimated them; the image belongs to them
    extras: Any = None  # further outputs for the network's own objective


Reconstructor = Callable[[Measurement], Reconstruction]  # a trained network, a solver, or a function of your own
