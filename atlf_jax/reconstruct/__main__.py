"""Reconstruct files: ``python -m atlf_jax.reconstruct --help``."""

from atlf_jax.reconstruct.command import main

main()
