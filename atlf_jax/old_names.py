"""Names of earlier versions, which programs of users import from modules that no longer have them.

``from atlf_jax.models import load_pretrained`` is one: what it names, ``atlf.load``, stands above ``models``, which
must not import it. So the package, which knows all public names, says what an old name stands for, and a module that
is asked for one looks here.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["OLD_NAMES", "old_name"]

OLD_NAMES: dict[tuple[str, str], Callable[[], Any]] = {}  # by module and name; filled by the package


def old_name(module: str, name: str) -> Any:
    """Return what an old name of a module stands for.

    Raises:
        AttributeError: it never had one.
    """
    if (module, name) not in OLD_NAMES:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return OLD_NAMES[module, name]()
