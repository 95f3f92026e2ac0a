"""Our side of a comparison: a network of the package, as a user runs it."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atlf_jax.array_types import Measurement
from atlf_jax.models import PRESETS, ATLFConfig, build
from atlf_jax.models.atlf import DType
from atlf_jax.ops import adjoint
from atlf_jax.trained.inference import in_turn
from benchmarks.case import LEARNING_RATE, SYMMETRY_WEIGHT, Case, make_inputs

__all__ = ["Ours", "configure", "draw_parameters"]

ADAM_B1 = 0.9


def configure(
    preset: str, changes: dict[str, Any] | None = None, *, remat: bool = False, dtype: DType = "float32"
) -> ATLFConfig:
    """Return a preset with other fields of its reconstruction process; ``remat`` recomputes in both processes."""
    config = PRESETS[preset]()
    reconstruction = dataclasses.replace(config.reconstruction, remat=remat, **changes or {})
    return dataclasses.replace(
        config, fusion=dataclasses.replace(config.fusion, remat=remat), reconstruction=reconstruction, dtype=dtype
    )


def draw_parameters(model: Any, measurement: Measurement, *, seed: int = 1) -> dict[str, Any]:
    """Draw parameters about a start of the right order, so that no gradient is blocked by a zero.

    Shapes alone are asked of the model: compiling its initialisation would take longer than a step.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0), measurement)["params"]
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    rng = np.random.default_rng(seed)
    starts = {"scale": 1.0, "temperature": 1.0, "rho": 0.5, "dc": 0.5, "weights": 0.5, "theta": 0.01}

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        fan_in = int(np.prod(shape[:-1]))
        spread = 0.02 if name in starts or len(shape) < 2 else 0.5 * fan_in**-0.5
        if name == "packed":  # triangular factors near the identity
            spread = 0.02
        if name == "theta":
            spread = 0.002
        return starts.get(name, 0.0) + spread * rng.standard_normal(shape)

    values = [jnp.asarray(draw(path[-1].key, leaf.shape), leaf.dtype) for path, leaf in leaves]
    return jax.tree.unflatten(tree, values)


class Ours:
    """A compiled program and its inputs; ``step()`` runs it once and waits.

    Args:
        case: what to run.
        changes: other fields of the reconstruction process, for scaling laws.
        part: "whole", or "reconstruction" alone with a given fused image.
        double: compute in float64, for the check of peers.
        remat: recompute blocks and phases in the backward pass: less memory.
        dtype: of the features.
    """

    def __init__(
        self,
        case: Case,
        *,
        changes: dict[str, Any] | None = None,
        part: str = "whole",
        double: bool = False,
        remat: bool = False,
        dtype: DType = "float32",
    ) -> None:
        import optax  # the start-up figures import this file and count no optimiser

        if double:
            jax.config.update("jax_enable_x64", True)
        self.case, self.part = case, part
        self.model = build(configure(case.preset, changes, remat=remat, dtype=dtype))
        inputs = make_inputs(case.size, case.batch, double=double)
        self.measurement = Measurement(*(jnp.asarray(array) for array in (inputs.kspace, inputs.mask, inputs.ct)))
        self.target, self.mu = jnp.asarray(inputs.target), jnp.asarray(inputs.mu)
        self.mu_index = jnp.asarray(inputs.mu_index)
        self.params = draw_parameters(self.model, self.measurement)
        self.optimiser = optax.adam(LEARNING_RATE, b1=ADAM_B1)
        self.state = self.optimiser.init(self.params)
        start = time.perf_counter()
        self.program = self.lower().compile()
        self.compile_seconds = time.perf_counter() - start

    def lower(self) -> jax.stages.Lowered:
        """Return the program before compilation, for the default device."""
        if self.case.task == "inference":
            # only the image is returned: what the loss alone reads is not computed, on either side
            def infer(params: Any, measurement: Measurement) -> Any:
                return in_turn(lambda example: self._apply(params, example, None)[0], measurement)

            program = jax.jit(infer)
            return program.lower(self.params, self.measurement)
        program = jax.jit(self._train, donate_argnums=(0, 1))
        return program.lower(self.params, self.state, self.measurement)

    def step(self) -> None:
        """Run the program once."""
        if self.case.task == "inference":
            self.output = jax.block_until_ready(self.program(self.params, self.measurement))
        else:
            done = self.program(self.params, self.state, self.measurement)
            self.params, self.state, self.loss = jax.block_until_ready(done)

    def save_reference(self, path: Path) -> None:
        """Write the first parameters with the output of inference, or the loss and its gradient; take the first step.

        After the first step of Adam its first moment is (1 - b1) times the gradient: nothing else need be compiled.
        """
        arrays = {f"params.{name}": np.array(value) for name, value in _flat(self.params).items()}
        self.step()
        if self.case.task == "inference":
            arrays["image"] = np.asarray(self.output)
        else:
            arrays["loss"] = np.asarray(self.loss)
            moment = _flat(self.state[0].mu)
            arrays |= {f"gradient.{name}": np.asarray(value) / (1 - ADAM_B1) for name, value in moment.items()}
        np.savez(path, **arrays)

    def versions(self) -> dict[str, str]:
        """Return the versions that matter."""
        return {"jax": jax.__version__, "backend": jax.default_backend()}

    def _apply(self, params: Any, measurement: Measurement, mu_index: Any) -> tuple[Any, Any, Any]:
        if self.part == "reconstruction":
            image, symmetry, cost = self.model.apply({"params": params}, measurement, mu_index, method=_phases)
            return image, symmetry, cost
        result = self.model.apply({"params": params}, measurement, mu_index=mu_index)
        return result.image, result.extras.symmetry, result.extras.path_cost

    def _loss(self, params: Any, measurement: Measurement) -> Any:
        image, symmetry, cost = self._apply(params, measurement, self.mu_index)
        error = jnp.square(jnp.abs(image - self.target)).mean((1, 2))
        return (error + SYMMETRY_WEIGHT * symmetry + self.mu * cost).mean()

    def _train(self, params: Any, state: Any, measurement: Measurement) -> tuple[Any, Any, Any]:
        loss, gradient = jax.value_and_grad(self._loss)(params, measurement)
        updates, state = self.optimiser.update(gradient, state)
        return jax.tree.map(jnp.add, params, updates), state, loss


def _phases(model: Any, measurement: Measurement, mu_index: Any) -> tuple[Any, Any, Any]:
    """Run the reconstruction process alone; the CT stands in for the fused image, which has its shape and range."""
    x = adjoint(measurement.kspace, measurement.mask)
    symmetry, cost = 0.0, 0.0
    for phase in model.phases:
        x, _, phase_symmetry, phase_cost = phase(x, None, measurement, measurement.ct, mu_index, True)
        symmetry, cost = symmetry + phase_symmetry, cost + phase_cost
    return x, symmetry, cost


def _flat(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(key.key for key in path): value for path, value in leaves}
