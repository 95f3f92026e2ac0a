"""Where a number that is not finite came from."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

__all__ = ["first_fault"]

CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # where operations that only call others hold them
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call")


def first_fault(function: Callable[..., Any], *arguments: Any) -> str:
    """Return the module whose operation is the first to make a number that is not finite of finite ones.

    The operations are done one by one, so it takes many times as long as the compiled program: it is for the one step
    that ends a run, and forgets all compiled programs. Flax names its operations by module; numbers that are infinite
    on purpose, as masks are, have no finite operands and do not count.

    Args:
        function: of arrays, such as the gradient of a loss.
        arguments: its arguments.

    Returns:
        A path such as ``ATLFNet/phase_3/brb``, with "the gradient of " before it where it arose in the backward pass;
        empty where everything is finite.

    Example:
        >>> import jax.numpy as jnp
        >>> @jax.named_scope("root")
        ... def root(x):
        ...     return jnp.log(x)
        >>> first_fault(lambda x: root(x - 1), jnp.array(0.5))
        'root'
    """
    jax.clear_caches()  # what was traced before has the names of where it was traced first
    closed = jax.make_jaxpr(function)(*arguments)
    return next(_faults(closed.jaxpr, closed.consts, jax.tree.leaves(arguments)), "")


def _faults(jaxpr: Any, consts: Any, arguments: Any, scope: str = "") -> Iterator[str]:
    """Yield the places of faults, in the order of the operations."""
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    kept = {var for var in jaxpr.outvars if not _is_literal(var)}
    last_use = {var: i for i, each in enumerate(jaxpr.eqns) for var in each.invars if not _is_literal(var)}
    for i, equation in enumerate(jaxpr.eqns):
        names = list(dict.fromkeys(var for var in equation.invars if not _is_literal(var)))
        single = jaxpr.replace(constvars=(), invars=names, outvars=equation.outvars, eqns=[equation])
        made = core.jaxpr_as_fun(core.ClosedJaxpr(single, ()))(*(values[var] for var in names))
        given = [var.val if _is_literal(var) else values[var] for var in equation.invars]
        if not all(map(_finite, made)) and all(map(_finite, given)):
            place = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
            inner = next((equation.params[name] for name in CALLED if name in equation.params), None)
            if inner is not None and equation.primitive.name in CALLS:
                yield from _faults(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given, place)
            yield _module(place)
        values |= dict(zip(equation.outvars, made, strict=True))
        for var in {*names, *equation.outvars} - kept:
            if last_use.get(var, i) <= i:
                del values[var]


def _is_literal(var: Any) -> bool:
    return isinstance(var, core.Literal)


def _finite(value: Any) -> bool:
    dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    return not jax.numpy.issubdtype(dtype, np.inexact) or bool(jax.numpy.isfinite(value).all())


def _module(place: str) -> str:
    """Return a readable path from names such as ``transpose(jvp(ATLFNet))/phase_0/mul``."""
    path = re.sub(r"\b(transpose|jvp|vmap|checkpoint|rematted_computation)\b|[()]", "", place)
    path = "/".join(part for part in path.split("/") if part and part not in ("jit", "while", "body", "closed_call"))
    return ("the gradient of " if "transpose" in place else "") + (path or "the loss")
