import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.nn.lrfm import LRFM

KEY = jax.random.key(0)


def lrfm_tree(case, group: str) -> dict:
    def factor(name):  # [rank, 1 + d, out] with the constant first -> [d + 1, rank, out] with the constant last
        return np.roll(case[f"{group}/{name}_factor"].transpose(1, 0, 2), -1, axis=0)

    return {
        "factor_ct": factor("ct"),
        "factor_mr": factor("mri"),
        "weights": case[f"{group}/fusion_weights"][0],
        "bias": case[f"{group}/fusion_bias"][0],
    }


@pytest.mark.parity
@pytest.mark.parametrize("name", ["vec_r4", "vec_r1", "vec_batch1_r3", "pixel_r4_nhwc", "pixel_r2_nhwc"])
def test_fusion_equals_the_published_code(reference, name):
    case = reference("lrfm.npz", name)
    params = lrfm_tree(case, "param")
    module = LRFM(params["bias"].size, rank=params["weights"].size)
    ct, mr = case["in/ct"], case["in/mri"]

    def loss(params, ct, mr):
        y = module.apply({"params": params}, ct, mr)
        return (y * case["cot/y"]).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, ct, mr)
    double = case.dtype == "float64"
    case.check((y, y), (case["out/y"], case["out/y_lmf_original"]), 1e-9 if double else 1.6e-6)
    theirs = (lrfm_tree(case, "grad/param"), case["grad/in/ct"], case["grad/in/mri"])
    case.check(gradients, theirs, 1e-9 if double else 3.6e-6)


# --- identities ------------------------------------------------------------------------------------------------------


@pytest.fixture
def maps(x64, normal):
    return normal(2, 3, 4, 5), normal(2, 3, 4, 5)  # ct, mr


@pytest.fixture
def fusion(maps, variables_of):
    """Return a function: fields of LRFM -> (function of (params, ct, mr), random params)."""

    def build(**fields):
        module = LRFM(5, **fields)
        return jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs)), variables_of(module, *maps)[
            "params"
        ]

    return build


def constant_last(x):
    return np.concatenate([x, np.ones_like(x[..., :1])], -1)


def test_equals_the_full_outer_product(maps, fusion):
    ct, mr = maps
    apply, params = fusion()
    tensor = np.einsum("r,jro,kro->jko", params["weights"], params["factor_ct"], params["factor_mr"])
    wanted = np.einsum("jko,bhwj,bhwk->bhwo", tensor, constant_last(ct), constant_last(mr)) + np.asarray(params["bias"])
    np.testing.assert_allclose(apply(params, ct, mr), wanted, rtol=1e-10, atol=1e-12)


def test_order_of_ranks_does_not_matter(maps, fusion):
    apply, params = fusion()
    order = jnp.asarray([2, 0, 3, 1])
    permuted = params | {
        "factor_ct": params["factor_ct"][:, order],
        "factor_mr": params["factor_mr"][:, order],
        "weights": params["weights"][order],
    }
    np.testing.assert_allclose(apply(permuted, *maps), apply(params, *maps), rtol=1e-10, atol=1e-12)


def test_constant_row_alone_leaves_an_affine_map_of_ct(maps, fusion):
    ct, mr = maps
    apply, params = fusion()
    params["factor_mr"] = params["factor_mr"].at[:-1].set(0)
    y, shifted, zero, double = (apply(params, *pair) for pair in ((ct, mr), (ct, mr + 1), (0 * ct, mr), (2 * ct, mr)))
    np.testing.assert_allclose(shifted, y, rtol=1e-12)
    np.testing.assert_allclose(double, 2 * y - zero, rtol=1e-9, atol=1e-12)
    assert float(jnp.abs(y - zero).max()) > 0.01


def test_commutes_with_pixel_permutations(maps, fusion):
    apply, params = fusion()
    order = np.random.default_rng(2).permutation(12)

    def permute(a):
        return np.asarray(a).reshape(2, 12, 5)[:, order].reshape(a.shape)

    np.testing.assert_allclose(apply(params, *map(permute, maps)), permute(apply(params, *maps)), rtol=1e-12)


@pytest.mark.parametrize(("order", "rank"), [("diagram", 1), ("sum_last", 4)])
def test_diagram_order_has_rank_one_and_sum_last_has_more(fusion, order, rank):
    apply, params = fusion(order=order)
    params = params | ({"bias": jnp.zeros(5)} if "bias" in params else {})
    basis = np.concatenate([np.eye(5), np.zeros((1, 5))])  # the zero vector leaves the constant alone
    response = apply(params, np.repeat(basis, 6, axis=0), np.tile(basis, (6, 1)))
    response = np.asarray(response).reshape(6, 6, 5)  # [j, k, o]
    assert [np.linalg.matrix_rank(response[..., o], tol=1e-9) for o in range(5)] == [rank] * 5


def test_diagram_order_sums_inside_each_factor(maps, fusion):
    ct, mr = maps
    apply, params = fusion(order="diagram")
    wanted = np.einsum("bhwj,jro->bhwo", constant_last(ct), params["factor_ct"])
    wanted = wanted * np.einsum("bhwj,jro->bhwo", constant_last(mr), params["factor_mr"])
    np.testing.assert_allclose(apply(params, ct, mr), wanted, rtol=1e-10, atol=1e-12)
    assert set(params) == {"factor_ct", "factor_mr"}


def test_both_orders_coincide_at_rank_one(maps, fusion):
    diagram, params = fusion(order="diagram", rank=1)
    sum_last, _ = fusion(rank=1)
    extended = params | {"weights": jnp.ones(1), "bias": jnp.zeros(5)}
    np.testing.assert_allclose(sum_last(extended, *maps), diagram(params, *maps), rtol=1e-12)


# --- initialisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "exact"), [(2, True), (4, False)])
def test_sum_start_adds_the_features(maps, rank, exact):
    module = LRFM(5, rank=rank, start="sum")
    y, _ = jax.jit(lambda *inputs: module.init_with_output(KEY, *inputs))(*maps)
    error = float(jnp.abs(y - sum(maps)).max())
    assert (error < 1e-12) == exact  # further ranks start alive


def test_xavier_start_has_the_deviation_of_the_published_layout():
    x = jnp.zeros((1, 64))
    params = jax.jit(LRFM(64).init)(KEY, x, x)["params"]
    for name in ("factor_ct", "factor_mr"):
        assert float(params[name].std()) == pytest.approx(0.0213, rel=0.02)
        assert float(params[name][-1].std()) == pytest.approx(0.0213, rel=0.15)  # the constant's row is no exception
    assert float(jnp.abs(params["factor_ct"] - params["factor_mr"]).max()) > 0.01
    weights = jax.jit(LRFM(1, rank=5000).init)(KEY, x, x)["params"]["weights"]
    assert float(weights.std()) == pytest.approx((2 / 5001) ** 0.5, rel=0.05)
    np.testing.assert_array_equal(params["bias"], jnp.zeros(64))


# --- switches --------------------------------------------------------------------------------------------------------


def test_parameter_counts():
    for module, width, number in (
        (LRFM(64), 64, 33_348),
        (LRFM(128), 128, 132_228),
        (LRFM(64, order="diagram"), 64, 33_280),
        (LRFM(64, rank=1), 64, 2 * 65 * 64 + 1 + 64),
    ):
        params = jax.eval_shape(module.init, KEY, *[jnp.zeros((1, 2, 2, width))] * 2)["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == number, module


def test_without_fusion_features_are_added(maps):
    module = LRFM(5, kind="sum")
    assert not module.init(KEY, *maps)
    np.testing.assert_array_equal(module.apply({}, *maps), maps[0] + maps[1])


@pytest.mark.parametrize(
    ("fields", "widths", "message"),
    [
        ({"order": "last"}, (4, 4), "LRFM order: got 'last'"),
        ({"kind": "token"}, (4, 4), "LRFM kind: got 'token'"),
        ({"start": "zeros"}, (4, 4), "LRFM start: got 'zeros'"),
        ({"kind": "sum"}, (4, 3), "got 4 and 3 features, wanted 4 twice"),
        ({"start": "sum", "rank": 1}, (4, 4), "rank 1"),
        ({"start": "sum"}, (4, 3), "got widths 4, 3 -> 4"),
        ({"start": "sum", "order": "diagram"}, (4, 4), "order 'diagram'"),
    ],
)
def test_bad_settings_are_refused(fields, widths, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(LRFM(4, **fields).init, KEY, *(jnp.zeros((1, 2, 2, width)) for width in widths))
