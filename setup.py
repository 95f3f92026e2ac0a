"""What pyproject.toml cannot say: the experiments of ``configs/`` are packaged as ``atlf_jax.experiments``."""

import shutil

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

EXPERIMENTS = {"atlf_jax.experiments": "configs"}


class FreshBuild(build_py):
    """Build into an empty folder, so that no file of an earlier build that is gone from the tree gets into a wheel."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    cmdclass={"build_py": FreshBuild},
    packages=[*find_namespace_packages(include=["atlf_jax*"], exclude=["*__pycache__*"]), *EXPERIMENTS],
    package_dir=EXPERIMENTS,
)
