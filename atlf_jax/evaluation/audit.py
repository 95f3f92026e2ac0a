"""The command of earlier versions, ``python -m atlf_jax.evaluation.audit``: now ``atlf audit``.

Its functions are those of ``atlf_jax.evaluation.data_audit``. Nothing in the package imports this module.
"""

from atlf_jax.commands import run
from atlf_jax.evaluation.data_audit import audit, table

__all__ = ["audit", "table"]

if __name__ == "__main__":
    run("audit", program="python -m atlf_jax.evaluation.audit")
