"""A source of five small slices of two subjects, two masks, and a reconstruction, for the tests of this folder."""

import jax.numpy as jnp
import numpy as np

from atlf_jax.array_types import Measurement, Reconstruction
from atlf_jax.data import Example
from atlf_jax.evaluation.trial import Trial
from atlf_jax.masks import MaskConfig
from atlf_jax.ops import adjoint

SIZE = 24
MASKS = (MaskConfig("random", 2.0, 0.25), MaskConfig("variable_density_2d", 3.0))


class Slices:
    """Smooth random pictures: three slices of subject north, and two, fainter, of subject south."""

    def __init__(self, names=("n1", "n2", "n3", "s1", "s2"), gain=1.0, phase=0.0):
        self.names, self.gain, self.phase = names, gain, phase

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        name = self.names[index]
        rng = np.random.default_rng(list(name.encode()))
        picture = rng.uniform(size=(4, 4)).repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)
        ct = rng.uniform(size=(SIZE, SIZE)).astype(np.float32)
        picture *= self.gain * (1.0 if name[0] == "n" else 0.3)
        target = (picture * np.exp(1j * self.phase)).astype(np.complex64)
        return Example(name, {"n": "north", "s": "south"}[name[0]], ct, target)


def trial(models, source, masks=MASKS[:1], **settings):
    """Return the trial of models on a source."""
    return Trial(source, tuple(masks), models, **settings)


def halfway(measurement: Measurement) -> Reconstruction:
    """Do worse than zero-filled, and fuse."""
    image = adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
    return Reconstruction(image / 2, fused=(measurement.ct + jnp.abs(image)) / 2)
