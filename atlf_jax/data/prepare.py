"""The command of earlier versions, ``python -m atlf_jax.data.prepare``: now ``atlf prepare``.

Its functions are those of ``atlf_jax.data.preparation``. Nothing in the package imports this module.
"""

from atlf_jax.commands import run
from atlf_jax.data.preparation import PrepareConfig, prepare, prepare_all, share_out

__all__ = ["PrepareConfig", "prepare", "prepare_all", "share_out"]

if __name__ == "__main__":
    run("prepare", program="python -m atlf_jax.data.prepare")
