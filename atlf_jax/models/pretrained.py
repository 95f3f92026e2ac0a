"""The command of earlier versions, ``python -m atlf_jax.models.pretrained pack|table``: now ``atlf pack`` and ``card``.

Model cards and scripts of users name it. Nothing in the package imports it, and ``tests/test_house.py`` sees to that.
"""

import sys

from atlf_jax.commands import run
from atlf_jax.program import REFUSED

PROGRAM = "python -m atlf_jax.models.pretrained"
NOW = {"pack": "pack", "table": "card"}


def main() -> None:
    """Run the command by its name of today."""
    name = next(iter(sys.argv[1:]), "")
    if name not in NOW:
        print(f"{PROGRAM}: give pack or table; today they are atlf pack and atlf card", file=sys.stderr)
        raise SystemExit(REFUSED)
    run(NOW[name], sys.argv[2:], program=f"{PROGRAM} {name}")


if __name__ == "__main__":
    main()
