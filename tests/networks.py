"""Networks that are functions of a test's own."""

from atlf_jax.array_types import Reconstructor
from atlf_jax.config import Config
from atlf_jax.trained import Network, TrainedFor
from atlf_jax.trained.guards import trained_for
from atlf_jax.trained.uncertainty import Calibration


def network_of(
    function: Reconstructor,
    trained: TrainedFor | None = None,
    calibration: Calibration | None = None,
    config: Config | None = None,
) -> Network:
    """Return a network that is ``function``, trained for ``trained``, or else for what the configuration says."""
    config = config or Config()
    made = Network(config, {"params": {}}, {"step": 1})
    vars(made).update(function=function, trained_for=trained or trained_for(config), calibration=calibration)
    return made
