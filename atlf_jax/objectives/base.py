"""The interface of an objective: what it is called with and what it returns."""

import inspect
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Complex, Float, Key

from atlf_jax.array_types import Array, Batch, Measurement
from atlf_jax.ops import adjoint

__all__ = ["Model", "Objective", "Outcome", "Variables", "apply", "zero_filled"]

Variables = dict[str, Any]  # of a network, by collection: "params" and, in some, running statistics


@runtime_checkable
class Model(Protocol):
    """A network as two pure functions, ``init`` and ``apply``; every Flax Linen module is one.

    ``init(key, measurement)`` returns the variables, nested dictionaries of arrays with the parameters under "params".
    ``apply(variables, measurement)`` returns a ``Reconstruction``. Training also passes ``rngs``, a key; ``mutable``,
    the names of the other collections, if there are any, and then ``apply`` returns their new values too; and
    ``deterministic=False``, if the module's ``__call__`` has that argument. ``models.adapters`` wraps other networks.
    """

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any: ...

    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any: ...


class Outcome(NamedTuple):
    """The result of an objective on one batch."""

    terms: dict[str, Float[Array, " b"]]  # weighted terms of the loss, per example
    scores: dict[str, Float[Array, " b"]]  # for the log and for choosing the best checkpoint, such as psnr
    pictures: dict[str, Float[Array, "b h w"]]  # for the log
    state: Variables  # collections that the model changed, such as running statistics

    @property
    def loss(self) -> Float[Array, ""]:
        """Mean over the batch of the sum of the terms."""
        return jnp.stack(list(self.terms.values())).sum(0).mean()


@runtime_checkable
class Objective(Protocol):
    """A frozen dataclass with this call. ``key`` is a random key in training, and None in validation."""

    def __call__(self, model: Model, variables: Variables, batch: Batch, *, key: Key[Array, ""] | None) -> Outcome: ...


def apply(
    model: Model, variables: Variables, *args: Any, key: Key[Array, ""] | None, method: str | None = None, **kwargs: Any
) -> tuple[Any, Variables]:
    """Call a network, in training mode if a key is given, else in validation mode.

    Args:
        model: the network.
        variables: its variables.
        args: what it is called with, usually a ``Measurement``.
        key: for dropout and other random choices; None in validation.
        method: name of a method of a Flax module in place of ``__call__``.
        kwargs: further arguments.

    Returns:
        The output of the network, and the collections that it changed.

    Example:
        >>> import jax, flax.linen as nn
        >>> ones, dropout = jnp.ones(64), nn.Dropout(0.5)
        >>> validation, training = (apply(dropout, {}, ones, key=key)[0] for key in (None, jax.random.key(0)))
        >>> bool((validation == 1).all()), bool((training == 0).any())
        (True, True)
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
    """Return the zero-filled image, A^H y.

    Example:
        >>> centre_alone = jnp.zeros((1, 2, 4), jnp.complex64).at[0, 1, 2].set(8**0.5)
        >>> image = zero_filled(Measurement(centre_alone, jnp.ones((1, 1, 4), bool), jnp.zeros((1, 2, 4))))
        >>> bool(jnp.allclose(image, 1, atol=1e-6))
        True
    """
    return adjoint(measurement.kspace, measurement.mask, measurement.coil_maps)
