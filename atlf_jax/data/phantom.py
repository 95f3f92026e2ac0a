"""Generated head phantom (being written)."""
from dataclasses import dataclass
from beartype import beartype
import numpy as np
from atlf_jax.data.example import Example, Split

@beartype
@dataclass(frozen=True)
class PhantomConfig:
    """Generated heads."""
    seed: int = 0
    """Seed."""
    subjects: int = 60
    """Subjects."""
    slices: int = 6
    """Slices a subject."""
    size: int = 128
    """Pixels."""
    split: Split = "train"
    """Split."""

class PhantomSource:
    def __init__(self, config):
        self.config = config
    def __len__(self):
        return self.config.subjects * self.config.slices
    def __getitem__(self, index):
        n = self.config.size
        y, x = np.mgrid[-1:1:n*1j, -1:1:n*1j]
        r = np.hypot(x, y / 1.1)
        ct = ((r < .8) * .5 + ((r > .75) & (r < .8)) * .5).astype(np.float32)
        mr = ((r < .75) * .6 + ((r > .8) & (r < .9)) * .4).astype(np.complex64)
        s = index // self.config.slices
        return Example(f"phantom{s:04d}_{index % self.config.slices:02d}", f"{s:04d}", ct, mr)
