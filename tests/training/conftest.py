"""A network and a source of a few numbers each, so that training tests compile in a second."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from atlf_jax.array_types import Batch, FusionFeatures, Measurement, Reconstruction
from atlf_jax.data import AcquisitionConfig, AugmentConfig, Example, evaluation_batches
from atlf_jax.masks import MaskConfig
from atlf_jax.models.atlf.network import Extras
from atlf_jax.models.atlf.objectives import ADAPTERS, FUSION_PROCESS, PHASES, Autoencode, Fuse, Reconstruct
from atlf_jax.models.atlf.phase import ADAPTER
from atlf_jax.ops.operators import adjoint
from atlf_jax.training import Stage, TrainConfig, fit

SIDE = 16
STAGES = {  # those of ATLF-Net, whose parts ``Tiny`` has
    "autoencode": (Autoencode(), FUSION_PROCESS),
    "fusion": (Fuse(), FUSION_PROCESS),
    "reconstruction": (Reconstruct(adapters=False), PHASES),
    "adapters": (Reconstruct(), ADAPTERS),
    "joint": (Reconstruct(beta_fusion=0.1), ("*",)),
}
MASK = MaskConfig(kind="random", acceleration=2.0, center_fraction=0.2)


class Fusion(nn.Module):
    """One convolution before and one after, shared by the modalities."""

    def setup(self) -> None:
        self.encode = nn.Conv(4, (3, 3), name="encode")
        self.decode = nn.Conv(1, (1, 1), name="decode")

    def features(self, ct: Array, mr: Array) -> FusionFeatures:
        c, m = self.encode(ct[..., None]), self.encode(mr[..., None])
        return FusionFeatures(c[..., :2], m[..., :2], c[..., 2:], m[..., 2:])

    def image(self, wide: Array, local: Array) -> Array:
        return nn.sigmoid(self.decode(jnp.concatenate([wide, local], -1))[..., 0])


class Tiny(nn.Module):
    """x + gate * convolution of (re x, im x, fused); has every part that ATLF-Net's objectives ask for."""

    use_fusion: bool = True
    mu_values: tuple[float, ...] = (0.5, 0.25)
    batch_norm: bool = False
    fails_on_dark_ct: bool = False
    adapted: bool = False

    @property
    def unadapted(self) -> "Tiny":
        return self.clone(adapted=False)

    def setup(self) -> None:
        if self.use_fusion:
            self.fusion = Fusion(name="fusion")
        self.conv = nn.Conv(2, (3, 3), name="phase_0")
        if self.adapted:
            self.ct_adapter = nn.Conv(2, (1, 1), name=ADAPTER)
        if self.batch_norm:
            self.norm = nn.BatchNorm(momentum=0.5, name="norm")

    def autoencode(self, ct: Array, mr: Array, *, deterministic: bool = True) -> tuple[Array, Array, FusionFeatures]:
        del deterministic
        z = self.fusion.features(ct, mr)
        return self.fusion.image(z.global_ct, z.local_ct), self.fusion.image(z.global_mr, z.local_mr), z

    def fuse(self, measurement: Measurement, *, deterministic: bool = True) -> tuple[Array, FusionFeatures]:
        del deterministic
        z = self.fusion.features(measurement.ct, jnp.abs(start_image(measurement)))
        return self.fusion.image(z.global_ct + z.global_mr, z.local_ct + z.local_mr), z

    def __call__(
        self, measurement: Measurement, *, mu_index: Array | None = None, deterministic: bool = True
    ) -> Reconstruction:
        start = start_image(measurement)
        fused, features = self.fuse(measurement) if self.use_fusion else (None, None)
        side = measurement.ct if fused is None else fused
        update = self.conv(jnp.stack([start.real, start.imag, side], -1))
        if self.adapted:
            update = update + self.ct_adapter(measurement.ct[..., None])
        if self.batch_norm:
            update = self.norm(update, use_running_average=deterministic)
        gate = jnp.ones(start.shape[0])
        if not deterministic:
            gate = gate + 0.1 * jax.random.normal(self.make_rng("gumbel"), gate.shape)
        cost = None if mu_index is None else 1.0 + mu_index
        update = update * gate[:, None, None, None]
        image = start + jax.lax.complex(update[..., 0], update[..., 1])
        if self.fails_on_dark_ct:
            dark = measurement.ct.max((1, 2), keepdims=True) < 1
            image = jnp.where(dark, jnp.nan, image)
        return Reconstruction(image, fused, extras=Extras(jnp.square(update).mean((1, 2, 3)), cost, features))


def stage(name: str, **settings: Any) -> Stage:
    """Return one of ``STAGES`` with other settings."""
    objective, trains = STAGES[name]
    return Stage(name, objective, trains, **({"learning_rate": 1e-2} | settings))


def start_image(measurement: Measurement) -> Array:
    return adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)


class Discs:
    """Twelve pairs of a disc each, of growing radius; ``broken`` names one with a dark CT."""

    def __init__(self, size: int = 12, *, broken: int | None = None, group: str = "s") -> None:
        self.size, self.broken, self.group = size, broken, group

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
        radius = np.hypot(y, x)
        ct = (radius < 3 + index / 3).astype(np.float32)
        target = (0.2 * ct + 0.6 * (radius < 2 + index / 4)).astype(np.complex64)
        if index == self.broken:
            ct = ct / 2
        return Example(f"disc{index:02d}", f"{self.group}{index:02d}", ct, target)


@pytest.fixture(scope="package", autouse=True)
def quick_compilation() -> Iterator[None]:
    """Compile fast: most of the time of these tests otherwise."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def tiny() -> Callable[..., Tiny]:
    return Tiny


@pytest.fixture
def discs() -> Callable[..., Discs]:
    return Discs


@pytest.fixture
def batch() -> Batch:
    """Four records, as numpy arrays."""
    return next(evaluation_batches(Discs(), mask=MASK, batch_size=4))[0]


@pytest.fixture
def train_config() -> Callable[..., TrainConfig]:
    """Make a configuration of short stages: ``train_config(fusion=2, joint={"steps": 3}, batch_size=4)``."""

    def make(**settings: Any) -> TrainConfig:
        stages = []
        for name in STAGES:
            asked = settings.pop(name, 0)
            stages.append(stage(name, **(asked if isinstance(asked, dict) else {"steps": asked})))
        defaults = {"batch_size": 4, "ema_decay": 0.9, "log_every": 1, "eval_every": 100, "save_every": 100}
        return TrainConfig(stages=tuple(stages), **(defaults | settings))

    return make


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Fit the tiny network to the discs."""

    def call(config: TrainConfig, *, workdir: Path = tmp_path / "run", **changes: Any) -> Path:
        settings = {
            "model": Tiny(),
            "train_source": Discs(),
            "valid_source": Discs(5, group="v"),
            "mask": MASK,
            "augment": AugmentConfig(),
            "acquisition": AcquisitionConfig(),
            "workers": 0,
            "record": {"model": {"width": 4}},
            "devices": jax.devices()[:1],
        }
        return fit(config, workdir=workdir, **(settings | changes))

    return call
