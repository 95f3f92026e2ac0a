"""The objectives of ATLF-Net's stages, and the parameters that each of them trains.

A run of the whole method goes through autoencode, fusion, reconstruction (fusion frozen, no adapters), adapters (all
else frozen) and joint; each is optional. docs/training.md has an example.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Float, Key

from atlf_jax import losses
from atlf_jax.array_types import Array, Batch
from atlf_jax.models.atlf.network import FUSION
from atlf_jax.models.atlf.phase import ADAPTER
from atlf_jax.objectives import Model, Outcome, Supervised, Variables, apply, zero_filled
from atlf_jax.objectives.supervised import compare
from atlf_jax.ops import ct_picture

__all__ = ["ADAPTERS", "FUSION_PROCESS", "OBJECTIVES", "PHASES", "Autoencode", "Fuse", "Reconstruct"]

# what a stage trains, as patterns of parameter names
FUSION_PROCESS = (f"{FUSION}/*",)
ADAPTERS = (f"*{ADAPTER}/*",)
PHASES = ("*", f"!{FUSION}/*", f"!*{ADAPTER}/*")

Target = Literal["full", "zero_filled"]


@beartype
@dataclass(frozen=True)
class Autoencode:
    """Phase I of the fusion process: encode and decode each modality by itself.

    The encoder is given the zero-filled MR, as in all that follows; what it should return is ``fusion_target``.
    """

    fusion_target: Target = "full"
    """MR image that the loss looks at; the fusion network itself only ever sees the zero-filled one."""

    def __call__(self, model: Model, variables: Variables, batch: Batch, *, key: Key[Array, ""] | None) -> Outcome:
        """Decode each modality from its own features."""
        ct, (start, mr) = ct_picture(batch.measurement.ct), _fusion_images(batch, self.fusion_target)
        arrays = (batch.measurement.ct, start)
        (ct_hat, mr_hat, features), state = apply(model, variables, *arrays, method="autoencode", key=key)
        terms = {"autoencode": losses.autoencode(ct_hat, ct, mr_hat, mr, features)}
        pictures = {"ct": ct, "ct decoded": ct_hat, "zero-filled": start, "mr decoded": mr_hat, "mr": mr}
        return Outcome(terms, {}, pictures, state)


@beartype
@dataclass(frozen=True)
class Fuse:
    """Phase II of the fusion process: L_int + 10 L_grad + 2 L_dec + eta_gap * |x_F - x_m|_1."""

    eta_gap: float = 1.0
    """Weight of the distance between the fused and the MR image."""
    fusion_target: Target = "full"
    """MR image that the loss looks at; the fusion network itself only ever sees the zero-filled one."""

    def __post_init__(self) -> None:
        if self.eta_gap < 0:
            raise ValueError(f"eta_gap must be >= 0, got {self.eta_gap}")

    def __call__(self, model: Model, variables: Variables, batch: Batch, *, key: Key[Array, ""] | None) -> Outcome:
        """Fuse the CT with the zero-filled MR."""
        ct, (start, mr) = ct_picture(batch.measurement.ct), _fusion_images(batch, self.fusion_target)
        (fused, features), state = apply(model, variables, batch.measurement, method="fuse", key=key)
        terms = {"fusion": losses.fusion(fused, ct, mr, features, gap_weight=self.eta_gap)}
        pictures = {"ct": ct, "zero-filled": start, "fused": fused, "mr": mr}
        return Outcome(terms, {}, pictures, state)


@beartype
@dataclass(frozen=True)
class Reconstruct(Supervised):
    """The image loss, gamma times the symmetry residual, mu times the cost of the attention paths, beta L_fusion.

    In training (a key is given) mu is drawn uniformly for each example; otherwise the model uses its own default.
    """

    gamma_symmetry: float = 0.01
    """Weight of the sum over phases of the symmetry residual (ISTA-Net+)."""
    beta_fusion: float = 0.0
    """Weight of the fusion loss; 0.1 where the fusion process is trained too."""
    eta_gap: float = 1.0
    """Weight, within the fusion loss, of the distance between the fused and the MR image."""
    fusion_target: Target = "full"
    """MR image that the fusion loss looks at; the fusion network itself only ever sees the zero-filled one."""
    adapters: bool = True
    """Use the CT adapters; off in the stages before they are trained."""

    def __call__(self, model: Any, variables: Variables, batch: Batch, *, key: Key[Array, ""] | None) -> Outcome:
        """Reconstruct the image."""
        model = model if self.adapters else model.unadapted
        mu_index, mu = None, None
        if key is not None and model.mu_values:
            key, key_mu = jax.random.split(key)
            mu_index = jax.random.randint(key_mu, batch.target.shape[:1], 0, len(model.mu_values))
            mu = jnp.asarray(model.mu_values, jnp.float32)[mu_index]
        result, state = apply(model, variables, batch.measurement, mu_index=mu_index, key=key)
        terms = self.terms(result, batch)
        if self.gamma_symmetry:
            terms["symmetry"] = self.gamma_symmetry * result.extras.symmetry
        if mu is not None:
            terms["path_cost"] = mu * result.extras.path_cost
        if self.beta_fusion and result.fused is not None:
            ct, (_, mr) = ct_picture(batch.measurement.ct), _fusion_images(batch, self.fusion_target)
            fusion = losses.fusion(result.fused, ct, mr, result.extras.features, gap_weight=self.eta_gap)
            terms["fusion"] = self.beta_fusion * fusion
        return Outcome(terms, *compare(result, batch), state)


def _fusion_images(batch: Batch, target: Target) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"]]:
    """Return the MR image that the fusion network sees, and the one that its losses look at."""
    start = jnp.abs(zero_filled(batch.measurement))
    full = jnp.minimum(jnp.abs(batch.target), 1)  # the fused image ends in a sigmoid: nothing above 1 is in reach
    return start, full if target == "full" else start


OBJECTIVES = {"atlf_autoencode": Autoencode, "atlf_fuse": Fuse, "atlf_reconstruct": Reconstruct}
