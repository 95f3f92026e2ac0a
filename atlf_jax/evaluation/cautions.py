"""The warnings of a report: subjects whose CT and MR are not aligned, and conditions a network was not trained for."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from beartype import beartype

from atlf_jax.data import DataConfig
from atlf_jax.evaluation.slices import reconstruct_slices
from atlf_jax.evaluation.trial import ZERO_FILLED, Trial
from atlf_jax.masks import make_mask, seed_from_name
from atlf_jax.models import sees_ct
from atlf_jax.trained import Network
from atlf_jax.trained.guards import Placement, unseen_dataset, unseen_sampling

__all__ = ["cautions"]


@beartype
def cautions(trial: Trial, networks: Mapping[str, Network], data: DataConfig) -> list[str]:
    """Return warnings: subjects whose CT and MR are not aligned, and masks or data a network was not trained for.

    The alignment is of no concern where all models are networks without a CT.

    Args:
        trial: as it is scored.
        networks: the models of the trial that are networks, by name.
        data: the settings of its source.

    Returns:
        One sentence for each warning.
    """
    warnings: list[str] = []
    places: defaultdict[str, Placement] = defaultdict(Placement)
    drawn: defaultdict[tuple[str, tuple[int, int]], list[np.ndarray]] = defaultdict(list)  # by label and size
    bare = replace(trial, models={}, config=replace(trial.config, batch_size=1))
    for panel in reconstruct_slices(bare, trial.masks[0], timed=False):
        places[panel.subject].add(panel.ct, panel.images[ZERO_FILLED])
        (h, w), seed = panel.target.shape, seed_from_name(panel.name)
        for mask, label in zip(trial.masks, trial.labels, strict=True):
            drawn[label, (h, w)].append(make_mask(mask, (h, w), seed=seed).samples)
    for (label, shape), masks in drawn.items():
        for name, network in networks.items():
            found = unseen_sampling(network.trained_for, np.stack(masks), shape=shape)
            warnings += [f"{name}, {label}: {text}." for text in found]
    for name, network in networks.items():
        warnings += [f"{name}: {text}." for text in unseen_dataset(network.trained_for, data)]
    if trial.models and all(name in networks and not sees_ct(networks[name].config.model) for name in trial.models):
        return warnings
    return warnings + [f"Subject {subject}: {text}." for subject, place in places.items() for text in place.warnings()]
