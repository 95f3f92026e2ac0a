"""All methods of the benchmark: they differ in the network, its learning rate and its steps, and share all else.

Source: ours; data and augmentation are those of ``configs/aanlib_4x.py``. Command, for each of ``ARGUMENTS``:
``python train.py --config=configs/benchmark.py:unet``. One set of weights serves all masks: each training record draws
a family and an acceleration, and its L1 error counts relatively, as errors differ tenfold between masks. Steps are
chosen so that each method takes about as long on one core. What they reach: docs/results.md, "All methods, all masks".
"""

import dataclasses
from typing import Any

from atlf_jax.config import Config
from atlf_jax.data import AANLIBConfig, AugmentConfig, DataConfig
from atlf_jax.masks import MaskConfig
from atlf_jax.models import (
    PRESETS,
    ATLFConfig,
    DCCNNConfig,
    ModelConfig,
    MoDLConfig,
    MTransConfig,
    UNetConfig,
    VarNetConfig,
)
from atlf_jax.models.atlf.objectives import ADAPTERS, FUSION_PROCESS, PHASES, Autoencode, Fuse, Reconstruct
from atlf_jax.objectives import Supervised
from atlf_jax.training import Stage, TrainConfig

ARGUMENTS = ("best", "best_no_ct", "compact", "dc_cnn", "istanet_plus", "modl", "mtrans", "unet", "varnet")
FAMILIES = ("random", "equispaced_fraction", "variable_density_2d", "radial")
ACCELERATIONS = {4.0: 0.08, 8.0: 0.04, 10.0: 0.04}  # with their centres
MASKS = tuple(MaskConfig(kind, *pair) for kind in FAMILIES for pair in ACCELERATIONS.items())

JOINT: dict[str, Any] = {"beta_fusion": 0.1, "adapters": True}


def get_config(method: str) -> Config:
    """Return the experiment of one method."""
    match method:
        case "unet":
            # Zbontar et al. 2018, at its published width. It ends in data consistency, which the published network has
            # not: without, it learns next to nothing in this time (docs/results.md, "How learning rates were tuned").
            return experiment(method, UNetConfig(dc="hard", complex=False), steps=1900, learning_rate=1e-3)
        case "dc_cnn":
            # Schlemper et al. 2018, narrower than published; samples replace the network's, as published for data
            # without noise
            model = DCCNNConfig(width=32, dc="hard", complex=False)
            return experiment(method, model, steps=1900, learning_rate=2e-3)
        case "modl":
            # Aggarwal et al. 2019, narrower than published and with half of its iterations
            model = MoDLConfig(iterations=5, width=32, complex=False)
            return experiment(method, model, steps=1680, learning_rate=1e-3)
        case "varnet":
            # Sriram et al. 2020, narrower than published and with fewer cascades
            model = VarNetConfig(cascades=5, width=8, pools=3, complex=False)
            return experiment(method, model, steps=2450, learning_rate=2e-3)
        case "mtrans":
            # Feng et al. 2023, at our size; in data consistency it ends as the U-Net does, and for the same reason
            return experiment(method, MTransConfig(dc="hard", complex=False), steps=1900, learning_rate=2e-3)
        case "istanet_plus":
            # Zhang and Ghanem 2018, at its published size; it cannot see the CT
            return experiment(method, PRESETS["istanet_plus"](), steps=680, learning_rate=1e-3)
        case "compact":
            # ours: the three stages of configs/aanlib_4x.py, together for as long as the other methods' one
            fusion = (
                Stage("autoencode", Autoencode(), FUSION_PROCESS, 400, learning_rate=2e-3, warmup_steps=20),
                Stage("fusion", Fuse(), FUSION_PROCESS, 300, learning_rate=1e-3, warmup_steps=20),
            )
            model = _changed(PRESETS["compact"](), complex=False)
            return experiment(method, model, steps=1450, learning_rate=1e-3, before=fusion)
        case "best":
            return best()
        case "best_no_ct":
            # what ``best`` is after its first stage, to see what the CT and its adapters bring
            model = dataclasses.replace(
                _changed(PRESETS["best"](), dc="hard", complex=False, ct_adapter="none"), use_ct=False
            )
            return experiment(method, model, steps=1230, learning_rate=2e-3, gamma_symmetry=0.0)
        case _:
            raise ValueError(f"got {method!r}, wanted one of {', '.join(ARGUMENTS)}")


def best() -> Config:
    """Return ours: first the network without the CT, then adapters for the CT beside it.

    After its first stage it is ``best_no_ct``, to the last bit. Then it is frozen, and the adapters, which start at
    zero, are trained: without a CT it stays what it was. In half of the pairs the CT lies off the MR, so that adapters
    learn to see whether it fits, and its grey levels are drawn anew for each, as the display windows of the pictures
    differ from subject to subject (docs/DESIGN.md, 42). The loss has no symmetry residual (49). Samples are simulated
    without noise, so they replace the network's (46); noisy ones want dc "soft".
    """
    model = _changed(PRESETS["best"](), dc="hard", complex=False)
    objective = dataclasses.replace(_reconstruct(gamma_symmetry=0.0), adapters=True)
    adapters = Stage("adapters", objective, ADAPTERS, 160, learning_rate=2e-3, final_fraction=0.02)
    config = experiment("best", model, steps=1230, learning_rate=2e-3, gamma_symmetry=0.0, after=(adapters,))
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, ct_gamma=1.0, ct_misplaced=0.5))


def experiment(
    name: str,
    model: ModelConfig,
    *,
    steps: int,
    learning_rate: float,
    gamma_symmetry: float = 0.01,
    before: tuple[Stage, ...] = (),
    after: tuple[Stage, ...] = (),
) -> Config:
    """Return the experiment of a method.

    Args:
        name: of the method.
        model: its network.
        steps: of the reconstruction stage.
        learning_rate: its peak.
        gamma_symmetry: weight of ISTA-Net+'s symmetry residual, for networks that have one.
        before: stages before the reconstruction stage.
        after: stages after it.
    """
    atlf = isinstance(model, ATLFConfig)
    reconstruction = Stage(
        "reconstruction",
        _reconstruct(gamma_symmetry) if atlf else Supervised(mse=0.0, l1=0.05, relative=1e-4),
        PHASES if atlf else ("*",),
        steps,
        learning_rate=learning_rate,
        warmup_steps=50,
        final_fraction=0.02,
    )
    stages = (*before, reconstruction, *after)
    if atlf:  # off; --train.joint.steps has it on
        stages = (*stages, Stage("joint", dataclasses.replace(_reconstruct(gamma_symmetry), **JOINT)))
    quarter = -(-sum(stage.steps for stage in stages) // 4)
    intervals: dict[str, Any] = {"eval_every": quarter, "picture_every": quarter, "save_every": 600, "log_every": 50}
    return Config(
        name=f"benchmark/{name}",
        model=model,
        data=DataConfig(AANLIBConfig(), train_split="inner_train", valid_split="inner_valid"),
        masks=MASKS,
        augment=AugmentConfig(shift=8.0, rotation=10.0, scale=0.1, crop=(64, 0)),
        train=TrainConfig(stages=stages, batch_size=1, seed=0, **intervals),
    )


def _reconstruct(gamma_symmetry: float) -> Reconstruct:
    return Reconstruct(mse=0.0, l1=0.05, relative=1e-4, gamma_symmetry=gamma_symmetry, adapters=False)


def _changed(model: ATLFConfig, **reconstruction: Any) -> ATLFConfig:
    return dataclasses.replace(model, reconstruction=dataclasses.replace(model.reconstruction, **reconstruction))
