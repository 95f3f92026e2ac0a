"""The one question by which formulations differ between backends."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

__all__ = ["accelerated", "formulated_for"]

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def accelerated() -> bool:
    """Return whether programs run on a GPU or TPU, where few large operations beat loops over what stays in cache."""
    return (_platform.get() or jax.default_backend()) != "cpu"


@contextlib.contextmanager
def formulated_for(platform: str) -> Iterator[None]:
    """Trace programs in the formulation of a platform, whatever this process runs on: what is exported runs elsewhere.

    Args:
        platform: as ``jax.export`` names it, such as "cpu" or "cuda".

    Example:
        >>> with formulated_for("cuda"):
        ...     accelerated()
        True
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)
