"""What every contestant of a comparison is given: the same measurement, target, multipliers and loss weights."""

from typing import NamedTuple

import numpy as np

__all__ = ["SYMMETRY_WEIGHT", "TASKS", "Case", "Inputs", "make_inputs"]

TASKS = ("inference", "training")
SYMMETRY_WEIGHT = 0.01  # the loss: mean |x - target|^2 + .01 symmetry + mu path_cost, mean over the batch
LEARNING_RATE = 1e-4  # of Adam


class Case(NamedTuple):
    """One thing to time."""

    preset: str
    task: str  # a row of TASKS
    size: int  # height and width in pixels
    batch: int

    def __str__(self) -> str:
        return f"{self.preset}-{self.task}-{self.size}-batch{self.batch}"


class Inputs(NamedTuple):
    """Arrays of a case, numpy."""

    kspace: np.ndarray  # [b, h, w] complex64, centred, zero where not acquired, divided by max|A^H y|
    mask: np.ndarray  # [b, 1, w] bool
    ct: np.ndarray  # [b, h, w] float32
    target: np.ndarray  # [b, h, w] complex64
    mu_index: np.ndarray  # [b] int32
    mu: np.ndarray  # [b] float32


def make_inputs(size: int, batch: int, *, seed: int = 0, double: bool = False) -> Inputs:
    """Draw smooth heads with noise under line masks that keep about a third of the columns.

    Args:
        size: height and width.
        batch: number of examples.
        seed: of everything drawn.
        double: float64 and complex128 in place of float32 and complex64.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    blobs = np.exp(-((2 * y) ** 2 + (1 + 0.2 * np.arange(batch)[:, None, None]) * (2 * x) ** 2))
    image = blobs * (1 + 0.2 * rng.random((batch, size, size))) * np.exp(0.5j * np.pi * x * y)
    mask = rng.random((batch, 1, size)) < 0.3
    mask[..., size // 2 - 4 : size // 2 + 4] = True
    axes = (-2, -1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes) * mask
    start = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes)
    scale = np.abs(start).max(axes, keepdims=True)
    mu_index = np.arange(batch, dtype=np.int32) % 6
    real, complex_ = (np.float64, np.complex128) if double else (np.float32, np.complex64)
    return Inputs(
        (kspace / scale).astype(complex_),
        mask,
        rng.random((batch, size, size)).astype(real),
        (image / scale).astype(complex_),
        mu_index,
        np.array((2e-3, 1e-3, 5e-4, 1e-4, 5e-5, 1e-5), real)[mu_index],
    )
