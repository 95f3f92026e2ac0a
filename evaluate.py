"""Score trained networks, as ``atlf evaluate``: ``python evaluate.py --checkpoint=runs/NAME [--help]``."""

from atlf_jax.commands import run

if __name__ == "__main__":
    run("evaluate", program="evaluate.py")
