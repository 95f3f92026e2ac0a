"""The training objectives, one a stage: from a batch through the model to a scalar and its terms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Complex, Float, Key

from atlf_jax import losses, metrics
from atlf_jax.array_types import Batch, Measurement
from atlf_jax.ops import adjoint, ct_picture

__all__ = ["OBJECTIVES", "LossConfig", "Model", "Outcome", "Variables", "zero_filled"]

Variables = dict[str, Any]  # the collections of a Flax module: "params" and, in some presets, "batch_stats"


@runtime_checkable
class Model(Protocol):
    """What training asks of a network: a Flax module ``(measurement, *, mu_index, deterministic) -> Reconstruction``.

    With a fusion process (parameters under "fusion") it also has the methods ``autoencode(ct, mr, *, deterministic)
    -> (ct, mr, FusionFeatures)`` and ``fuse(measurement, *, deterministic) -> (fused, FusionFeatures)``. A model with
    ``mu_values`` is conditioned on one of these multipliers of ``Reconstruction.path_cost``, named by ``mu_index``.
    A model with CT adapters (parameters under "ct_adapter") has itself without them as ``unadapted``.
    """

    @property
    def mu_values(self) -> tuple[float, ...]: ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any: ...

    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any: ...


class Outcome(NamedTuple):
    """One objective at one batch."""

    terms: dict[str, Float[Array, " b"]]  # weighted terms of the loss, per example
    scores: dict[str, Float[Array, " b"]]  # for people and for choosing a checkpoint
    pictures: dict[str, Float[Array, "b h w"]]
    state: Variables  # collections changed by the model: running statistics

    @property
    def loss(self) -> Float[Array, ""]:
        """Mean over the batch of the sum of the terms."""
        return jnp.stack(list(self.terms.values())).sum(0).mean()


@beartype
@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; a weight of 0 leaves the term out."""

    mse: float = 1.0
    """Mean squared error of the complex image."""
    l1: float = 0.0
    """Mean absolute error of the complex image."""
    charbonnier: float = 0.0
    """Charbonnier error of the complex image (0.1 in CIPM-Net)."""
    ssim: float = 0.0
    """(1 - SSIM) / 2 of the magnitude."""
    relative: float = 0.0
    """Above 0: log(1 + loss / relative) in place of each of the losses above, example by example. Where a loss is much
    larger than this, its gradient is divided by it: an easy mask counts as much as a hard one, as it does in dB."""
    gamma_symmetry: float = 0.01
    """Weight of the sum over phases of the symmetry residual (ISTA-Net+)."""
    beta_fusion: float = 0.1
    """Weight of the fusion loss in the joint stage."""
    eta_gap: float = 1.0
    """Weight, within the fusion loss, of the distance between the fused and the MR image."""
    fusion_target: Literal["full", "zero_filled"] = "full"
    """MR image that the fusion losses look at; the fusion network itself only ever sees the zero-filled one."""

    def __post_init__(self) -> None:
        weights = {name: value for name, value in vars(self).items() if name != "fusion_target"}
        if min(weights.values()) < 0:
            raise ValueError(f"loss weights must be >= 0, got {weights}")
        if not (self.mse or self.l1 or self.charbonnier or self.ssim):
            raise ValueError("one of the loss weights mse, l1, charbonnier, ssim must be above 0")


@beartype
def zero_filled(measurement: Measurement) -> Complex[Array, "b h w"]:
    """Return A^H y, the image without any reconstruction."""
    return adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)


def autoencode(
    model: Model, variables: Variables, batch: Batch, *, config: LossConfig, key: Key[Array, ""] | None
) -> Outcome:
    """Phase I of the fusion process: encode and decode each modality by itself.

    The encoder is given the zero-filled MR, as in all that follows; what it should return is ``fusion_target``.
    """
    ct, (start, mr) = ct_picture(batch.measurement.ct), _fusion_images(batch, config)
    arrays = (batch.measurement.ct, start)
    (ct_hat, mr_hat, features), state = _apply(model, variables, *arrays, method="autoencode", key=key)
    terms = {"autoencode": losses.autoencode(ct_hat, ct, mr_hat, mr, features)}
    pictures = {"ct": ct, "ct decoded": ct_hat, "zero-filled": start, "mr decoded": mr_hat, "mr": mr}
    return Outcome(terms, {}, pictures, state)


def fusion(
    model: Model, variables: Variables, batch: Batch, *, config: LossConfig, key: Key[Array, ""] | None
) -> Outcome:
    """Phase II of the fusion process: L_int + 10 L_grad + 2 L_dec + eta_gap * |x_F - x_m|_1."""
    ct, (start, mr) = ct_picture(batch.measurement.ct), _fusion_images(batch, config)
    (fused, features), state = _apply(model, variables, batch.measurement, method="fuse", key=key)
    terms = {"fusion": losses.fusion(fused, ct, mr, features, gap_weight=config.eta_gap)}
    pictures = {"ct": ct, "zero-filled": start, "fused": fused, "mr": mr}
    return Outcome(terms, {}, pictures, state)


def reconstruction(
    model: Model, variables: Variables, batch: Batch, *, config: LossConfig, key: Key[Array, ""] | None
) -> Outcome:
    """The image loss, gamma times the symmetry residual, and mu times the cost of the attention paths.

    In training (a key is given) mu is drawn uniformly for each example; otherwise the model uses its own default.
    """
    return _reconstruct(model, variables, batch, config=config, key=key, beta=0.0)


def joint(
    model: Model, variables: Variables, batch: Batch, *, config: LossConfig, key: Key[Array, ""] | None
) -> Outcome:
    """The reconstruction objective and beta times the fusion loss."""
    return _reconstruct(model, variables, batch, config=config, key=key, beta=config.beta_fusion)


OBJECTIVES: dict[str, Callable[..., Outcome]] = {
    "autoencode": autoencode,
    "fusion": fusion,
    "reconstruction": reconstruction,
    "adapters": reconstruction,
    "joint": joint,
}


def _reconstruct(
    model: Model, variables: Variables, batch: Batch, *, config: LossConfig, key: Key[Array, ""] | None, beta: float
) -> Outcome:
    mu_index, mu = None, None
    if key is not None and model.mu_values:
        key, key_mu = jax.random.split(key)
        mu_index = jax.random.randint(key_mu, batch.target.shape[:1], 0, len(model.mu_values))
        mu = jnp.asarray(model.mu_values, jnp.float32)[mu_index]
    result, state = _apply(model, variables, batch.measurement, mu_index=mu_index, key=key)
    image, target = result.image, batch.target
    magnitude, truth = jnp.abs(image), jnp.abs(target)
    terms = {}
    for name, loss in losses.RECONSTRUCTION_LOSSES.items():
        if weight := getattr(config, name):
            value = loss(image, target)
            terms[name] = weight * (jnp.log1p(value / config.relative) if config.relative else value)
    if config.gamma_symmetry and result.symmetry is not None:
        terms["symmetry"] = config.gamma_symmetry * result.symmetry
    if mu is not None and result.path_cost is not None:
        terms["path_cost"] = mu * result.path_cost
    ct, (start, mr) = ct_picture(batch.measurement.ct), _fusion_images(batch, config)
    if beta and result.fused is not None:
        terms["fusion"] = beta * losses.fusion(result.fused, ct, mr, result.features, gap_weight=config.eta_gap)
    scores = {"psnr": metrics.psnr(magnitude, truth, peak=1 / batch.scale)}  # the peak is 1 in the source's own units
    pictures = {"ct": ct, "zero-filled": start}
    if result.fused is not None:
        pictures["fused"] = result.fused
    pictures |= {"reconstruction": magnitude, "target": truth, "error": jnp.abs(magnitude - truth)}
    return Outcome(terms, scores, pictures, state)


def _fusion_images(batch: Batch, config: LossConfig) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"]]:
    """Return the MR image that the fusion network sees, and the one that its losses look at."""
    start = jnp.abs(zero_filled(batch.measurement))
    full = jnp.minimum(jnp.abs(batch.target), 1)  # the fused image ends in a sigmoid: nothing above 1 is in reach
    return start, full if config.fusion_target == "full" else start


def _apply(
    model: Model, variables: Variables, *args: Any, method: str | None = None, key: Key[Array, ""] | None, **kwargs: Any
) -> tuple[Any, Variables]:
    """Call the model: with a key as in training, without as in evaluation; also return the changed collections."""
    rngs = None if key is None else {"gumbel": key}
    changing = [name for name in variables if name != "params"] if key is not None else []
    output = model.apply(
        variables, *args, method=method, deterministic=key is None, rngs=rngs, mutable=changing or False, **kwargs
    )
    return output if changing else (output, {})
