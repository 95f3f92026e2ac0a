"""ATLF-Net as a whole: parameter counts, no leakage, data consistency, and an effect of every switch."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Measurement
from atlf_jax.models import PRESETS, ATLFConfig, FusionConfig, ReconstructionConfig, build
from atlf_jax.models.atlf import Phase
from atlf_jax.models.atlf.phase import ADAPTER
from atlf_jax.nn import backend
from atlf_jax.ops import adjoint, fft2c, forward, ifft2c, normal

from .conftest import measure, random_variables, replace, small, variable_shapes

F32 = 1e-5  # two phases stay below 3e-6 of the image's maximum


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(config: ATLFConfig, size=64):
    return variable_shapes(build(config), measure(h=size, w=size, batch=1)[0])["params"]


# --- parameter counts of the method description --------------------------------------------------------------------


def test_faithful_has_the_described_parameters():
    params = shapes(ATLFConfig())
    assert count(params) == 1_345_859
    assert count(params["fusion"]) == 873_584
    assert count(params["fusion"]["encoder"]) == 576 + 181_024
    assert count(params["fusion"]["gfab"]) == 363_016
    assert count(params["fusion"]["lfab"]) == 54_336
    assert count(params["fusion"]["lrfm_global"]) == count(params["fusion"]["lrfm_local"]) == 33_348
    assert count(params["fusion"]["decoder"]) == 207_936
    assert count(params["phase_3"]) == 52_475
    assert sorted(params) == ["fusion", *(f"phase_{k}" for k in range(9))]


def test_one_image_channel_has_the_described_parameters():
    params = shapes(ATLFConfig(reconstruction=ReconstructionConfig(complex=False)))
    assert count(params) == 1_340_675
    phase = params["phase_0"]
    assert count(phase) == 51_899
    assert {name: count(part) for name, part in phase.items()} == {
        "conv_D": 288,
        "conv_G": 288,
        "avat": 14_136,
        "adain": 320,
        "brb": 36_865,
        "rho": 1,
        "dc": 1,
    }


def test_istanet_plus_has_its_published_parameters():
    params = shapes(PRESETS["istanet_plus"]())
    assert count(params) == 336_978
    assert count(params["phase_0"]) == 37_442


def test_published_fusion_has_the_published_parameters():
    assert count(shapes(PRESETS["published"]())["fusion"]) == 852_489


@pytest.mark.parametrize("preset", PRESETS)
def test_the_documented_counts_are_those_of_the_presets(preset):
    table = (Path(__file__).parents[2] / "docs" / "ATLF.md").read_text()
    documented = re.search(rf"^\| `{preset}` \| ([\d,]+)", table, re.MULTILINE)
    assert documented[1] == f"{count(shapes(PRESETS[preset]())):,}"


def test_parameters_do_not_depend_on_the_image_size():
    small, large = (jax.tree.map(jnp.shape, shapes(replace(ATLFConfig(), phases=1), size)) for size in (64, 128))
    assert small == large


# --- E-11: nothing reaches the output but CT, measured samples, mask and coil maps ------------------------------------


@pytest.mark.parametrize("coils", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_the_null_space_of_the_truth_never_reaches_the_output(coils, apply_of):
    from atlf_jax.data.example import Example
    from atlf_jax.data.transforms import undersample

    measurement, image = measure(coils=coils)
    model = build(small(phases=1))
    variables = random_variables(model, measurement)
    apply = apply_of(model)
    rng = np.random.default_rng(5)
    hidden = jnp.asarray(rng.standard_normal(image.shape) + 1j * rng.standard_normal(image.shape), jnp.complex64)
    if coils:  # a null space exists only for one coil; with several, what is not measured is not even formed
        other = measurement._replace(kspace=jnp.where(measurement.mask[:, None], measurement.kspace, 7.0))
        np.testing.assert_array_equal(apply(variables, measurement).image, apply(variables, other).image)
        return
    # through the data pipeline: k-space, scale and output are bit-identical for truths that differ off the mask
    mask = np.asarray(measurement.mask[0])
    outputs = []
    for truth in (image[0], image[0] + ifft2c(jnp.where(measurement.mask, 0, fft2c(hidden)))[0]):
        kspace = np.where(mask, np.asarray(fft2c(truth)), 0)  # exactly the same samples for both truths
        example = Example("1001", "1", np.asarray(measurement.ct[0]), np.asarray(ifft2c(jnp.asarray(kspace))))
        record = undersample(example, mask, np.random.default_rng(0))
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], record)
        outputs.append((apply(variables, batch.measurement), batch.scale, batch.measurement.kspace))
    close = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *outputs)
    # the two k-spaces differ by the rounding of one transform pair (measured 2e-7), nothing more
    assert max(jax.tree.leaves(close)) < 1e-4
    same = apply(variables, measurement), apply(variables, jax.tree.map(jnp.array, measurement))
    jax.tree.map(np.testing.assert_array_equal, *same)


def test_a_model_takes_a_measurement_only():
    """The truth has no way in: it is no field of what a model is called with."""
    assert Measurement._fields == ("kspace", "mask", "ct", "coil_maps")


def test_samples_off_the_mask_are_ignored(apply_of):
    measurement, _ = measure()
    model = build(small(phases=1))
    variables = random_variables(model, measurement)
    spoiled = measurement._replace(kspace=jnp.where(measurement.mask, measurement.kspace, 1e3))
    first, second = (apply_of(model)(variables, m) for m in (measurement, spoiled))
    jax.tree.map(np.testing.assert_array_equal, first, second)


# --- E-16: the system ------------------------------------------------------------------------------------------------


def test_hard_consistency_returns_the_measured_samples(apply_of):
    measurement, image = measure()
    model = build(small(phases=1, dc="hard"))
    variables = random_variables(model, measurement)
    out = apply_of(model)(variables, measurement).image
    np.testing.assert_allclose(forward(out, measurement.mask), measurement.kspace, atol=F32 * 10)
    full, image = measure(full=True)
    np.testing.assert_allclose(apply_of(model)(variables, full).image, image, atol=F32)
    assert np.abs(out - image).max() > 0.01


def test_zero_filled_comes_back_when_the_learned_update_is_zero(apply_of):
    measurement, _ = measure()
    model = build(small(phases=1, dc="hard"))
    variables = random_variables(model, measurement)
    params = variables["params"]
    silent = {
        n: p | {"conv_G": jax.tree.map(jnp.zeros_like, p["conv_G"])} if "conv_G" in p else p for n, p in params.items()
    }
    out = apply_of(model)({"params": silent}, measurement).image
    np.testing.assert_allclose(out, adjoint(measurement.kspace, measurement.mask), atol=F32)


def test_other_image_sizes_work_with_the_same_parameters(apply_of):
    model = build(small(phases=1))
    variables = random_variables(model, measure()[0])
    assert apply_of(model)(variables, measure(h=32, w=24)[0]).image.shape == (2, 32, 24)


def test_the_real_model_stays_real(apply_of):
    measurement, _ = measure()
    model = build(small(phases=1, complex=False))
    variables = random_variables(model, measurement)
    assert not np.asarray(apply_of(model)(variables, measurement).image.imag).any()


@pytest.mark.slow
def test_every_parameter_gets_gradient():
    """At moved parameters, soft gates and every mu in the batch; known exceptions are checked to be exceptions."""
    measurement, image = measure(batch=6)
    model = build(small(gumbel_hard=False))
    variables = random_variables(model, measurement, size=0.2)

    def loss(variables):
        result = model.apply(
            variables,
            measurement,
            mu_index=jnp.arange(6),
            deterministic=False,
            rngs={"gumbel": jax.random.key(2)},
        )
        error = jnp.square(jnp.abs(result.image - image)).mean()
        return error + 0.01 * result.extras.symmetry.mean() + result.extras.path_cost.mean()

    gradient = jax.jit(jax.grad(loss))(variables)["params"]
    silent = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.abs(leaf).max() > 1e-12
    ]
    # A^H A is a projection for one coil and x_0 = A^H y, so the first step of the first phase changes nothing
    assert silent in (["phase_0/rho"], [])
    assert np.abs(gradient["phase_0"]["rho"]) < 1e-6 < np.abs(gradient["phase_1"]["rho"])


@pytest.mark.slow
def test_rematerialisation_changes_nothing():
    measurement, image = measure()
    base = small(phases=1, stride=2, spb_logit="none")
    plain, saving = build(base), build(replace(base, fusion={"remat": True}, remat=True))
    variables = random_variables(plain, measurement)

    def gradient(model):
        def loss(variables):
            training = {"deterministic": False, "rngs": {"gumbel": jax.random.key(5)}}  # the same noise again
            result = model.apply(variables, measurement, mu_index=jnp.zeros(2, jnp.int32), **training)
            return jnp.square(jnp.abs(result.image - image)).mean()

        return jax.jit(jax.grad(loss))(variables)

    # recomputation reorders sums: measured 2e-7 of the largest gradient; some entries are analytically zero
    first, second = map(gradient, (plain, saving))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(first))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=F32 * largest), first, second)


def test_a_phase_without_an_update_is_a_gradient_step():
    measurement, _ = measure()
    x = jnp.asarray(np.random.default_rng(3).standard_normal((2, 16, 16, 2)) @ [1, 1j], jnp.complex64)
    config = small(dc="none", avat=False, adain="none").reconstruction
    phase, others = Phase(config), (None, measurement, None, None, True)
    params = jax.eval_shape(phase.init, jax.random.key(0), x, *others)["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params) | {"rho": jnp.float32(0.3)}
    mask = np.asarray(measurement.mask)
    want = x - 0.3 * ifft2c(mask * (fft2c(x) - measurement.kspace))
    np.testing.assert_allclose(phase.apply({"params": params}, x, *others)[0], want, atol=F32 * np.abs(want).max())


def test_a_phase_sees_what_data_consistency_changed_in_the_one_before():
    measurement, _ = measure()
    config = small(avat=False, adain="none", sees_correction=True).reconstruction
    rng = np.random.default_rng(3)
    x, given = (jnp.asarray(rng.standard_normal((2, 16, 16, 2)) @ [1, 1j], jnp.complex64) for _ in range(2))
    phase, others = Phase(config), (measurement, None, None, True)
    variables = phase.init(jax.random.key(0), x, given, *others)
    (after, correction, *_), (other, *_) = (phase.apply(variables, x, c, *others) for c in (given, 2 * given))
    # x = (u + v y) / (1 + v) where sampled, with v = 1 at the start: the correction x - u is y - x
    want = measurement.mask * (measurement.kspace - fft2c(after))
    np.testing.assert_allclose(fft2c(correction), want, atol=F32 * np.abs(want).max())
    assert np.abs(other - after).max() > 1e-3 * np.abs(after).max()


def test_a_correction_needs_data_consistency():
    with pytest.raises(ValueError, match="dc none corrects nothing"):
        ReconstructionConfig(dc="none", sees_correction=True)


def test_several_coils_with_every_consistency():
    measurement, image = measure(coils=4)
    outputs = {}
    for form in ("cg", "gradient"):
        model = build(small(phases=1, avat=False, sense_dc=form))
        variables = random_variables(model, measurement)
        outputs[form] = jax.jit(model.apply)(variables, measurement).image
        assert np.isfinite(outputs[form]).all()
    assert np.abs(outputs["cg"] - outputs["gradient"]).max() > 1e-4


@pytest.mark.parametrize("coils", [0, 4])
def test_the_samples_are_weighed_by_the_noise_of_each_scan(coils, apply_of):
    """At exponent 0 as without it; else each example of a batch has a weight of its own."""
    measurement, _ = measure(coils=coils)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, *measurement.kspace.shape)).astype(np.float32)
    mask = measurement.mask[:, None] if coils else measurement.mask
    noisy = jnp.where(mask, measurement.kspace + 0.2 * jax.lax.complex(*map(jnp.asarray, noise)), 0)
    kspace = noisy.at[0].set(measurement.kspace[0])
    measurement = measurement._replace(kspace=kspace)
    plain = build(small(phases=1, avat=False, adain="none"))
    model = build(small(phases=1, avat=False, adain="none", dc="noise"))
    variables = random_variables(model, measurement)
    phase = variables["params"]["phase_0"]
    without = {"params": variables["params"] | {"phase_0": {n: v for n, v in phase.items() if n != "by_noise"}}}
    want = apply_of(plain)(without, measurement).image

    def at(exponent: float):
        changed = variables["params"] | {"phase_0": phase | {"by_noise": jnp.float32(exponent)}}
        return apply_of(model)({"params": changed}, measurement).image

    np.testing.assert_allclose(at(0), want, atol=F32)
    moved = np.abs(at(1) - want).max((-2, -1))
    assert moved.min() > 1e-4 and np.isfinite(moved).all()


# --- every switch changes the output or the parameters ----------------------------------------------------------------

RECONSTRUCTION_SWITCHES = {
    "phases": 3,
    "complex": False,
    "width": 16,
    "stride": 2,
    "avat": False,
    "avat_every": 2,
    "avat_sampling": "window",
    "key_grid": 8,
    "heads": 4,
    "groups": 1,
    "offset_tanh": False,
    "offset_range": 2.0,
    "spb_position": False,
    "spb_logit": "none",
    "path_act": "softplus",
    "gumbel_hard": False,
    "mu_classes": 0,
    "adain": "none",
    "neutral_start": True,
    "aux_concat": "fused",
    "ct_adapter": "ct",
    "shrink": "none",
    "brb_levels": 2,
    "sees_correction": True,
    "skip": "nullspace",
    "dc": "hard",
}
OF_AVAT = {
    *("avat", "avat_every", "avat_sampling", "key_grid", "heads", "groups", "offset_tanh", "offset_range"),
    *("spb_position", "spb_logit", "path_act", "gumbel_hard", "mu_classes"),
}
OF_FUSION = {"adain", "aux_concat", "neutral_start"}
# a switch is tried without AVAT and without the fusion process where it concerns neither: both are most of the time
FUSION_SWITCHES = {
    "encoder": "published",
    "width": 16,
    "encoder_blocks": 2,
    "decoder_blocks": 2,
    "heads": 4,
    "stride": 2,
    "gfab": "bfe_dw",
    "lfab": "detail",
    "lfab_layers": 2,
    "s_clamp": 0.01,
    "branches": "local",
    "lrfm": "sum",
    "lrfm_order": "diagram",
    "rank": 2,
}


@functools.lru_cache
def outputs(config: ATLFConfig) -> tuple:
    measurement, _ = measure(batch=1)
    model = build(config)
    return jax.jit(model.apply)(random_variables(model, measurement), measurement)[:2]


def difference(first: ATLFConfig, second: ATLFConfig) -> float:
    """Return inf for other parameters, else how far the outputs are apart at the same random parameters."""
    measurement, _ = measure(batch=1)
    trees = [variable_shapes(build(config), measurement) for config in (first, second)]
    if jax.tree.map(jnp.shape, trees[0]) != jax.tree.map(jnp.shape, trees[1]):
        return np.inf
    pairs = zip(outputs(first), outputs(second), strict=True)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs if a is not None)


@pytest.mark.parametrize("name", RECONSTRUCTION_SWITCHES)
def test_reconstruction_switch(name):
    base = small(phases=2 if name == "avat_every" else 1, avat=name in OF_AVAT)
    base = base if name in OF_FUSION else replace(base, adain="none")
    assert difference(base, replace(base, **{name: RECONSTRUCTION_SWITCHES[name]})) > 1e-6


@pytest.mark.parametrize("name", FUSION_SWITCHES)
def test_fusion_switch(name):
    base = small(phases=1, avat=False)
    assert difference(base, replace(base, fusion={name: FUSION_SWITCHES[name]})) > 1e-6


@pytest.mark.slow
def test_a_neutral_start_starts_as_the_plain_phase():
    """Without moving parameters, AVAT and AdaIN of a neutral start leave the ISTA-Net+ phase as it is."""
    measurement, _ = measure()
    styled, plain = build(small(phases=1, neutral_start=True)), build(small(phases=1, avat=False, adain="none"))
    variables = jax.jit(styled.init)(jax.random.key(0), measurement)
    bare = {n: {k: v for k, v in p.items() if k not in ("avat", "adain")} for n, p in variables["params"].items()}
    first = jax.jit(styled.apply)(variables, measurement).image
    np.testing.assert_allclose(first, jax.jit(plain.apply)({"params": bare}, measurement).image, atol=F32)


def test_the_initialisation_of_the_fusion_reaches_its_block():
    """It changes neither parameters nor forward pass, so it is read off the block (whose tests say what it does)."""
    model = build(replace(small(), fusion={"lrfm_init": "sum"}))
    assert model.bind({"params": {}}).fusion.lrfm_global.start == "sum"
    assert build(small()).bind({"params": {}}).fusion.lrfm_local.start == "xavier"


@pytest.mark.slow
def test_training_switches_change_the_path_choice():
    """tau acts through the Gumbel noise only, which evaluation does not draw."""
    measurement, _ = measure(batch=1)
    outputs = []
    for tau in (0.2, 5.0):
        model = build(small(gumbel_hard=False, tau=tau))
        variables = random_variables(model, measurement, size=0.3)
        apply = jax.jit(
            lambda v, m, model=model: model.apply(v, m, deterministic=False, rngs={"gumbel": jax.random.key(3)})
        )
        outputs.append(apply(variables, measurement).image)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-6


def test_nullspace_skip_equals_skip_before_hard_consistency(apply_of):
    """DC_inf(x + r) = x + F^H (1 - M) F r for an x that is already consistent (one phase)."""
    measurement, _ = measure()
    configs = [small(phases=1, skip=skip, dc="hard") for skip in ("before_dc", "nullspace")]
    variables = random_variables(build(configs[0]), measurement)
    first, second = (apply_of(build(c))(variables, measurement).image for c in configs)
    np.testing.assert_allclose(first, second, atol=F32)
    update = first - adjoint(measurement.kspace, measurement.mask)
    assert np.abs(normal(update, measurement.mask)).max() < F32 < np.abs(update).max()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.slow
def test_presets_run(name):
    measurement, image = measure(batch=1, h=32, w=32)
    config = replace(PRESETS[name](), phases=1)
    model = build(config)
    variables = jax.jit(model.init)(jax.random.key(0), measurement)
    result = jax.jit(model.apply)(variables, measurement)
    assert result.image.shape == image.shape and np.isfinite(result.image).all()
    assert (result.fused is None) == (name in ("istanet_plus", "best"))


def test_fusion_refuses_what_it_cannot_serve():
    with pytest.raises(ValueError, match="use_fusion is off"):
        ATLFConfig(use_fusion=False)
    with pytest.raises(ValueError, match="multiple of heads 3"):
        FusionConfig(heads=3)
    with pytest.raises(ValueError, match="wanted at least 1"):
        ReconstructionConfig(phases=0)
    with pytest.raises(ValueError, match="mu_classes 9"):
        ReconstructionConfig(mu_classes=9)
    with pytest.raises(ValueError, match="avat_every 0"):
        ReconstructionConfig(avat_every=0)
    with pytest.raises(ValueError, match="multiple of groups 5"):
        ReconstructionConfig(groups=5)


def test_autoencoding_ignores_the_low_rank_fusion():
    measurement, image = measure()
    model = build(small())
    variables = random_variables(model, measurement)
    fusion = variables["params"]["fusion"]
    other = fusion | {n: jax.tree.map(jnp.zeros_like, fusion[n]) for n in ("lrfm_global", "lrfm_local")}
    arguments = measurement.ct, jnp.abs(image)
    autoencode = jax.jit(lambda fusion: model.apply({"params": {"fusion": fusion}}, *arguments, method="autoencode"))
    outputs = [autoencode(f) for f in (fusion, other)]
    jax.tree.map(np.testing.assert_array_equal, *outputs)
    assert np.abs(outputs[0][0] - outputs[0][1]).max() > 1e-4


@pytest.mark.parametrize("sees", ["guide", "ct+guide"])
@pytest.mark.parametrize("complex", [True, False])
def test_the_adapter_brings_the_ct_unless_it_is_not_used(sees, complex):
    measurement, _ = measure()
    other = measurement._replace(ct=1 - measurement.ct**2)
    config = dataclasses.replace(
        small(phases=1, avat=False, adain="none", ct_adapter=sees, complex=complex), use_fusion=False
    )
    outputs = {}
    for use_ct in (True, False):
        model = build(dataclasses.replace(config, use_ct=use_ct))
        variables = random_variables(model, measurement)
        outputs[use_ct] = [jax.jit(model.apply)(variables, m).image for m in (measurement, other)]
    assert config.sees_ct and not model.config.sees_ct
    assert np.abs(outputs[True][0] - outputs[True][1]).max() > 1e-4
    np.testing.assert_array_equal(*outputs[False])


def test_nothing_is_fused_without_a_ct():
    with pytest.raises(ValueError, match="use_ct is off but the fusion process fuses the CT"):
        dataclasses.replace(small(), use_ct=False)


def test_the_guide_does_not_see_the_contrast_of_the_ct():
    measurement, _ = measure()
    config = dataclasses.replace(small(phases=1, avat=False, adain="none", ct_adapter="guide"), use_fusion=False)
    model = build(config)
    variables = random_variables(model, measurement)
    run = jax.jit(model.apply)
    inverted = run(variables, measurement._replace(ct=1 - measurement.ct)).image
    np.testing.assert_allclose(inverted, run(variables, measurement).image, atol=1e-5)


def test_without_a_ct_there_is_no_adapter():
    """A missing CT leaves the network that was trained without one."""
    measurement, _ = measure()
    nothing = measurement._replace(ct=jnp.zeros_like(measurement.ct))
    config = dataclasses.replace(small(phases=1, avat=False, adain="none", ct_adapter="ct+guide"), use_fusion=False)
    variables = random_variables(build(config), measurement)
    assert ADAPTER in variables["params"]["phase_0"]  # by this name training finds it
    plain = build(replace(config, ct_adapter="none"))
    params = {"params": {"phase_0": {k: v for k, v in variables["params"]["phase_0"].items() if k != ADAPTER}}}
    with_adapter = jax.jit(build(config).apply)(variables, nothing).image
    unadapted = jax.jit(build(config).unadapted.apply)(variables, measurement).image  # whatever the CT
    np.testing.assert_allclose(with_adapter, unadapted, atol=1e-6)
    np.testing.assert_allclose(with_adapter, jax.jit(plain.apply)(params, nothing).image, atol=1e-6)
    assert np.abs(with_adapter - jax.jit(build(config).apply)(variables, measurement).image).max() > 1e-3


@pytest.mark.slow
def test_ct_and_mr_go_through_one_encoder_one_after_the_other(monkeypatch):
    """In a loop on a CPU; the gradient is that of the two at once, as on an accelerator."""
    measurement, _ = measure()
    model = build(small(phases=1))
    variables = random_variables(model, measurement)

    def loss(fusion):
        fused, _ = model.apply({"params": variables["params"] | {"fusion": fusion}}, measurement, method="fuse")
        return jnp.square(fused).sum()

    fusion = variables["params"]["fusion"]
    value = jax.jit(loss)(fusion)
    same, found = jax.jit(jax.value_and_grad(loss))(fusion)
    monkeypatch.setattr(backend, "accelerated", lambda: True)
    want, parts = jax.jit(jax.value_and_grad(lambda fusion: loss(fusion)))(fusion)
    np.testing.assert_allclose([value, same], want, rtol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), found, parts)
