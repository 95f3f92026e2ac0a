"""The PyTorch side of a comparison: load the reference, check against it, then step."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.case import LEARNING_RATE, SYMMETRY_WEIGHT, Case, make_inputs
from benchmarks.peers.torch_atlf import ATLFNet

__all__ = ["DOUBLE", "SINGLE", "VARIANTS", "TorchPeer", "gradient_errors"]

# Largest relative errors. In float64 every parameter's gradient is held. In float32 a rounding error now and then puts
# a feature on the other side of a ReLU or a threshold, where the gradient jumps: one such pixel at 64x64 made 2e-4.
DOUBLE = {"loss": 1e-8, "gradient": 1e-8, "worst parameter": 1e-8}
SINGLE = {"image": 1e-4, "loss": 1e-4, "gradient": 1e-3}
COARSE = {"image": 5e-2, "loss": 5e-2, "gradient": 0.3}  # TF32 or bfloat16: that it is the same network, float64 says
FLOOR = 1e-2  # a gradient smaller than this share of the whole is compared with that share: some are exactly 0

VARIANTS = {
    "torch": {},
    "torch-channels-last": {"channels_last": True},
    "torch-compile": {"compiled": True},
    "torch-compile-channels-last": {"compiled": True, "channels_last": True},
    "torch-unfolded": {"folded": False},  # every convolution as the paper's code has it
    "torch-cuda": {"compiled": True, "channels_last": True, "device": "cuda"},  # TF32, as JAX has it
    "torch-cuda-bfloat16": {"compiled": True, "channels_last": True, "device": "cuda", "autocast": True},
}


class TorchPeer:
    """The network in PyTorch with our parameters; ``step()`` runs inference or one training step.

    Args:
        case: what to run.
        config: the model's configuration, as nested dictionaries.
        reference: file of parameters, and of outputs at them.
        double: compute in float64, for the check alone.
        channels_last, compiled, folded: the variant.
        device: "cpu", or "cuda", where float32 is multiplied as TF32.
        autocast: to bfloat16, where PyTorch thinks fit.
    """

    def __init__(
        self,
        case: Case,
        config: dict[str, Any],
        reference: Path,
        *,
        double: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
        folded: bool = True,
        device: str = "cpu",
        autocast: bool = False,
    ) -> None:
        self.case, self.tolerances = case, DOUBLE if double else SINGLE if device == "cpu" else COARSE
        self.device, self.autocast = device, torch.autocast(device, torch.bfloat16, enabled=autocast)
        if device == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        self.net = ATLFNet(json.loads(json.dumps(config), object_hook=lambda d: SimpleNamespace(**d)), folded=folded)
        with np.load(reference) as arrays:
            self.reference = {name: arrays[name] for name in arrays.files}
        if double:
            self.net.double()
        self.net.load_flax(_tree(self.reference, "params"))
        self.net.to(device)
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        if compiled:
            self.net.compile_blocks()
        inputs = make_inputs(case.size, case.batch, double=double)
        self.kspace, self.mask, self.ct, self.target, self.mu_index, self.mu = (
            torch.from_numpy(array).to(device) for array in inputs
        )
        self.mu_index = self.mu_index.long()
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=LEARNING_RATE, fused=True)
        start = time.perf_counter()
        self.parity = self._check()
        self.compile_seconds = time.perf_counter() - start if compiled else 0.0
        self.reference = {}

    def step(self) -> None:
        """Run the network once; in training with backward pass and Adam."""
        if self.case.task == "inference":
            with torch.inference_mode():
                self.output = self._infer()
        else:
            self.optimiser.zero_grad(set_to_none=True)
            self.loss = self._loss()
            self.loss.backward()
            self.optimiser.step()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def device_memory(self) -> int:
        """Return the most bytes that PyTorch has held on the GPU."""
        return torch.cuda.max_memory_reserved()

    def versions(self) -> dict[str, str]:
        """Return the versions that matter."""
        return {"torch": torch.__version__, "torch threads": str(torch.get_num_threads())}

    def _infer(self) -> torch.Tensor:
        with self.autocast:
            return self.net(self.kspace, self.mask, self.ct, symmetry=False)[0]

    def _loss(self) -> torch.Tensor:
        with self.autocast:
            image, symmetry, cost = self.net(self.kspace, self.mask, self.ct, self.mu_index)
        error = torch.view_as_real(image - self.target).square().sum(-1).mean((1, 2))
        return (error + SYMMETRY_WEIGHT * symmetry + self.mu * cost).mean()

    def _check(self) -> dict[str, float]:
        """Return the relative errors against the reference; refuse any above its tolerance."""
        if self.case.task == "inference":
            with torch.inference_mode():
                image = self._infer().cpu().numpy()
            wanted = self.reference["image"]
            errors = {"image": float(np.abs(image - wanted).max() / np.abs(wanted).max())}
        else:
            loss = self._loss()
            loss.backward()
            wanted_loss = float(self.reference["loss"])
            errors = {"loss": abs(loss.item() - wanted_loss) / abs(wanted_loss)}
            errors |= gradient_errors(self.net, _tree(self.reference, "gradient"))
            self.optimiser.zero_grad(set_to_none=True)
        if not all(errors[name] <= limit for name, limit in self.tolerances.items() if name in errors):
            raise ValueError(f"not the same network: relative errors {errors}, wanted at most {self.tolerances}")
        return errors


def gradient_errors(net: ATLFNet, wanted: dict[str, Any]) -> dict[str, float]:
    """Compare the gradients of all parameters with those of the Flax model.

    Returns:
        Relative errors by the Euclidean norm: of the whole gradient, and of the worst parameter, whose norm is taken
        as ``FLOOR`` of the whole at least.
    """
    arranged = net.arrange(wanted)
    difference = {
        name: (parameter.grad.cpu() - arranged[name]).norm().item() for name, parameter in net.named_parameters()
    }
    norm = {name: value.norm().item() for name, value in arranged.items()}
    whole = np.linalg.norm(list(norm.values()))
    return {
        "gradient": float(np.linalg.norm(list(difference.values())) / whole),
        "worst parameter": max(error / max(norm[name], FLOOR * whole) for name, error in difference.items()),
    }


def _tree(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Return the arrays named ``prefix.a.b`` as nested dictionaries."""
    tree: dict[str, Any] = {}
    for name, value in arrays.items():
        first, *keys = name.split(".")
        if first == prefix:
            branch = tree
            for key in keys[:-1]:
                branch = branch.setdefault(key, {})
            branch[keys[-1]] = value
    return tree
