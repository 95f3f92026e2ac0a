"""CT-assisted MR reconstruction in JAX and Flax.

    import atlf_jax as atlf

Everything public is at hand as ``atlf.NAME``; ``__init__.pyi`` lists it. A name loads what it needs when first used, so
that importing the library takes no time, and a program no longer than what it uses.

Example:
    >>> import atlf_jax as atlf
    >>> atlf.make_mask(atlf.MaskConfig(kind="random", acceleration=4.0), (64, 64), seed=1).samples.shape
    (1, 64)
    >>> from atlf_jax.models import ATLFConfig
    >>> atlf.ATLFConfig is ATLFConfig, "forward" in dir(atlf)
    (True, True)
    >>> hasattr(atlf, "foward")
    False
"""

import lazy_loader

from atlf_jax.old_names import OLD_NAMES
from atlf_jax.program import VERSION as __version__  # noqa: F401

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

OLD_NAMES["atlf_jax.models", "load_pretrained"] = lambda: __getattr__("load")
