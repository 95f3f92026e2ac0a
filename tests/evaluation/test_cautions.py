"""What a report warns of."""

import numpy as np
import pytest

from atlf_jax.config import Config
from atlf_jax.data import DataConfig, PhantomConfig
from atlf_jax.evaluation.cautions import cautions
from atlf_jax.evaluation.trial import Trial
from atlf_jax.masks import MaskConfig
from atlf_jax.models import DCCNNConfig
from tests.networks import network_of


class Moved:
    """Slices of one generated head whose CT lies elsewhere."""

    def __init__(self):
        self._source = PhantomConfig(size=64).open()

    def __len__(self):
        return 3

    def __getitem__(self, index):
        example = self._source[index]
        return example._replace(subject="5", ct=np.roll(example.ct, 12, axis=-1))


@pytest.mark.parametrize(("use_ct", "solver"), [(True, False), (False, False), (False, True)])
def test_a_misplaced_ct_is_of_concern_where_it_is_seen(use_ct, solver):
    data = DataConfig(PhantomConfig(size=64))
    network = network_of(lambda measurement: measurement, config=Config(model=DCCNNConfig(use_ct=use_ct), data=data))
    models = {"net": network.function} | ({"guided_total_variation": network.function} if solver else {})
    found = cautions(Trial(Moved(), (MaskConfig(),), models), {"net": network}, data)
    assert any(text.startswith("Subject 5: ") for text in found) == (use_ct or solver), found
