"""Networks of other libraries as objects with ``init`` and ``apply``, which training and reconstruction call.

    class MyConfig:                                            # a frozen dataclass, as for any network
        def build(self):
            return from_nnx(lambda rngs: MyModule(self.width, rngs=rngs))

A network is called with a ``Measurement`` and returns a ``Reconstruction``, or the complex image alone.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from atlf_jax.array_types import Array, Measurement, Reconstruction

__all__ = ["from_equinox", "from_functions", "from_nnx"]

Call = Callable[..., Reconstruction | Array]


def from_functions(init: Callable[[Any, Measurement], Any], apply: Call) -> Any:
    """Return a network made of two functions.

    Args:
        init: ``(key, measurement) -> parameters``, any pytree of arrays.
        apply: ``(parameters, measurement) -> reconstruction``.

    Example:
        >>> network = from_functions(lambda key, m: {"gain": jnp.ones(())}, lambda p, m: p["gain"] * m.kspace)
        >>> ones = jnp.ones((1, 4, 4), jnp.complex64)
        >>> measurement = Measurement(ones, jnp.ones((1, 1, 4), bool), ones.real)
        >>> variables = network.init(jax.random.key(0), measurement)
        >>> sorted(variables["params"]), network.apply(variables, measurement).image.shape
        (['gain'], (1, 4, 4))
    """
    return _Functions(init, apply)


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Any:
    """Return a Flax NNX module as a network.

    Dropout is active, and running statistics are updated, only in training.

    Args:
        make: returns the module, given random streams.

    Example:
        >>> network = from_nnx(lambda rngs: nnx.Linear(4, 4, rngs=rngs))
        >>> sorted(network.init(jax.random.key(0), None)["params"])
        ['bias.value', 'kernel.value']
    """
    return _NNX(make)


def from_equinox(make: Callable[[Any], Any]) -> Any:
    """Return an Equinox module as a network. All its floating-point arrays are trained.

    Args:
        make: returns the module, given a random key. In training the module is called with ``key=``, if its
            ``__call__`` has that argument.
    """
    return _Equinox(make)


@dataclass(frozen=True)
class _Functions:
    start: Callable[[Any, Measurement], Any]
    call: Call

    def init(self, rngs: Any, measurement: Measurement) -> dict[str, Any]:
        return {"params": _named(self.start(rngs, measurement))}

    def apply(self, variables: dict[str, Any], measurement: Measurement, *, rngs: Any = None, mutable: Any = ()) -> Any:
        del rngs, mutable  # there is nothing random and no state
        shapes = jax.eval_shape(self.start, jax.random.key(0), measurement)
        return _reconstruction(self.call(_filled(shapes, variables["params"]), measurement))


@dataclass(frozen=True)
class _NNX:
    make: Callable[[nnx.Rngs], nnx.Module]

    def init(self, rngs: Any, measurement: Measurement) -> dict[str, Any]:
        del measurement
        _, params, _, others = nnx.split(self.make(nnx.Rngs(rngs)), nnx.Param, nnx.RngState, ...)
        return {"params": _named(params)} | ({"state": _named(others)} if others else {})

    def apply(self, variables: dict[str, Any], measurement: Measurement, *, rngs: Any = None, mutable: Any = ()) -> Any:
        shapes = nnx.eval_shape(lambda: self.make(nnx.Rngs(0)))
        graph, params, streams, others = nnx.split(shapes, nnx.Param, nnx.RngState, ...)
        params, others = _filled(params, variables["params"]), _filled(others, variables.get("state", {}))
        module = nnx.merge(graph, params, _streams(streams, rngs), others)
        module.eval() if rngs is None else module.train()
        result = _reconstruction(module(measurement))
        return (result, {"state": _named(nnx.split(module, nnx.Param, nnx.RngState, ...)[3])}) if mutable else result


@dataclass(frozen=True)
class _Equinox:
    make: Callable[[Any], Any]

    def init(self, rngs: Any, measurement: Measurement) -> dict[str, Any]:
        import equinox

        del measurement
        return {"params": _named(equinox.filter(self.make(rngs), equinox.is_inexact_array))}

    def apply(self, variables: dict[str, Any], measurement: Measurement, *, rngs: Any = None, mutable: Any = ()) -> Any:
        import equinox

        del mutable  # it has no state
        # for its other arrays, such as indices; the parameters drawn here are not used
        params, others = equinox.partition(self.make(jax.random.key(0)), equinox.is_inexact_array)
        module = equinox.combine(_filled(params, variables["params"]), others)
        module = equinox.nn.inference_mode(module, value=rngs is None)
        takes_key = "key" in inspect.signature(type(module).__call__).parameters
        return _reconstruction(module(measurement, **({"key": rngs} if takes_key else {})))


def _named(tree: Any) -> dict[str, Array]:
    """Return the arrays of a tree by the path to each: parameters are dictionaries in files."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _filled(tree: Any, arrays: dict[str, Array]) -> Any:
    """Undo ``_named``: return a tree of the structure of ``tree`` with these arrays."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], tree)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").replace("/", ".") or "value"


def _streams(shapes: Any, key: Any) -> Any:
    """Return random streams for a key; in validation nothing is drawn, and any key will do."""
    key = jax.random.key(0) if key is None else key

    def fill(number: int, leaf: Any) -> Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.fold_in(key, number) if is_key else jnp.zeros(leaf.shape, leaf.dtype)

    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [fill(number, leaf) for number, leaf in enumerate(leaves)])


def _reconstruction(output: Any) -> Reconstruction:
    return output if isinstance(output, Reconstruction) else Reconstruction(output)
