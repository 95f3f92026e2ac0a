"""Train a network, as ``atlf train``: ``python train.py --config=configs/NAME.py [--workdir=DIR] [--help]``."""

from atlf_jax.commands import run

if __name__ == "__main__":
    run("train", program="train.py")
