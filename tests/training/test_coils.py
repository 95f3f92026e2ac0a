"""Training and evaluation with several coils: simulated for pictures, and as they were measured."""

import json

import numpy as np
import pytest

from atlf_jax.data import AcquisitionConfig
from atlf_jax.data.coils import noise_draw, simulate_maps
from atlf_jax.data.transforms import fft2c_numpy, ifft2c_numpy
from atlf_jax.evaluation.changes import Changed, Lesion, painter
from atlf_jax.evaluation.data_audit import audit
from atlf_jax.evaluation.scoring import evaluate
from atlf_jax.evaluation.trial import Trial
from atlf_jax.masks import MaskConfig
from tests.training.conftest import Discs

MASK = MaskConfig(kind="random_exact", acceleration=2.0, center_fraction=0.4)


class Scans(Discs):
    """The discs as two or three coils with a phase measured them."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        rng = np.random.default_rng(index)
        shape = (2 + index % 2, *example.target.shape)
        coils = simulate_maps(shape[1:], shape[0], rng) * example.target * np.exp(1j * np.linspace(0, 2, shape[2]))
        kspace = (fft2c_numpy(coils) + 0.01 * noise_draw(shape, rng)).astype(np.complex64)
        target = np.linalg.norm(ifft2c_numpy(kspace), axis=0).astype(np.complex64)
        return example._replace(kspace=kspace, target=target)


SIMULATED = AcquisitionConfig(phase=1.0, noise=0.01, coils=(2, 3), maps="low_resolution")
MEASURED = AcquisitionConfig(maps="low_resolution", virtual_coils=3)


@pytest.mark.parametrize(
    ("source", "acquisition"), [(Discs, SIMULATED), (Scans, MEASURED)], ids=["simulated", "measured"]
)
def test_a_network_learns_from_records_with_coils(run, train_config, source, acquisition):
    config = train_config(reconstruction=20)
    sources = {"train_source": source(), "valid_source": source(5, group="v")}
    workdir = run(config, mask=MASK, acquisition=acquisition, **sources)
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    losses = [line["loss/mse"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert [line["kind"] for line in lines].count("valid") == 1


def test_measured_coils_are_scored_on_their_own_magnitude():
    rows = evaluate(Trial(Scans(4), (MASK,), acquisition=MEASURED))
    assert [row.name for row in rows] == [f"disc{index:02d}" for index in range(4)]
    assert all(24 < row.values["psnr"] < 32 and not row.real for row in rows)  # 26.5 to 28.4
    full = MaskConfig(kind="equispaced", acceleration=1.0, center_fraction=0.5)
    rows = evaluate(Trial(Scans(4), (full,), acquisition=MEASURED))
    assert all(row.values["psnr"] > 44 for row in rows)  # 46.6 and more: what low-resolution maps cost at 16 x 16


def test_a_lesion_painted_into_measured_coils_is_in_their_kspace():
    example = Scans()[3]
    painted = Changed(Scans(), painter(Lesion("mr", 0.5)))[3]
    np.testing.assert_allclose(np.linalg.norm(ifft2c_numpy(painted.kspace), axis=0), painted.target.real, atol=1e-5)
    assert np.abs(painted.target - example.target).max() > 0.2


def test_the_audit_sees_the_phase_that_was_measured():
    assert not audit(Trial(Scans(4)))[0].found and audit(Trial(Discs(4)))[0].found
