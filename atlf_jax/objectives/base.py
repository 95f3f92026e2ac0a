"""What every objective takes and returns."""

import inspect
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Complex, Float, Key

from atlf_jax.array_types import Array, Batch, Measurement
from atlf_jax.ops import adjoint

__all__ = ["Model", "Objective", "Outcome", "Variables", "apply", "zero_filled"]

Variables = dict[str, Any]  # the collections of a network: "params" and, in some, running statistics


@runtime_checkable
class Model(Protocol):
    """A network as a pair of pure functions, as every Flax Linen module is one.

    ``init(key, measurement)`` returns the variables, nested dictionaries of arrays with the parameters under "params".
    ``apply(variables, measurement)`` returns a ``Reconstruction``. In training it is also given ``rngs``, a key;
    ``mutable``, the names of the other collections, if there are any, whose new values are then returned too; and
    ``deterministic=False`` if the module's ``__call__`` takes it. ``models.adapters`` makes such a pair of others.
    """

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


@runtime_checkable
class Objective(Protocol):
    """A frozen dataclass that is called so; with a key as in training, without as in validation."""

    def __call__(self, model: Model, variables: Variables, batch: Batch, *, key: Key[Array, ""] | None) -> Outcome: ...


def apply(
    model: Model, variables: Variables, *args: Any, key: Key[Array, ""] | None, method: str | None = None, **kwargs: Any
) -> tuple[Any, Variables]:
    """Call a network: with a key as in training, without as in validation.

    Args:
        model: the network.
        variables: its variables.
        args: what it is called with, usually a ``Measurement``.
        key: of dropout and other random choices.
        method: name of a method of a Flax module in place of ``__call__``.
        kwargs: further arguments.

    Returns:
        What the network returns, and the collections that it changed.
    """
    options: dict[str, Any] = dict(kwargs)
    if method is not None:
        options["method"] = method
    call = getattr(type(model), method or "__call__", None)
    if call is not None and "deterministic" in inspect.signature(call).parameters:
        options["deterministic"] = key is None
    if key is None:
        return model.apply(variables, *args, **options), {}
    changing = [name for name in variables if name != "params"]
    output = model.apply(variables, *args, rngs=key, mutable=changing or False, **options)
    return output if changing else (output, {})


@beartype
def zero_filled(measurement: Measurement) -> Complex[Array, "b h w"]:
    """Return A^H y, the image without any reconstruction."""
    return adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
