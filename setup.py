"""What pyproject.toml cannot say: the experiments of ``configs/`` are packaged as ``atlf_jax.experiments``."""

from setuptools import find_namespace_packages, setup

EXPERIMENTS = {"atlf_jax.experiments": "configs"}

setup(
    packages=[*find_namespace_packages(include=["atlf_jax*"], exclude=["*__pycache__*"]), *EXPERIMENTS],
    package_dir=EXPERIMENTS,
)
