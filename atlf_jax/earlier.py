"""Configurations of earlier versions, as they stand in checkpoints and packed files, in the form of today.

JSON in, JSON out: nothing here knows the classes. docs/ATLF.md says why settings of ATLF-Net were taken out.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["REMOVED_FIELDS", "migrate", "migrated"]

# settings of ATLF-Net that were taken out, and the value that does what is done today
REMOVED_SETTINGS: dict[str, dict[str, Any]] = {
    "fusion": {
        "share_encoder": True,
        "lrfm_subnet": False,
        "post_fuse_layers": False,
        "decoder_skip": "none",
    },
    "reconstruction": {
        "share_phases": False,
        "dpa_paths": "conv",
        "dpa_selector": "pooled",
        "adain_alpha": 1.0,
        "brb_width_factor": 1,
    },
}
# values that were taken out, of settings that have others
REMOVED_VALUES: dict[str, dict[str, tuple[str, ...]]] = {
    "fusion": {"encoder": ("unet",), "lfab": ("glow1x1",), "lrfm": ("pooled",)},
    "reconstruction": {
        "avat_sampling": ("local9",),
        "spb_logit": ("dat2d", "log_cpb"),
        "adain": ("image", "film"),
        "skip": ("none",),
        "sense_dc": ("coilwise",),
    },
}
OLD_STAGES = ("autoencode", "fusion", "reconstruction", "adapters", "joint")  # every run had these, some of 0 steps
STAGE_TRAINS = {
    "autoencode": ["fusion/*"],
    "fusion": ["fusion/*"],
    "reconstruction": ["*", "!fusion/*", "!*ct_adapter/*"],
    "adapters": ["*ct_adapter/*"],
    "joint": ["*"],
}
IMAGE_LOSSES = ("mse", "l1", "charbonnier", "ssim", "relative")  # weights of the losses that any network has

OLD_DATASETS = ("aanlib", "fastmri", "phantom", "prepared")  # those that had a field of their own

# fields that are gone, and what an experiment's file is to say instead.
REMOVED_FIELDS = {
    "mask": "give Config masks=(MaskConfig(...),)",
    "more_masks": "give Config masks=(MaskConfig(...), MaskConfig(...)), a setting for each acceleration",
} | dict.fromkeys(
    ("dataset", *OLD_DATASETS), "give DataConfig source=, the settings of the dataset, such as source=AANLIBConfig()"
)


def migrated(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's meta data with its configuration in the form of today."""
    return {**meta, "config": migrate(meta["config"])}


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in the form of today; one that has it comes back as it is.

    Args:
        config: a configuration as a JSON dictionary.

    Raises:
        ValueError: it uses what was taken out.

    Example:
        >>> migrate({"model": {"fusion": {"width": 8, "share_encoder": True}}})
        {'model': {'fusion': {'width': 8}}}
    """
    config = dict(config)
    model, train = config.get("model"), config.get("train")
    atlf = isinstance(model, dict) and model.get("kind", "atlf") == "atlf"
    if atlf:
        config["model"] = _model(model)
    if isinstance(train, dict) and "stages" not in train and any(name in train for name in (*OLD_STAGES, "loss")):
        config["train"] = _train(train, atlf=atlf)
    if {"mask", "more_masks"} & config.keys():
        families = [config.pop("mask", {}), *config.pop("more_masks", [])]
        config["masks"] = [mask for family in families for mask in _one_acceleration_each(family)]
    if isinstance(config.get("data"), dict):
        config["data"] = _one_dataset(config["data"])
    return config


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Leave settings out that were taken out."""
    model = dict(model)
    for part, fields in REMOVED_SETTINGS.items():
        if not isinstance(model.get(part), dict):
            continue
        model[part] = values = dict(model[part])
        for name, kept in fields.items():
            if values.pop(name, kept) != kept:
                raise _refusal(f"model.{part}.{name}", kept)
        for name, gone in REMOVED_VALUES[part].items():
            if values.get(name) in gone:
                raise _refusal(f"model.{part}.{name}", f"another value than {values[name]!r}")
    return model


def _refusal(name: str, kept: Any) -> ValueError:
    return ValueError(
        f"{name} was taken out of the package, which now has {kept if isinstance(kept, str) else repr(kept)} alone; "
        "load this network with version 0.1.0"
    )


def _train(train: Mapping[str, Any], *, atlf: bool) -> dict[str, Any]:
    """Turn the five stages and their common losses into a list of stages with an objective each."""
    loss = train.get("loss", {})
    stages = []
    for name in OLD_STAGES:
        if atlf or name in ("reconstruction", "joint"):
            objective = _objective(name, loss) if atlf else {"kind": "supervised", **_part(loss, *IMAGE_LOSSES)}
            trains = STAGE_TRAINS[name] if atlf else ["*"]
            stages.append({"name": name, "objective": objective, "trains": trains, **train.get(name, {})})
    shared = {name: value for name, value in train.items() if name not in (*OLD_STAGES, "loss")}
    return {"stages": stages, **shared}


def _objective(stage: str, loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return the objective of one of ATLF-Net's stages."""
    if stage == "autoencode":
        return {"kind": "atlf_autoencode", **_part(loss, "fusion_target")}
    if stage == "fusion":
        return {"kind": "atlf_fuse", **_part(loss, "eta_gap", "fusion_target")}
    values = _part(loss, *IMAGE_LOSSES, "gamma_symmetry", "eta_gap", "fusion_target")
    beta = loss.get("beta_fusion", 0.1) if stage == "joint" else 0.0
    return {"kind": "atlf_reconstruct", **values, "beta_fusion": beta, "adapters": stage != "reconstruction"}


def _part(loss: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: loss[name] for name in names if name in loss}


def _one_acceleration_each(mask: Any) -> list[dict[str, Any]]:
    """In earlier versions a mask could have several accelerations, with as many center fractions."""
    if not isinstance(mask, dict):
        raise ValueError(f"config.mask: got {mask!r}, wanted a dictionary")
    pairs = [mask[name] for name in ("acceleration", "center_fraction") if isinstance(mask.get(name), list)]
    if not pairs:
        return [mask]
    if len(pairs) < 2 or len(pairs[0]) != len(pairs[1]):
        raise ValueError("config.mask: got more accelerations than center fractions, or fewer; wanted as many")
    return [mask | {"acceleration": each, "center_fraction": center} for each, center in zip(*pairs, strict=True)]


def _one_dataset(data: dict[str, Any]) -> dict[str, Any]:
    """Earlier versions kept the settings of all four datasets, and the name of the one that was read."""
    if "source" in data or not {"dataset", *OLD_DATASETS} & data.keys():
        return data
    kind = data.get("dataset", "phantom")
    others = {name: value for name, value in data.items() if name not in ("dataset", *OLD_DATASETS)}
    settings = data.get(kind, {})
    if not isinstance(settings, dict):
        raise ValueError(f"config.data.{kind}: got {settings!r}, wanted a dictionary")
    return {"source": {"kind": kind, **settings}, **others}
