"""Damaged checkpoints: as ``test_fuzz`` for a folder of files, which has its own checksums."""

import warnings
from collections import Counter

import jax.numpy as jnp
import numpy as np

from atlf_jax.config import to_dict
from atlf_jax.trained import load
from atlf_jax.training.checkpoint import Checkpoints, Snapshot
from atlf_jax.training.step import TrainState
from tests.test_fuzz import SCALE, arrays_of, edited, listing, network, same


def test_a_damaged_checkpoint_is_refused_or_gives_the_same_network(tmp_path):
    """Files of a run's best checkpoint are edited, cut short or deleted; what is read is the network, or a sentence."""
    config, variables = network()
    state = TrainState(jnp.int32(7), {}, variables["params"], {}, ())
    with Checkpoints(tmp_path / "run", to_dict(config)) as checkpoints:
        checkpoints.save_best(Snapshot(state, 7, "joint"), psnr=20.5)
    (best,) = (tmp_path / "run" / "checkpoints" / "best").iterdir()
    files = [file for file in sorted(best.rglob("*")) if file.is_file()]
    want = arrays_of(load(tmp_path / "run"))
    rng, counts, before = np.random.default_rng(20), Counter(), listing(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(int(150 * SCALE)):
            file = files[number % len(files)]
            content = file.read_bytes()
            if number % 7 == 0:
                file.unlink()
            else:
                file.write_bytes(edited(content, rng, (0, len(content))))
            try:
                found = load(tmp_path / "run")
            except ValueError as error:
                words = str(error)
                assert "\n" not in words and len(words) <= 250 and "/run" in words, words
                counts["refused"] += 1
            else:
                assert same(arrays_of(found), want), file
                counts["equal"] += 1
            file.write_bytes(content)
            assert listing(tmp_path) == before
    print("checkpoint", dict(counts))
    assert counts["refused"] > 0.3 * counts.total()
