"""Configurations of earlier versions, as checkpoints and packed weights hold them, in the form of this version.

Plain JSON in, plain JSON out: every reader of a stored configuration goes through ``migrated``, and nothing else knows
of earlier forms.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["MOVED", "migrated"]

DATASETS = ("aanlib", "fastmri", "phantom", "prepared")  # those that had a field of their own

# Fields that are gone, and what an experiment's file is to say instead.
MOVED = {
    "mask": "give Config masks=(MaskConfig(...),)",
    "more_masks": "give Config masks=(MaskConfig(...), MaskConfig(...)), a setting for each acceleration",
} | dict.fromkeys(
    ("dataset", *DATASETS), "give DataConfig source=, the settings of the dataset, such as source=AANLIBConfig()"
)


def migrated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration as this version writes it.

    Args:
        config: what ``config.to_dict`` of this or an earlier version returned.

    Raises:
        ValueError: a field of an earlier version holds what that version never wrote.

    Example:
        >>> migrated({"mask": {"kind": "radial", "acceleration": [4.0, 8.0], "center_fraction": [0.1, 0.1]}})["masks"]
        [{'kind': 'radial', 'acceleration': 4.0, 'center_fraction': 0.1}, \
{'kind': 'radial', 'acceleration': 8.0, 'center_fraction': 0.1}]
    """
    config = dict(config)
    if {"mask", "more_masks"} & config.keys():
        families = [config.pop("mask", {}), *config.pop("more_masks", [])]
        config["masks"] = [mask for family in families for mask in _one_acceleration_each(family)]
    if isinstance(config.get("data"), dict):
        config["data"] = _one_dataset(config["data"])
    return config


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
    if "source" in data or not {"dataset", *DATASETS} & data.keys():
        return data
    kind = data.get("dataset", "phantom")
    rest = {name: value for name, value in data.items() if name not in ("dataset", *DATASETS)}
    settings = data.get(kind, {})
    if not isinstance(settings, dict):
        raise ValueError(f"config.data.{kind}: got {settings!r}, wanted a dictionary")
    return {"source": {"kind": kind, **settings}, **rest}
