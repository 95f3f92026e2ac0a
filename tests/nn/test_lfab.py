import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.nn import lfab
from atlf_jax.nn.lfab import LFAB, AffineCoupling, BiasedMix, InvertibleLU, rotation_factors

KEY = jax.random.key(0)
FILE = "lfab_detail_node_invconv.npz"


# --- against the reference arrays ------------------------------------------------------------------------------------


def detail_tree(case, group: str, layers: int) -> dict:
    def residual(name):
        name = f"{group}/{name}.bottleneckBlock"
        return {
            "expand": {"kernel": case.pointwise(f"{name}.0.weight")},
            "dwconv": {"kernel": case.depthwise(f"{name}.3.weight")},
            "reduce": {"kernel": case.pointwise(f"{name}.5.weight")},
        }

    tree = {}
    for i in range(layers):
        mix = f"{group}/net.{i}.shffleconv"
        tree[f"mix_{i}"] = {"kernel": case.pointwise(f"{mix}.weight"), "bias": case[f"{mix}.bias"]}
        tree[f"coupling_{i}"] = {name: residual(f"net.{i}.theta_{name}") for name in ("phi", "rho", "eta")}
    return tree


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "layers"), [("detail_1layer_8x8", 1), ("detail_1layer_9x11", 1), ("detail_3layer_6x10", 3)]
)
def test_detail_kind_equals_cddfuse(reference, name, layers):
    case = reference(FILE, name)
    module = LFAB("detail", layers=layers)
    params = detail_tree(case, "param", layers)
    x = case.image("in/x")

    def loss(params, x):
        (y, logdet), state = module.apply({"params": params}, x, method="forward", capture_intermediates=True)
        value = (y * case.image("cot/y")).sum() + (logdet * case["cot/logdet_derived"]).sum()
        scales = [state["intermediates"][f"coupling_{i}"]["rho"]["__call__"][0] for i in range(layers)]
        return value, {"y": y, "logdet": logdet, "scales": scales}

    (_, ours), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    theirs = {
        "y": case.image("out/y"),
        "logdet": case["out/logdet_derived"],
        "scales": [case.image(f"mid/s_layer{i}") for i in range(layers)],
    }
    value_tolerance, gradient_tolerance = (1e-8, 1e-8) if case.dtype == "float64" else (4.6e-5, 4.2e-4)
    case.check(ours, theirs, value_tolerance)
    case.check(gradients, (detail_tree(case, "grad/param", layers), case.image("grad/in/x")), gradient_tolerance)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["invconv_lu_c8", "invconv_lu_c16_odd"])
def test_lu_convolution_equals_glow(reference, monkeypatch, name):
    case = reference(FILE, name)
    x = case.image("in/x")
    permutation = case.arrays["buffer/p"].argmax(1)
    constants = (None, permutation, case.arrays["buffer/sign_s"])
    monkeypatch.setattr(
        lfab, "rotation_factors", lambda features, seed: (np.zeros((features, features)), *constants[1:])
    )
    module = InvertibleLU(x.shape[-1])

    def packed(group):
        lower, upper, log_s = (case[f"{group}/{part}"] for part in ("lower", "upper", "log_s"))
        return {"packed": np.tril(lower, -1) + np.triu(upper, 1) + np.diag(log_s)}

    params = packed("param")
    check_mix(case, module, params, packed("grad/param"))


@pytest.mark.parity
def test_plain_convolution_equals_glow(reference):
    case = reference(FILE, "invconv_plain_c8")
    params = {"kernel": case["param/weight"].T, "bias": np.zeros(8, case.dtype)}
    check_mix(case, BiasedMix(), params, {"kernel": case["grad/param/weight"].T})


def check_mix(case, module, params, their_gradient):
    """Compare forward, reverse, log-determinant and gradient of an invertible 1x1 convolution with Glow's."""
    x = case.image("in/x")

    def loss(params, x):
        z, logdet = module.apply({"params": params}, x)
        reverse, reverse_logdet = module.apply({"params": params}, x, inverse=True)
        value = (z * case.image("cot/z")).sum() + (reverse * case.image("cot/reverse_of_x")).sum()
        value = value + logdet[0] * case["cot/logdet"]
        return value, {"z": z, "reverse": reverse, "logdet": logdet, "reverse_logdet": reverse_logdet}

    (_, ours), (gradient, x_gradient) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    both = np.ones(x.shape[0], x.dtype)  # the reference has one log-determinant for the batch
    theirs = {
        "z": case.image("out/z"),
        "reverse": case.image("out/reverse_of_x"),
        "logdet": case["out/logdet"] * both,
        "reverse_logdet": case["mid/logdet_reverse"] * both,
    }
    double = case.dtype == "float64"
    case.check(ours, theirs, 1e-8 if double else 1.1e-5)
    gradient = {name: gradient[name] for name in their_gradient}  # the reference has no bias
    case.check((gradient, x_gradient), (their_gradient, case.image("grad/in/x")), 1e-8 if double else 1.1e-5)


# --- invertibility and log-determinants ------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [LFAB(), LFAB(s_clamp=2.0), LFAB("detail")], ids=["inn", "clamped", "detail"])
def test_inverse_undoes_forward(x64, normal, variables_of, module):
    x = normal(2, 5, 6, 8)
    variables = variables_of(module, x)

    @jax.jit
    def round_trips(x):
        y, _ = module.apply(variables, x, method="forward")
        back = module.apply(variables, y, method="inverse")
        again, _ = module.apply(variables, module.apply(variables, x, method="inverse"), method="forward")
        return back, again

    back, again = round_trips(x)
    np.testing.assert_allclose(back, x, atol=1e-8)
    # the inverse of an arbitrary point passes e^-s, hence the looser bound where the scale is not clamped
    np.testing.assert_allclose(again, x, atol=1e-6)


def test_inverse_undoes_forward_in_float32(normal):
    module = LFAB()
    x = normal(2, 8, 9, 64)
    variables = jax.jit(module.init)(KEY, x)
    back = jax.jit(lambda x: module.apply(variables, module.apply(variables, x), method="inverse"))(x)
    np.testing.assert_allclose(back, x, atol=1e-4)


@pytest.mark.parametrize("kind", ["inn", "detail"])
@pytest.mark.parametrize("s_clamp", [None, 2.0])
def test_logdet_equals_the_jacobian(x64, normal, variables_of, kind, s_clamp):
    module = LFAB(kind, layers=2, s_clamp=s_clamp)
    x = normal(2, 3, 3, 4)
    variables = variables_of(module, x)

    @jax.jit
    def both(x):
        _, logdet = module.apply(variables, x, method="forward")
        jacobian = jax.vmap(jax.jacrev(lambda one: module.apply(variables, one.reshape(1, 3, 3, 4)).reshape(-1)))(
            x.reshape(2, 36)
        )
        return logdet, jnp.linalg.slogdet(jacobian)[1]

    logdet, wanted = both(x)
    np.testing.assert_allclose(logdet, wanted, rtol=1e-9)
    assert abs(logdet[0] - logdet[1]) > 1e-3  # per example


def test_logdet_adds_up_over_layers(x64, normal, variables_of):
    x = normal(2, 4, 3, 4)
    module = LFAB(layers=2)
    params = variables_of(module, x)["params"]

    @jax.jit
    def steps(y):
        total = 0.0
        for i in range(2):
            for name, part in ((f"mix_{i}", InvertibleLU(4, seed=i)), (f"coupling_{i}", AffineCoupling())):
                y, logdet = part.apply({"params": params[name]}, y)
                total = total + logdet
        return y, total

    y, total = steps(x)
    ours, our_logdet = jax.jit(lambda x: module.apply({"params": params}, x, method="forward"))(x)
    np.testing.assert_allclose(ours, y, rtol=1e-12)
    np.testing.assert_allclose(our_logdet, total, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x), y, rtol=1e-12)


def test_mix_is_a_rotation_at_initialisation(x64):
    matrices = []
    for seed in range(3):
        module = InvertibleLU(8, seed=seed)
        basis = jnp.eye(8).reshape(1, 1, 8, 8)  # pixel i holds basis vector i
        columns, logdet = jax.jit(lambda x, m=module: m.init_with_output(KEY, x)[0])(basis)
        matrix = np.asarray(columns[0, 0]).T
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-12)
        np.testing.assert_allclose(logdet, 0, atol=1e-12)
        packed, permutation, sign = rotation_factors(8, seed)
        lower, upper = np.tril(packed, -1) + np.eye(8), np.triu(packed, 1) + np.diag(sign * np.exp(np.diag(packed)))
        np.testing.assert_allclose(matrix, np.eye(8)[permutation] @ lower @ upper, atol=1e-12)
        matrices.append(matrix)
    assert np.abs(matrices[0] - matrices[1]).max() > 0.1
    assert np.abs(matrices[1] - matrices[2]).max() > 0.1


def test_rotation_constants_are_pinned():
    """A checkpoint holds L, U and log|s| only: P and sign must never change."""
    permutations = [[3, 5, 4, 0, 1, 2, 6, 7], [0, 2, 7, 6, 4, 3, 5, 1], [2, 5, 1, 7, 0, 4, 6, 3]]
    signs = [[1, -1, -1, 1, -1, 1, 1, -1], [1, 1, 1, 1, -1, -1, -1, -1], [-1, 1, -1, -1, 1, -1, 1, 1]]
    for seed in range(3):
        _, permutation, sign = rotation_factors(8, seed)
        assert permutation.tolist() == permutations[seed]
        assert sign.tolist() == signs[seed]


def test_faithful_constants_are_pinned():
    """The constants of the 64-feature network: checksums of P and sign for its three layers."""
    checksums = [
        (int((permutation * np.arange(64)).sum()), int((sign * np.arange(64)).sum()))
        for _, permutation, sign in (rotation_factors(64, seed) for seed in range(3))
    ]
    assert checksums == [(60098, 652), (63516, 94), (60316, 58)]


def test_forward_is_the_identity_without_mixing_and_coupling(x64, normal, variables_of, monkeypatch):
    zeros = (np.zeros((4, 4)), np.arange(4), np.ones(4))
    monkeypatch.setattr(lfab, "rotation_factors", lambda features, seed: zeros)
    x = normal(2, 3, 5, 4)
    module = LFAB()
    variables = jax.tree.map(jnp.zeros_like, variables_of(module, x))
    y, logdet = jax.jit(lambda x: module.apply(variables, x, method="forward"))(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(logdet, jnp.zeros(2))


def test_clamp_bounds_the_scale(x64, normal, variables_of):
    x = normal(1, 4, 4, 8)
    variables = variables_of(AffineCoupling(), x)
    variables = jax.tree.map(lambda a: 30 * a, variables)

    def largest_scale(clamp):
        _, logdet = jax.jit(AffineCoupling(clamp).apply)(variables, x)
        return float(jnp.abs(logdet[0])) / (4 * 4 * 4)

    assert largest_scale(None) > 2
    assert largest_scale(2.0) <= 2
    # a wide clamp leaves the slope 2/pi
    assert largest_scale(1e9) == pytest.approx(2 / np.pi * largest_scale(None), rel=1e-6)


# --- switches --------------------------------------------------------------------------------------------------------


def test_parameter_counts():
    for module, number in (
        (LFAB(), 54_336),
        (LFAB(layers=1), 54_336 // 3),
        (LFAB("detail"), 54_528),
        (LFAB("conv"), 73_984),
        (AffineCoupling(), 14_016),
        (InvertibleLU(64), 4_096),
    ):
        params = jax.eval_shape(module.init, KEY, jnp.zeros((1, 4, 4, 64)))["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == number, module


def test_parameter_paths():
    params = jax.eval_shape(LFAB(layers=1).init, KEY, jnp.zeros((1, 4, 4, 64)))["params"]
    paths = {
        jax.tree_util.keystr(k, simple=True, separator="/") for k, _ in jax.tree_util.tree_leaves_with_path(params)
    }
    residual = {f"{layer}/kernel" for layer in ("expand", "dwconv", "reduce")}
    couplings = {f"coupling_0/{net}/{path}" for net in ("phi", "rho", "eta") for path in residual}
    assert paths == couplings | {"mix_0/packed"}


def test_conv_kind_has_features_but_no_inverse(normal, variables_of):
    x = 3 + normal(2, 4, 4, 6)
    module = LFAB("conv")
    variables = variables_of(module, x)
    y = jax.jit(module.apply)(variables, x)
    assert bool((y >= 0).all())
    train = jax.jit(lambda v, x: module.apply(v, x, deterministic=False, mutable=["batch_stats"]))
    trained, state = train(variables, x)
    assert float(jnp.abs(trained - y).max()) > 0.1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))
    for method in ("forward", "inverse"):
        with pytest.raises(ValueError, match="'conv' is not invertible"):
            module.apply(variables, x, method=method)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="got 'glow', wanted 'inn'"):
        jax.eval_shape(LFAB("glow").init, KEY, jnp.zeros((1, 4, 4, 8)))
    with pytest.raises(ValueError, match="got 7, wanted an even number"):
        jax.eval_shape(LFAB("detail").init, KEY, jnp.zeros((1, 4, 4, 7)))
