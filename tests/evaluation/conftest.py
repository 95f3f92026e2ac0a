"""One evaluation of the tiny slices, that several tests read."""

import pytest

from atlf_jax.evaluation import report
from atlf_jax.evaluation.scoring import EvaluationConfig, choose_panels, evaluate

from .tiny_slices import MASKS, Slices, halfway


@pytest.fixture(scope="session")
def slices():
    return Slices()


@pytest.fixture(scope="session")
def study(slices):
    """Evaluate ``halfway`` under both masks."""
    models, config = {"half<way>": halfway}, EvaluationConfig(batch_size=2, bootstrap=100, panels=3)
    rows = evaluate(models, slices, masks=MASKS, config=config)
    panels = choose_panels(models, slices, rows, masks=MASKS, config=config)
    methods = {"half<way>": report.Method(parameters=12345, checkpoint="runs/half", config={"name": "half"})}
    return report.Study(
        dataset="aanlib",
        split="valid",
        config=config,
        methods=methods,
        rows=rows,
        panels=panels,
        acquisition={"noise": 0.0},
    )
