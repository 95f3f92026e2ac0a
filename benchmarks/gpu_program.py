"""What a compiled GPU program is made of, by its text: kernels, library calls, collectives, bytes, FLOP and a time."""

import collections
import math
import re
from typing import NamedTuple

__all__ = ["CARDS", "Card", "Program", "read_program"]

LAUNCH = 2.5e-6  # seconds of a kernel that does next to nothing
SIZES = {"pred": 1, "bf16": 2, "c64": 8, "c128": 16}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
FREE = {"parameter", "constant", "bitcast", "get-tuple-element", "tuple", "partition-id", "replica-id", "after-all"}


class Card(NamedTuple):
    """A GPU as its maker publishes it."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes/s of its memory
    bfloat16: float  # FLOP/s of dense matrix products
    float32: float  # FLOP/s of dense matrix products as JAX does them: TF32
    link: float  # bytes/s to the other cards of its host, each way
    network: float  # bytes/s to other hosts, each way, a card's share
    description: str  # for XLA


def _card(
    name: str, properties: tuple[int, tuple[int, int], int, float, int, int], memory: float, *rates: float
) -> Card:
    """Return a card; ``properties``: cores, capability, threads and shared KiB a core, GHz, MiB of L2 cache."""
    cores, (major, minor), threads, clock, shared, cache = properties
    description = f"""gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared << 10} threads_per_core_limit: {threads} core_count: {cores} fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {rates[0]:.0f} l2_cache_size: {cache << 20} clock_rate_ghz: {clock}
  device_memory_size: {memory:.0f} shared_memory_per_block_optin: {(shared - 1) << 10}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{name}"
"""
    return Card(name, memory, *rates, description)


# NVIDIA's data sheets: bytes/s of memory; FLOP/s of dense products in bfloat16 and TF32, without sparsity; bytes/s each
# way by NVLink (the last by PCIe 4.0) and by a network of 400, 400, 200 and 25 Gbit/s a card
HOPPER = (132, (9, 0), 2048, 1.98, 228, 50)
CARDS = {
    "h200": _card("NVIDIA H200", HOPPER, 141e9, 4.8e12, 989e12, 494e12, 450e9, 50e9),
    "h100": _card("NVIDIA H100 80GB HBM3", HOPPER, 80e9, 3.35e12, 989e12, 494e12, 450e9, 50e9),
    "a100": _card(
        "NVIDIA A100-SXM4-80GB", (108, (8, 0), 2048, 1.41, 164, 40), 80e9, 2.04e12, 312e12, 156e12, 300e9, 25e9
    ),
    "rtx4090": _card(
        "NVIDIA GeForce RTX 4090", (128, (8, 9), 1536, 2.52, 100, 72), 24 << 30, 1.01e12, 165e12, 82.6e12, 25e9, 3e9
    ),
}


class Program(NamedTuple):
    """Counts of one program, of one device."""

    kernels: int  # compiled by XLA: elementwise, reductions, its own matrix products
    library: dict[str, int]  # calls of cuDNN, cuBLAS and cuFFT, by name
    loops: int
    copies: int
    collectives: dict[str, int]
    collective_bytes: float  # of the arrays that they are given
    flop: float  # of matrix products and convolutions; 5 n log2 n of transforms
    bytes: float  # that kernels and calls read and write
    roofline_seconds: float  # the longer of all FLOP at the card's rate and all bytes at its bandwidth
    model_seconds: float  # the same for each operation, at least a launch, one after the other


def read_program(text: str, card: Card, *, bfloat16: bool) -> Program:
    """Read a compiled program's text, as ``compiled.as_text()`` gives it.

    Operations are counted in the entry, so the body of a loop counts once. Matrix products are looked for inside the
    kernels too.

    Args:
        text: of the program.
        card: that it runs on.
        bfloat16: whether matrix products are of bfloat16.
    """
    products = _products(text)
    entry = text[text.index("\nENTRY ") :]
    shapes: dict[str, str] = {}
    kernels = loops = copies = 0
    library: collections.Counter[str] = collections.Counter()
    collectives: collections.Counter[str] = collections.Counter()
    moved = flop = collective_bytes = seconds = 0.0
    peak = card.bfloat16 if bfloat16 else card.float32
    for line in entry.splitlines()[1:]:
        found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][a-z0-9\-]*)\((.*)", line)
        if not found:
            continue
        name, shape, operation, rest = found.groups()
        shapes[name] = shape
        if operation in FREE or operation.endswith("-done"):
            continue
        given = [shapes[each] for each in re.findall(r"%([\w.\-]+)", rest.split("), ")[0]) if each in shapes]
        own_bytes = _bytes(shape) + sum(map(_bytes, given))
        own_flop = 0.0
        plain = operation.removesuffix("-start")
        if plain in COLLECTIVES:
            collectives[plain] += 1
            collective_bytes += sum(map(_bytes, given))
            continue
        if operation == "fusion":
            kernels += 1
            called = re.search(r"calls=%?([\w.\-]+)", rest)
            own_flop = products.get(called[1], 0.0) if called else 0.0
        elif operation == "custom-call":
            target = re.search(r'custom_call_target="([^"]+)"', rest)
            library[target[1] if target else "?"] += 1
            own_flop = _library_flop(target[1] if target else "", shape, given)
        elif operation == "fft":
            library["fft"] += 1
            lengths = re.search(r"fft_length=\{([\d,]+)\}", rest)
            n = math.prod(map(int, lengths[1].split(","))) if lengths else 1
            own_flop = 5 * _elements(shape) * math.log2(max(n, 2))
        elif operation == "while":
            loops += 1
        elif plain in ("copy", "transpose"):
            copies += 1
        else:
            kernels += 1
        moved, flop = moved + own_bytes, flop + own_flop
        seconds += max(LAUNCH, own_flop / peak, own_bytes / card.bandwidth)
    roofline = max(flop / peak, moved / card.bandwidth)
    counts = dict(library.most_common()), loops, copies, dict(collectives)
    return Program(kernels, *counts, collective_bytes, flop, moved, roofline, seconds)


def _products(text: str) -> dict[str, float]:
    """Return the FLOP of the matrix products inside each computation, by its name."""
    found: dict[str, float] = {}
    name, shapes = "", {}
    for line in text.splitlines():
        header = re.match(r"%?([\w.\-]+) \(.*\) -> .* \{$", line.removeprefix("ENTRY "))
        if header:
            name, shapes = header[1], {}
            continue
        each = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][a-z0-9\-]*)\((.*)", line)
        if not each:
            continue
        shapes[each[1]] = each[2]
        if each[3] == "dot":
            left = next((shapes[one] for one in re.findall(r"%([\w.\-]+)", each[4]) if one in shapes), "")
            axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each[4])
            lengths = _lengths(left)
            depth = math.prod(lengths[int(axis)] for axis in axes[1].split(",") if axis) if axes and lengths else 1
            found[name] = found.get(name, 0.0) + 2.0 * _elements(each[2]) * depth
        called = re.search(r"calls=%?([\w.\-]+)", each[4])
        if called and called[1] in found and name:
            found[name] = found.get(name, 0.0) + found[called[1]]
    return found


def _library_flop(target: str, shape: str, given: list[str]) -> float:
    """Return the FLOP of a call of cuDNN or cuBLAS; of a convolution, 2 x pixels and features out x a filter."""
    out = re.findall(r"\w+\[[\d,]*\]", shape)[:1]
    arrays = [*out, *given[:2]]
    if "conv" in target.lower() and len(arrays) == 3:
        first, second, third = (_lengths(each) for each in arrays)
        maps = {"convBackwardInput": (second, third), "convBackwardFilter": (third, first)}
        of, kernel = next((pair for name, pair in maps.items() if name in target), (first, third))
        return 2.0 * math.prod(of) * math.prod(kernel[1:])  # the filter lies as [out, rows, columns, in]
    if "matmul" in target or "gemm" in target:
        sizes = [math.prod(_lengths(each)) for each in arrays]
        return 2.0 * math.sqrt(math.prod(sizes)) if len(sizes) == 3 else 0.0  # m n, m k and k n of one batch
    return 0.0


def _lengths(shape: str) -> list[int]:
    found = re.search(r"\[([\d,]*)\]", shape)
    return [int(each) for each in found[1].split(",") if each] if found else []


def _elements(shape: str) -> int:
    return sum(math.prod(map(int, filter(None, axes.split(",")))) for axes in re.findall(r"\w+\[([\d,]*)\]", shape))


def _bytes(shape: str) -> int:
    total = 0
    for kind, axes in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape):
        bits = re.search(r"\d+", kind)
        size = SIZES.get(kind) or (int(bits[0]) // 8 if bits else 4)
        total += size * math.prod(map(int, filter(None, axes.split(","))))
    return total
