"""The one question by which formulations differ between backends."""

import jax

__all__ = ["accelerated"]


def accelerated() -> bool:
    """Return whether programs run on a GPU or TPU, where few large operations beat loops over what stays in cache."""
    return jax.default_backend() != "cpu"
