"""The weight of the CT: a number, or what withheld samples say of this scan."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from beartype import beartype

from atlf_jax.array_types import Reconstructor
from atlf_jax.reconstruct.slices import Record, Settings, check_record, in_batches, prepare_batch, withheld_errors_of
from atlf_jax.trained.inference import weigh_ct
from atlf_jax.trained.network import check_does_without_ct
from atlf_jax.trained.withheld import WithheldErrors, gain_interval

__all__ = ["CTWeight", "check_ct_weight", "choose_ct_weight"]

CTWeight = float | Literal["withheld"]


@beartype
def check_ct_weight(weight: CTWeight, model: Reconstructor | None, *, has_ct: bool) -> None:
    """Check that a weight of the CT is possible; 1 always is.

    Raises:
        ValueError: the number is outside [0, 1]; or it is not 1, and there is no CT or the network needs one.
    """
    if not isinstance(weight, str) and not 0 <= weight <= 1:
        raise ValueError(f"ct_weight is {weight}, wanted a number from 0 (no CT) to 1 or 'withheld'")
    if weight == 1:
        return
    if not has_ct:
        raise ValueError(f"ct_weight is {weight!r}, and there is no CT to weigh; give one, or leave ct_weight out")
    check_does_without_ct(model, "ct_weight")


def choose_ct_weight(
    weight: CTWeight, model: Reconstructor, records: Iterable[Record], settings: Settings
) -> tuple[Reconstructor, dict[str, Any]]:
    """Return a network that takes the CT with a weight, and facts on how the weight was chosen.

    "withheld": one weight for all slices, with which the images without and with the CT together predict withheld
    samples best. Single slices decide nothing, as their samples are few (docs/DESIGN.md, 60).

    Args:
        weight: a number, or the rule.
        model: the network.
        records: all slices; each is reconstructed twice by the rule. They are not read for a number.
        settings: of the reconstruction.
    """
    if not isinstance(weight, str):
        return (model if weight == 1 else weigh_ct(model, weight)), {"ct_weight": weight, "ct_weight_rule": "given"}

    def checked() -> Iterable[Record]:
        for number, record in enumerate(records):
            check_record(number, record, settings)
            yield record

    errors: list[WithheldErrors] = []
    for number, (batch, fields) in enumerate(in_batches(checked(), settings)):
        found = withheld_errors_of(prepare_batch(fields, settings), model, seed=number)  # each batch has its own draw
        errors += [WithheldErrors(*(np.asarray(part)[index] for part in found)) for index in range(len(batch))]
    pooled = WithheldErrors(*(np.asarray(part) for part in zip(*errors, strict=True)))
    chosen = 0.0 if np.isnan(pooled.weight) else pooled.weight
    gain = gain_interval(errors)[0]
    facts = {"ct_weight": round(chosen, 4), "ct_weight_rule": weight}
    return weigh_ct(model, chosen), facts | {"ct_gain_at_full_weight_db": None if np.isnan(gain) else round(gain, 3)}
