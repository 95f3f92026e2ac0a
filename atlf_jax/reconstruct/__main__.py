"""Reconstruct files, as ``atlf reconstruct``: ``python -m atlf_jax.reconstruct --help``."""

from atlf_jax.commands import run

if __name__ == "__main__":
    run("reconstruct", program="python -m atlf_jax.reconstruct")
