"""Where a number that is not finite came from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from atlf_jax.training.fault import first_fault


class Root(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.sqrt(x + self.param("shift", nn.initializers.zeros, ()))


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        masked = jax.nn.softmax(jnp.where(jnp.arange(3) > 0, x, -jnp.inf))  # infinite on purpose
        return Root(name="second")(Root(name="first")(x)) + masked


@pytest.mark.parametrize(
    ("x", "expected", "checkpointed"),
    [
        ([1.0, 4.0, 9.0], "", False),
        ([1.0, 4.0, 9.0], "", True),
        ([1.0, -4.0, 9.0], "Network/first", False),
        ([1.0, -4.0, 9.0], "Network/first", True),
        ([1.0, 0.0, 9.0], "Network/first", False),  # the slope of the root at 0
    ],
)
def test_the_first_module_is_named(x, expected, checkpointed) -> None:
    network, x = Network(), jnp.array(x)
    variables = network.init(jax.random.key(0), jnp.ones(3))
    apply = jax.checkpoint(network.apply) if checkpointed else network.apply
    found = first_fault(jax.value_and_grad(lambda variables, x: apply(variables, x).sum()), variables, x)
    assert found == expected
