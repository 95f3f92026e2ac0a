"""One evaluation of the tiny slices, that several tests read."""

import pytest

from atlf_jax.evaluation import report
from atlf_jax.evaluation.scoring import choose_panels, evaluate
from atlf_jax.evaluation.trial import EvaluationConfig

from .tiny_slices import MASKS, Slices, halfway, trial


@pytest.fixture(scope="session")
def slices():
    return Slices()


@pytest.fixture(scope="session")
def study(slices):
    """Evaluate ``halfway`` under both masks."""
    models, config = {"half<way>": halfway}, EvaluationConfig(batch_size=2, bootstrap=100, panels=3)
    tried = trial(models, slices, MASKS, config=config)
    rows = evaluate(tried)
    methods = {"half<way>": report.Method(parameters=12345, checkpoint="runs/half", config={"name": "half"})}
    return report.Study(
        trial=tried,
        dataset="aanlib",
        split="valid",
        methods=methods,
        rows=rows,
        panels=choose_panels(tried, rows),
    )
