"""The benchmarks' command lines, arithmetic and tables; the PyTorch peer against the network where torch is at hand."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlf_jax.array_types import Measurement
from atlf_jax.evaluation.scoring import Score, reported
from atlf_jax.metrics import METRICS
from atlf_jax.models import build
from benchmarks import accelerator, compare, devices, scaling, solvers, startup
from benchmarks.case import SYMMETRY_WEIGHT, Case, make_inputs
from benchmarks.gpu_program import CARDS, read_program
from benchmarks.ours import Ours, configure, draw_parameters
from benchmarks.table import busy_cores, machine, markdown, median_and_iqr, slope
from benchmarks.worker import Failed, Worker
from studies import folds, raw

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(
            f"benchmarks.{name}"
            for name in (
                "accelerator",
                "compare",
                "compile_for_gpu",
                "devices",
                "scaling",
                "solvers",
                "startup",
                "volume",
            )
        ),
        *(f"studies.{name}" for name in ("ablation", "folds", "methods", "queue", "rates", "raw")),
    ],
)
def test_help(name):
    done = subprocess.run([sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"python -m {name}" in done.stdout and "--out" in done.stdout


def test_raw_scans_are_scored_once(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((32, 32)) + 1j * rng.standard_normal((32, 32))).astype(np.complex64)
    monkeypatch.setattr(raw, "SETS", {"noise": lambda folder: kspace})
    monkeypatch.setenv("ATLF_DATA_DIR", str(tmp_path))
    arguments = ["--out", str(tmp_path / "out"), "--masks", "Poisson 4x", "--solvers", "zero_filled", "l1_wavelet"]
    raw.main(arguments)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| noise | Poisson 4x | 0." in table and " / 0." in table and table in capsys.readouterr().out
    monkeypatch.setattr(raw, "solver_scores", None)  # all is kept
    raw.main(arguments)
    assert (tmp_path / "out" / "table.md").read_text() == table


def test_command_lines():
    assert compare.parse(["--out=x", "--sizes", "64", "128", "--peers", "torch"]).sizes == [64, 128]
    assert scaling.parse(["--out=x", "--preset=faithful", "--part=reconstruction"]).part == "reconstruction"
    assert startup.parse(["--out=x"]).preset == "compact"


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (accelerator, ["--out=x", "--batches", "0"], "at least 1"),
        (compare, [], "--out"),
        (compare, ["--out=x", "--rounds=-1"], "rounds"),
        (compare, ["--out=x", "--presets=none"], "invalid choice"),
        (scaling, ["--out=x", "--sizes", "0"], "at least 1"),
        (startup, ["--out=x", "--repeats=0"], "at least 1"),
    ],
)
def test_mistakes_are_told(module, arguments, message, capsys):
    with pytest.raises(SystemExit):
        module.parse(arguments)
    assert message in capsys.readouterr().err


def test_compilation_wants_a_compiler(monkeypatch, capsys):
    monkeypatch.setattr(compare.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit):
        compare.parse(["--out=x", "--peers", "torch-compile"])
    assert "g++" in capsys.readouterr().err


def test_statistics():
    assert median_and_iqr([3.0]) == (3.0, 0.0)
    assert median_and_iqr([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0)
    assert slope([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)


def test_markdown():
    rows = [{"name": "a", "s": 1234.5, "n": 3, "note": ""}, {"name": "bb", "s": 0.012345, "n": None, "note": "x"}]
    rows += [{"name": "c", "s": 1.234e-8, "n": 0, "note": ""}]
    assert markdown(rows).splitlines() == [
        "| name |       s |  n | note |",
        "| ---- | ------: | -: | ---- |",
        "| a    |    1234 |  3 |      |",
        "| bb   |  0.0123 |  - | x    |",
        "| c    | 1.2e-08 |  0 |      |",
    ]
    assert "| 31.07 |" in markdown([{"a": 31.071}], digits=4)


def test_machine():
    found = machine()
    assert found["cores"] >= 1 and found["memory_gib"] > 0 and "/" not in found["allocator"]
    assert 0 <= (busy_cores(0.1) or 0) <= 1.5 * (os.cpu_count() or 1)


def cell():
    entries = {
        "ours": {"turns": [{"round": r, "seconds": [1.0 + r, 1.0 + r]} for r in (0, 0, 1, 1)], "compile_seconds": 3.0},
        "torch": {"turns": [{"round": r, "seconds": [2.0 + 2 * r]} for r in (0, 1)], "parity": {"image": 1e-6}},
        "torch-compile": {"failed": "torch-compile: killed"},
    }
    entries["ours-remat"] = {"turns": [{"round": r, "seconds": [2.0 + 2 * r]} for r in (0, 1)]}
    entries["ours"]["memory"] = {"steps_gib": 3.0, "added_gib": 2.0, "process_gib": 4.0}
    entries["torch"]["memory"] = {"steps_gib": 2.0, "added_gib": 1.0, "process_gib": 2.0}
    entries["ours-remat"]["memory"] = {"steps_gib": 1.5, "added_gib": 0.5, "process_gib": 2.0}
    return {"case": Case("faithful", "inference", 256, 1)._asdict(), "busy_cores": 1.5, "contestants": entries}


def test_ratios_are_taken_within_rounds(tmp_path):
    ours, torch, failed, _ = compare.cell_rows(cell())
    assert ours["ours/it"] is None and ours["median s"] == 1.5
    assert torch["ours/it"] == 0.5 and torch["iqr"] == 0 and torch["ours/it mem"] == 1.5 and torch["ours/it adds"] == 2
    assert failed["median s"] is None and "killed" in failed["note"]
    text = compare.report({"machine": machine(), "versions": {"jax": "1"}, "cells": [cell()]}, tmp_path)
    assert "ours: time 0.50 of torch, memory 1.50 of torch, what steps add to it 2.00 of torch" in text
    assert "ours-remat: time 1.00 of torch, memory 0.75 of torch, what steps add to it 0.50 of torch" in text
    assert "Failed" in text and "1.5 cores" in text
    assert (tmp_path / "table.md").read_text() == text


def test_utilisation_is_of_the_rates_of_the_same_card():
    entry = {"turns": [[0.5, 0.5]], "bytes": 1e12, "program_bytes": 2**30, "compile_seconds": 3.0}
    entries = {"float32": entry, "bfloat16": entry, "torch-cuda": {"turns": [[1.0]]}}
    entries["float32-remat"] = {"failed": "out of memory"}
    case = Case("faithful", "training", 256, 4)
    cell = {"case": case._asdict(), "flops": 2e12, "contestants": entries, "operations": {}}
    rates = {"float32": 8e12, "bfloat16": 16e12, "copy": 4e12}
    ours, half, torch, failed = accelerator.rows_of(cell, rates)
    assert ours["images/s"] == 8 and ours["mfu %"] == 50 and ours["roofline %"] == 50 and ours["program GiB"] == 1
    assert half["mfu %"] == 25 and half["roofline %"] == 50
    assert torch["mfu %"] == 25 and torch["roofline %"] is None
    assert failed["ms"] is None and failed["note"] == "out of memory"


@pytest.mark.slow
def test_the_accelerator_benchmark_runs_on_a_cpu(tmp_path, capsys):
    small = ["--size=32", "--batches", "1", "--rounds=1", "--preset=istanet_plus", "--trace"]
    accelerator.main([f"--out={tmp_path}", *small])
    results = json.loads((tmp_path / "results.json").read_text())
    table = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out.endswith(table + "\n")
    inference, training = results["cells"]
    assert list(inference["contestants"]) == ["float32", "bfloat16"]
    assert list(training["contestants"]) == ["float32", "bfloat16", "float32-remat", "bfloat16-remat"]
    for cell in results["cells"]:
        for entry in cell["contestants"].values():
            assert len(entry["turns"][0]) == 3 and min(entry["bytes"], entry["program_bytes"], cell["flops"]) > 0
        assert all(found[0]["ms"] > 0 for found in cell["operations"].values())
    assert results["card"]["copy"] > 0 and "one step" in table
    accelerator.main([f"--out={tmp_path}", *small, "--minutes=0"])
    assert "no time left" in (tmp_path / "table.md").read_text()


@pytest.mark.slow
def test_devices_are_compared_with_one(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "CASES", ("1x1", "1x2"))
    devices.main([f"--out={tmp_path / 'out'}"])
    one, two = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert one["largest difference"] == 0 and two["largest difference"] < 1e-4  # sums over devices in another order
    assert one["of one device"] == 1 and min(two["images/s"], two["GiB"]) > 0


def test_solvers_are_compared_within_rounds():
    ours, sigpy = solvers.rows_of({"coils": 1}, {"ours": [1.0, 2.0], "sigpy": [4.0, 8.0]}, {"ours": 1.0, "sigpy": 2.0})
    assert ours["ours/it"] is None and sigpy["ours/it"] == 0.25 and sigpy["objective"] == 2.0


def test_what_the_ct_brings_is_told_by_subject_and_slice():
    def score(method, subject, slice, psnr):
        values = dict.fromkeys(reported(list(METRICS)), psnr / 100) | {"psnr": psnr}
        return Score("m", method, subject, f"{subject}00{slice}", 0, 4.0, 4.0, 0.3, "", True, 0.1, values)

    rows = [score("a", s, k, 30.0 + k) for s in ("1", "2") for k in (0, 1)]
    rows += [score("b", "1", k, 29.0 + k) for k in (0, 1)] + [score("b", "2", k, 30.5 + k) for k in (0, 1)]
    rows += [score("a, CT zero", s, k, 28.0 + k) for s in ("1", "2") for k in (0, 1)]
    plain, zero = folds.rows_of(rows, "a", "b")
    assert plain["gain"] == 0.25 and plain["by subject"] == "1: +1.00, 2: -0.50" and plain["better slices"] == "2 of 4"
    assert zero["against"] == "a, CT zero" and zero["gain"] == 2 and zero["p, slices"] == 0.125
    assert zero["gain in SSIM"] == zero["gain in SSIM, body"] == pytest.approx(0.02)


def test_ours_goes_before_every_peer():
    assert compare._turns(["a", "b"]) == ["ours", "a", "ours", "b"]
    assert compare._turns([]) == ["ours"]


def test_exponents_stand_at_the_end_of_a_group():
    entries = [
        {
            "preset": "compact",
            "task": "inference",
            "quantity": "pixels",
            "value": n,
            "seconds": [n / 7],
            "peak_gib": 1.0,
        }
        for n in (64, 256)
    ]
    first, last = scaling.rows_of(entries)
    assert first["time exponent"] is None
    assert last["time exponent"] == pytest.approx(1) and last["memory exponent"] == pytest.approx(0)


def test_inputs_are_one_measurement():
    inputs = make_inputs(32, 2)
    assert not inputs.kspace[~np.broadcast_to(inputs.mask, inputs.kspace.shape)].any()
    start = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(inputs.kspace, (-2, -1)), norm="ortho"), (-2, -1))
    np.testing.assert_allclose(np.abs(start).max((-2, -1)), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inference", "training"])
def test_a_contestant_steps_and_writes_what_peers_must_meet(task, tmp_path):
    runner = Ours(Case("istanet_plus", task, 16, 1), changes={"phases": 2})
    runner.save_reference(tmp_path / "reference.npz")
    runner.step()
    arrays = np.load(tmp_path / "reference.npz")
    name = "image" if task == "inference" else "gradient.phase_1.brb.theta"
    assert np.isfinite(arrays[name]).all() and "params.phase_0.rho" in arrays


@pytest.mark.slow
def test_a_contestant_that_ends_says_why(tmp_path):
    with pytest.raises(Failed, match="unheard"):
        Worker("ours", Case("unheard", "inference", 16, 1), tmp_path / "log.txt")


SMALL = {
    "faithful": {"phases": 2, "width": 8, "key_grid": 4},
    "compact": {"phases": 2, "width": 8, "avat_every": 1, "key_grid": 4},
    "istanet_plus": {"phases": 2, "width": 8},
}


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("preset", SMALL)
def test_the_peer_is_the_same_network(preset, channels_last, folded, x64):
    torch = pytest.importorskip("torch")
    from benchmarks.peers.torch_atlf import ATLFNet
    from benchmarks.peers.torch_run import DOUBLE, gradient_errors

    config = configure(preset, SMALL[preset])
    lean = {"width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 4, "lfab_layers": 1}
    config = dataclasses.replace(config, fusion=dataclasses.replace(config.fusion, **lean))
    inputs = make_inputs(24, 2, double=True)
    measurement = Measurement(*map(jnp.asarray, inputs[:3]))
    model = build(config)
    params = draw_parameters(model, measurement)

    def loss(params):
        result = model.apply({"params": params}, measurement, mu_index=jnp.asarray(inputs.mu_index))
        error = jnp.square(jnp.abs(result.image - inputs.target)).mean((1, 2))
        return (
            error + SYMMETRY_WEIGHT * result.extras.symmetry + inputs.mu * result.extras.path_cost
        ).mean(), result.image

    (_, image), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    net = ATLFNet(config, folded=folded, query_chunk=60)
    net.double().load_flax(params)
    if channels_last:
        net.to(memory_format=torch.channels_last)
    kspace, mask, ct, target, mu_index, mu = map(torch.from_numpy, inputs)
    ours, symmetry, cost = net(kspace, mask, ct, mu_index.long())
    error = torch.view_as_real(ours - target).square().sum(-1).mean((1, 2))
    (error + SYMMETRY_WEIGHT * symmetry + mu * cost).mean().backward()
    np.testing.assert_allclose(ours.detach().numpy(), image, atol=1e-10)
    errors = gradient_errors(net, gradient)
    assert all(errors[name] <= DOUBLE[name] for name in errors)


@pytest.mark.parity
def test_the_peers_two_formulations_of_attention_agree():
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_atlf

    b, g, d, h, w, m = 2, 3, 4, 6, 5, 7
    shapes = [(b, g, d, h, w), (b, g, d, m), (b, g, d, m), *((b, g, n, m) for n in (h, h + w - 1, w, h + w - 1))]
    q, k, v, *bias = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes)
    by_rows = torch_atlf._attend(q, k, v, bias, 12)
    at_once = torch_atlf._attend_at_once(q.flatten(3).mT, k.mT, v.mT, *bias).permute(0, 1, 3, 2).reshape(b, -1, h, w)
    torch.testing.assert_close(by_rows, at_once)
    gradients = [torch.autograd.grad(y.sin().sum(), (q, k, v, *bias)) for y in (by_rows, at_once)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parity
def test_the_peer_refuses_what_it_does_not_cover():
    pytest.importorskip("torch")
    from benchmarks.peers.torch_atlf import ATLFNet

    with pytest.raises(ValueError, match="avat_sampling"):
        ATLFNet(configure("faithful", {"avat_sampling": "full"}))


PROGRAM = """HloModule jit_f

%gemm (p0: f32[64,32], p1: f32[32,16]) -> f32[64,16] {
  %p0 = f32[64,32]{1,0} parameter(0)
  %p1 = f32[32,16]{1,0} parameter(1)
  ROOT %dot.1 = f32[64,16]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%pair (p0: f32[64,16]) -> (f32[64,16], f32[]) {
  ROOT %tuple.1 = (f32[64,16]{1,0}, f32[]) tuple(%p0, %p0)
}

ENTRY %main (a: f32[64,32], b: f32[32,16], x: bf16[1,8,8,4], k: bf16[6,3,3,4]) -> f32[64,16] {
  %a = f32[64,32]{1,0} parameter(0)
  %b = f32[32,16]{1,0} parameter(1)
  %x = bf16[1,8,8,4]{3,2,1,0} parameter(2)
  %k = bf16[6,3,3,4]{3,2,1,0} parameter(3)
  %fusion.1 = f32[64,16]{1,0} fusion(%a, %b), kind=kCustom, calls=%gemm
  %fusion.2 = (f32[64,16]{1,0}, f32[]) fusion(%fusion.1), kind=kInput, calls=%pair
  %conv = (bf16[1,8,8,6]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), custom_call_target="__cudnn$convForward"
  %fft.1 = c64[4,8,8]{2,1,0} fft(%x), fft_type=FFT, fft_length={8,8}
  %gte = f32[64,16]{1,0} get-tuple-element(%fusion.2), index=0
  %all-reduce-start = f32[64,16]{1,0} all-reduce-start(%gte), replica_groups={}
  ROOT %all-reduce-done = f32[64,16]{1,0} all-reduce-done(%all-reduce-start)
}
"""


def test_a_compiled_program_is_read_from_its_text() -> None:
    card = CARDS["a100"]
    program = read_program(PROGRAM, card, bfloat16=False)
    assert (program.kernels, program.loops, program.copies) == (2, 0, 0)  # a kernel with two results is one
    assert program.library == {"__cudnn$convForward": 1, "fft": 1}
    assert (program.collectives, program.collective_bytes) == ({"all-reduce": 1}, 64 * 16 * 4)
    product, convolution, transform = 2 * 64 * 16 * 32, 2 * 8 * 8 * 6 * 9 * 4, 5 * 4 * 64 * 6
    assert program.flop == product + convolution + transform
    image, kernel, result = 2 * 8 * 8 * 4, 2 * 6 * 9 * 4, 4 * 64 * 16
    calls = [4 * (64 * 32 + 32 * 16) + result, result + result + 4, image + kernel + 2 * 8 * 8 * 6, image + 4 * 64 * 8]
    assert program.bytes == sum(calls)
    assert program.roofline_seconds == max(program.flop / card.float32, program.bytes / card.bandwidth)
    assert program.model_seconds == pytest.approx(4 * 2.5e-6)  # so small that launches are all


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs the CUDA plugin of JAX")
@pytest.mark.slow
def test_a_network_is_compiled_for_a_card_that_is_not_there(tmp_path) -> None:
    arguments = ["--presets", "istanet_plus", "--tasks", "step", "--size", "64", "--devices", "2", "--batches", "2"]
    command = [sys.executable, "-m", "benchmarks.compile_for_gpu", *arguments, f"--out={tmp_path}"]
    subprocess.run(command, check=True, cwd=Path(__file__).resolve().parent.parent)
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert row["loops"] == 0 and row["kernels"] > 10 and "all-reduce" in row["note"]
