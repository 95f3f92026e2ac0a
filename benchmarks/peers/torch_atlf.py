"""ATLF-Net in PyTorch: the peer that ours is timed against. Never imported by the package or its default tests.

The same network with the same parameters, written as one writes for speed in PyTorch: NCHW or channels-last tensors,
``torch.fft``, ``F.grid_sample``, the depthwise and grouped convolutions of oneDNN, and an attention that recomputes its
weights in the backward pass. It is given every saving that is algebra and not engineering: with ``folded`` (the
default) convolutions without anything between them are one, attention between channels is folded into its projection;
with one coil, the gradient step and the data consistency cost one pair of transforms each and no shifts.

    net = ATLFNet(config)                    # atlf_jax.models.ATLFConfig, or anything with the same fields
    net.load_flax(variables["params"])
    image, symmetry, cost = net(kspace, mask, ct)

Covered: the presets ``faithful``, ``robust``, ``istanet_plus`` and ``compact``, one coil.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["ATLFNet"]

OFFSET_KERNEL = 17
STRIPE_STEPS = ((1, 0), (1, -1), (0, -1), (-1, -1))  # normals of the stripes, (row, column)
STRIPE_BINS = 65


class ATLFNet(nn.Module):
    """The whole network: ``(kspace [b, h, w], mask [b, 1|h, w], ct [b, h, w]) -> (image, symmetry [b], cost [b])``.

    ``mu_index`` picks the multiplier of each example; None is the last. Path choices are deterministic.
    """

    def __init__(self, config: Any, *, folded: bool = True, query_chunk: int = 512) -> None:
        super().__init__()
        _check_covered(config)
        r = config.reconstruction
        self.complex, self.use_fusion = r.complex, config.use_fusion
        if config.use_fusion:
            self.fusion = FusionProcess(config.fusion, folded)
        self.phases, self.styled_phases = r.phases, -(-r.phases // r.avat_every)
        for i in range(r.phases):
            self.add_module(f"phase_{i}", Phase(r, styled=i % r.avat_every == 0, query_chunk=query_chunk))

    def forward(
        self, kspace: Tensor, mask: Tensor, ct: Tensor, mu_index: Tensor | None = None, *, symmetry: bool = True
    ) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """Reconstruct; ``symmetry=False`` leaves out the residual that only the training loss looks at."""
        axes = (-2, -1)
        # A^H A is a circular convolution, so with the mask's zero frequency at index 0 it needs no shifts
        mask = torch.fft.ifftshift(mask.expand(kspace.shape), dim=axes)
        shifted = torch.where(mask, torch.fft.ifftshift(kspace, dim=axes), 0)
        start = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=axes)  # A^H y
        fused = self.fusion(ct[:, None], start.abs()[:, None]) if self.use_fusion else None
        if not self.complex:
            start = start.real
        x, residual, cost = start, 0.0, 0.0
        for i in range(self.phases):
            phase = getattr(self, f"phase_{i}")
            x, phase_residual, phase_cost = phase(x, start, mask, fused, ct, mu_index, symmetry)
            residual, cost = residual + phase_residual, cost + phase_cost / self.styled_phases
        return x, residual, cost

    def compile_blocks(self) -> None:
        """Compile the repeated blocks with inductor; transforms and attention to sampled keys stay eager between.

        Compiling blocks instead of the whole shares the code of the phases; inductor has none for complex numbers.
        """
        for module in self.modules():
            if isinstance(module, RestormerBlock | GFAB | LFAB | LRFM | Update):
                module.compile(dynamic=False)

    def load_flax(self, params: Mapping[str, Any]) -> None:
        """Copy the parameters of the Flax model; every one must be met exactly once."""
        arrays = self.arrange(params)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(arrays.pop(name))
        if arrays:
            raise ValueError(f"no counterpart in the PyTorch network: {sorted(arrays)}")

    def arrange(self, tree: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return a tree shaped as the Flax parameters (or their gradients) by the names and layouts used here."""
        shapes = {name: parameter.shape for name, parameter in self.named_parameters()}
        arrays = {}
        for path, value in _leaves(tree):
            name = path.removesuffix("kernel") + "weight" if path.endswith(".kernel") else path
            name = re.sub(r"mlp\.dwconv$", "mlp.dwconv.weight", name)
            name = re.sub(r"^(phase_\d+\.)(?!rho$|dc$)", r"\1update.", name)
            array = torch.tensor(np.asarray(value))
            if name.endswith("stripe_shift"):
                array = array.permute(0, 3, 1, 2)
            elif array.ndim == 4:
                array = array.permute(3, 2, 0, 1)  # [h, w, in, out] -> [out, in, h, w]
            elif array.ndim == 2 and name in shapes and len(shapes[name]) == 4:
                array = array.T[:, :, None, None]
            elif array.ndim == 2 and name.endswith(".weight"):
                array = array.T
            arrays[name] = array
        return arrays


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        return [(prefix.removesuffix("."), tree)]
    return [leaf for name, branch in tree.items() for leaf in _leaves(branch, f"{prefix}{name}.")]


def _check_covered(config: Any) -> None:
    f, r = config.fusion, config.reconstruction
    wanted = [(r, "dc", ("soft", "none")), (r, "skip", ("before_dc",))]
    wanted += [(r, "shrink", ("soft",)), (r, "adain", ("conv", "none"))]
    if r.avat:
        wanted += [(r, "avat_sampling", ("dat",)), (r, "offset_tanh", (True,)), (r, "spb_position", (True,))]
        wanted += [(r, "spb_logit", ("stripe1d",))]
        wanted += [(r, "path_act", ("none",)), (r, "gumbel_hard", (True,)), (r, "mu_classes", range(1, 7))]
    if config.use_fusion:
        wanted += [(f, "encoder", ("cddfuse",)), (f, "gfab", ("bfe", "bfe_dw"))]
        wanted += [(f, "lfab", ("inn",)), (f, "lrfm", ("pixel",)), (f, "lrfm_order", ("sum_last",))]
    for part, field, choices in wanted:
        if getattr(part, field) not in choices:
            raise ValueError(f"the PyTorch peer covers {field} in {tuple(choices)}, got {getattr(part, field)!r}")


# --- layers -----------------------------------------------------------------------------------------------------------


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of NCHW tensors, by the form that is fast in the tensor's memory layout."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous():  # channels last: PyTorch's own kernel reads it as it lies
            return F.layer_norm(x.permute(0, 2, 3, 1), self.scale.shape, self.scale, self.bias).permute(0, 3, 1, 2)
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        gain = torch.rsqrt(variance + 1e-5)
        return (x - mean) * gain * self.scale[:, None, None] + self.bias[:, None, None]


def _pointwise(inputs: int, outputs: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=bias)


def _conv(inputs: int, outputs: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _depthwise(features: int, *, pad_mode: str = "zeros") -> nn.Conv2d:
    return nn.Conv2d(features, features, 3, padding=1, padding_mode=pad_mode, groups=features, bias=False)


def _unshuffle(x: Tensor, factor: int) -> Tensor:
    """Move cells of pixels into the channels, ordered (row, column, channel) as in Flax."""
    if factor == 1:
        return x
    b, f, h, w = x.shape
    x = x.reshape(b, f, h // factor, factor, w // factor, factor).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, factor * factor * f, h // factor, w // factor)


def _shuffle(x: Tensor, factor: int) -> Tensor:
    """Undo ``_unshuffle``."""
    if factor == 1:
        return x
    b, f, h, w = x.shape
    x = x.reshape(b, factor, factor, f // factor**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, f // factor**2, h * factor, w * factor)


# --- fusion process ---------------------------------------------------------------------------------------------------


def _attend_channels(qkv: Tensor, temperature: Tensor, projection: Tensor, folded: bool) -> Tensor:
    """Apply channel attention to the stacked maps [b, 3f, h, w] and project the result [b, f, h, w]."""
    b, f, (h, w), g = qkv.shape[0], qkv.shape[1] // 3, qkv.shape[2:], len(temperature)
    q, k, v = qkv.flatten(2).chunk(3, dim=1)  # 3 x [b, f, n]
    q, k = q.unflatten(1, (g, f // g)), k.unflatten(1, (g, f // g))  # [b, g, f1, n]
    if not folded:
        attention = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * temperature[:, None, None]).softmax(-1)
        y = (attention @ v.unflatten(1, (g, f // g))).reshape(b, f, h, w)
        return F.conv2d(y, projection)
    norms = q.norm(dim=-1).clamp_min(1e-12)[..., None] * k.norm(dim=-1).clamp_min(1e-12)[..., None, :]
    attention = (q @ k.mT / norms * temperature[:, None, None]).softmax(-1)
    weight = torch.einsum("bgij,ogi->bogj", attention, projection.reshape(f, g, f // g)).reshape(b, f, f)
    y = weight @ v if qkv.is_contiguous() else (v.mT @ weight.mT).mT  # the result lies as its input does
    return y.unflatten(2, (h, w))


class MDTA(nn.Module):
    """Channel attention behind a 1x1 and a depthwise 3x3 convolution."""

    def __init__(self, features: int, heads: int, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        self.qkv = _pointwise(features, 3 * features)
        self.qkv_dwconv = _depthwise(3 * features)
        self.temperature = nn.Parameter(torch.ones(heads))
        self.project_out = nn.Parameter(torch.empty(features, features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return _attend_channels(self.qkv_dwconv(self.qkv(x)), self.temperature, self.project_out, self.folded)


class DenseMDTA(nn.Module):
    """Channel attention behind a 1x1 and a full 3x3 convolution; folded, these two are one."""

    def __init__(self, features: int, heads: int, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        self.qkv1 = nn.Parameter(torch.empty(3 * features, features, 1, 1))
        self.qkv2 = nn.Parameter(torch.empty(3 * features, 3 * features, 3, 3))
        self.scale = nn.Parameter(torch.ones(heads))
        self.proj = nn.Parameter(torch.empty(features, features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.folded:
            qkv = F.conv2d(x, torch.einsum("kf,lkij->lfij", self.qkv1[:, :, 0, 0], self.qkv2), padding=1)
        else:
            qkv = F.conv2d(F.conv2d(x, self.qkv1), self.qkv2, padding=1)
        return _attend_channels(qkv, self.scale, self.proj, self.folded)


class GDFN(nn.Module):
    """Gated feed-forward network around a 3x3 convolution of ``group`` channels each."""

    def __init__(self, features: int, hidden: int, group: int = 1) -> None:
        super().__init__()
        self.project_in = _pointwise(features, 2 * hidden)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden // group, bias=False)
        self.project_out = _pointwise(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        gate, signal = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * signal)


class RestormerBlock(nn.Module):
    """Compute x <- x + MDTA(LN x); x <- x + GDFN(LN x)."""

    def __init__(self, features: int, heads: int, folded: bool) -> None:
        super().__init__()
        self.norm1, self.attn = ChannelNorm(features), MDTA(features, heads, folded)
        self.norm2, self.ffn = ChannelNorm(features), GDFN(features, 2 * features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class GFAB(nn.Module):
    """Global features: attention (dense or depthwise), then a feed-forward network on pairs of channels."""

    def __init__(self, kind: str, features: int, heads: int, folded: bool) -> None:
        super().__init__()
        attention = DenseMDTA if kind == "bfe" else MDTA
        self.norm1, self.attn = ChannelNorm(features), attention(features, heads, folded)
        self.norm2, self.mlp = ChannelNorm(features), GDFN(features, features, group=2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class InvertibleLU(nn.Module):
    """A 1x1 convolution with the matrix P L (U + diag(sign e^log|s|)), packed as in Flax."""

    def __init__(self, features: int, seed: int) -> None:
        super().__init__()
        q, r = np.linalg.qr(np.random.RandomState(seed).standard_normal((features, features)))
        permutation, _, upper = scipy.linalg.lu(q * np.sign(np.diag(r)), p_indices=True)
        self.packed = nn.Parameter(torch.empty(features, features))
        self.register_buffer("permutation", torch.as_tensor(permutation))
        self.register_buffer("sign", torch.as_tensor(np.sign(np.diag(upper)), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.packed.diagonal()
        lower = self.packed.tril(-1) + torch.eye(len(scale), dtype=x.dtype, device=x.device)
        upper = self.packed.triu(1) + torch.diag(self.sign * scale.exp())
        return F.conv2d(x, (lower @ upper)[self.permutation][:, :, None, None])


class InvertedResidual(nn.Module):
    """Compute PW(relu6(DW3x3(relu6(PW x)))) with reflected borders."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.expand = _pointwise(features, 2 * features)
        self.dwconv = _depthwise(2 * features, pad_mode="reflect")
        self.reduce = _pointwise(2 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(F.relu6(self.dwconv(F.relu6(self.expand(x)))))


class AffineCoupling(nn.Module):
    """Couple the halves of the channels: v2 = u2 + phi(u1); v1 = u1 e^rho(v2) + eta(v2)."""

    def __init__(self, features: int, s_clamp: float | None) -> None:
        super().__init__()
        self.s_clamp = s_clamp
        self.phi, self.rho, self.eta = (InvertedResidual(features // 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        second = second + self.phi(first)
        scale = self.rho(second)
        if self.s_clamp is not None:
            scale = self.s_clamp * (2 / math.pi) * torch.atan(scale / self.s_clamp)
        return torch.cat([first * scale.exp() + self.eta(second), second], dim=1)


class LFAB(nn.Module):
    """Local features: invertible 1x1 convolutions and couplings in turn."""

    def __init__(self, features: int, layers: int, s_clamp: float | None) -> None:
        super().__init__()
        self.layers = layers
        for i in range(layers):
            self.add_module(f"mix_{i}", InvertibleLU(features, seed=i))
            self.add_module(f"coupling_{i}", AffineCoupling(features, s_clamp))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.layers):
            x = getattr(self, f"coupling_{i}")(getattr(self, f"mix_{i}")(x))
        return x


class LRFM(nn.Module):
    """Low-rank fusion at each pixel: sum_i a_i (W_c_i [z_c; 1]) (W_m_i [z_m; 1]) + b."""

    def __init__(self, features: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.factor_ct = nn.Parameter(torch.empty(features + 1, rank, features))
        self.factor_mr = nn.Parameter(torch.empty(features + 1, rank, features))
        self.weights = nn.Parameter(torch.ones(rank))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, ct: Tensor, mr: Tensor) -> Tensor:
        product = _affine(ct, self.factor_ct * self.weights[:, None]) * _affine(mr, self.factor_mr)
        return product.unflatten(1, (self.rank, -1)).sum(1) + self.bias[:, None, None]


def _affine(x: Tensor, factor: Tensor) -> Tensor:
    weight = factor.flatten(1)  # [f + 1, rank out]
    return F.conv2d(x, weight[:-1].T[:, :, None, None], weight[-1])


class Encoder(nn.Module):
    """conv3x3 and Restormer blocks."""

    def __init__(self, inputs: int, features: int, blocks: int, heads: int, folded: bool) -> None:
        super().__init__()
        self.blocks = blocks
        self.patch_embed = _conv(inputs, features)
        for i in range(blocks):
            self.add_module(f"block_{i}", RestormerBlock(features, heads, folded))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for i in range(self.blocks):
            x = getattr(self, f"block_{i}")(x)
        return x


class Decoder(nn.Module):
    """1x1 convolution of both features, Restormer blocks, two convolutions and a sigmoid."""

    def __init__(self, outputs: int, features: int, blocks: int, heads: int, folded: bool) -> None:
        super().__init__()
        self.blocks = blocks
        self.reduce_channel = _pointwise(2 * features, features)
        for i in range(blocks):
            self.add_module(f"block_{i}", RestormerBlock(features, heads, folded))
        self.output_0, self.output_1 = _conv(features, features // 2), _conv(features // 2, outputs)

    def forward(self, global_features: Tensor, local_features: Tensor) -> Tensor:
        x = self.reduce_channel(torch.cat([global_features, local_features], dim=1))
        for i in range(self.blocks):
            x = getattr(self, f"block_{i}")(x)
        return torch.sigmoid(self.output_1(F.leaky_relu(self.output_0(x), 0.01)))


class FusionProcess(nn.Module):
    """Fuse CT and zero-filled MR, both [b, 1, h, w], into one image in (0, 1)."""

    def __init__(self, c: Any, folded: bool) -> None:
        super().__init__()
        self.stride = c.stride
        self.encoder = Encoder(c.stride**2, c.width, c.encoder_blocks, c.heads, folded)
        self.gfab = GFAB(c.gfab, c.width, c.heads, folded)
        self.lfab = LFAB(c.width, c.lfab_layers, c.s_clamp)
        self.lrfm_global, self.lrfm_local = LRFM(c.width, c.rank), LRFM(c.width, c.rank)
        self.decoder = Decoder(c.stride**2, c.width, c.decoder_blocks, c.heads, folded)

    def forward(self, ct: Tensor, mr: Tensor) -> Tensor:
        ct, mr = (self.encoder(_unshuffle(image, self.stride)) for image in (ct, mr))
        fused_global = self.lrfm_global(self.gfab(ct), self.gfab(mr))
        fused_local = self.lrfm_local(self.lfab(ct), self.lfab(mr))
        return _shuffle(self.decoder(fused_global, fused_local), self.stride)


# --- reconstruction process -------------------------------------------------------------------------------------------


class _SampledAttention(torch.autograd.Function):
    """softmax(q k^T + stripe bias) v for all pixels and a few keys, whole rows of pixels at a time.

    Plain attention would keep logits of heads x pixels x keys for the backward pass (268 MB a phase at 256 x 256), and
    ``scaled_dot_product_attention`` takes no mask that is differentiated. The bias of pixel (y, x) is
    lines[y] + falling[h - 1 - y + x] + columns[x] + rising[y + x].
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *bias_and_size: Any) -> Tensor:
        *bias, h, rows = bias_and_size
        out, log_sum = torch.empty_like(q), q.new_empty(q.shape[:-1])
        for y in range(0, h, rows):
            part = _rows(q, y, rows, h)
            logits = _logits(q[:, :, part], k, bias, y, h)
            highest = logits.amax(-1, keepdim=True)
            weights = logits.sub_(highest).exp_()
            total = weights.sum(-1, keepdim=True)
            out[:, :, part] = (weights @ v).div_(total)
            log_sum[:, :, part] = (highest + total.log())[..., 0]
        ctx.save_for_backward(q, k, v, *bias, out, log_sum)
        ctx.h, ctx.rows = h, rows
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *bias, out, log_sum = ctx.saved_tensors
        h, w = ctx.h, q.shape[2] // ctx.h
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        d_bias = d_lines, d_falling, d_columns, d_rising = [torch.zeros_like(term) for term in bias]
        inner = (d_out * out).sum(-1, keepdim=True)
        for y in range(0, h, ctx.rows):
            part = _rows(q, y, ctx.rows, h)
            weights = _logits(q[:, :, part], k, bias, y, h).sub_(log_sum[:, :, part, None]).exp_()
            d_v += weights.mT @ d_out[:, :, part]
            d_logits = (d_out[:, :, part] @ v.mT).sub_(inner[:, :, part]).mul_(weights)
            d_q[:, :, part] = d_logits @ k
            d_k += d_logits.mT @ q[:, :, part]
            d_rows = d_logits.unflatten(2, (-1, w))
            d_columns += d_rows.sum(2)
            d_lines[:, :, y : y + d_rows.shape[2]] = d_rows.sum(3)
            for i in range(d_rows.shape[2]):
                d_falling[:, :, h - 1 - y - i : h - 1 - y - i + w] += d_rows[:, :, i]
                d_rising[:, :, y + i : y + i + w] += d_rows[:, :, i]
        return d_q, d_k, d_v, *d_bias, None, None


def _rows(q: Tensor, y: int, rows: int, h: int) -> slice:
    w = q.shape[2] // h
    return slice(y * w, min(y + rows, h) * w)


def _logits(q: Tensor, k: Tensor, bias: list[Tensor], y: int, h: int) -> Tensor:
    """Return q k^T with the stripe bias of whole rows of pixels from row y on, [b, g, n, m]."""
    lines, falling, columns, rising = bias
    w = columns.shape[2]
    logits = q @ k.mT
    in_rows = logits.unflatten(2, (-1, w))  # a view, [b, g, rows, w, m]
    in_rows += columns[:, :, None]
    for i in range(in_rows.shape[2]):
        in_rows[:, :, i] += falling[:, :, h - 1 - y - i : h - 1 - y - i + w] + lines[:, :, y + i, None]
        in_rows[:, :, i] += rising[:, :, y + i : y + i + w]
    return logits


def _attend_at_once(q: Tensor, k: Tensor, v: Tensor, *bias: Tensor) -> Tensor:
    """Attend from all pixels [b, g, n, d] to keys [b, g, m, d] with the bias as one map [b, g, n, m]."""
    lines, falling, columns, rising = bias
    w = columns.shape[2]
    windows = falling.unfold(2, w, 1).flip(2) + rising.unfold(2, w, 1)  # [b, g, h, m, w]
    mask = windows.mT + lines[:, :, :, None] + columns[:, :, None]
    mask = mask.flatten(2, 3).to(q.dtype)
    return F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask)


@torch.compiler.disable
def _attend(q: Tensor, k: Tensor, v: Tensor, bias: list[Tensor], query_chunk: int) -> Tensor:
    """Attend from pixels [b, g, d, h, w] to keys [b, g, d, m]; return [b, g d, h, w]."""
    h, w = q.shape[-2:]
    if q.is_cuda:  # a loop over rows would leave a GPU idle
        out = checkpoint(_attend_at_once, q.flatten(3).mT, k.mT, v.mT, *bias, use_reentrant=False)
        return out.permute(0, 1, 3, 2).reshape(out.shape[0], -1, h, w)
    q = q.flatten(3).mT.contiguous() * q.shape[2] ** -0.5  # [b, g, n, d]
    rows = max(1, query_chunk // w)
    out = _SampledAttention.apply(q, k.mT.contiguous(), v.mT.contiguous(), *bias, h, rows)
    return out.permute(0, 1, 3, 2).reshape(out.shape[0], -1, h, w)


def _stripe_bias(tables: Tensor, positions: Tensor, h: int, w: int) -> list[Tensor]:
    """Evaluate the tables [g, 4, bins] at every value of the pixels' projections and all keys [b, g, m, 2]."""
    b, g, m, _ = positions.shape
    diagonal = torch.arange(h + w - 1, device=positions.device)
    projections = (diagonal[:h], h - 1 - diagonal, -diagonal[:w], -diagonal)
    terms = []
    for i, projection in enumerate(projections):
        row, column = STRIPE_STEPS[i]
        reach = math.sqrt(2) * max(h, w) * math.hypot(row, column)
        key = positions[..., 0] * row + positions[..., 1] * column  # [b, g, m]
        position = (projection[:, None] - key[:, :, None] + reach) * ((STRIPE_BINS - 1) / 2 / reach)  # [b, g, s, m]
        index = position.detach().floor().clamp_(0, STRIPE_BINS - 2)
        table = tables[:, i].expand(b, g, STRIPE_BINS)
        flat = index.long().flatten(2)
        low, high = table.gather(2, flat), table.gather(2, flat + 1)
        terms.append((low + (high - low) * (position - index).flatten(2)).unflatten(2, (-1, m)))
    return terms


class PathSelector(nn.Module):
    """One of two paths, from the pooled features and the class of mu, straight-through."""

    def __init__(self, features: int, mu_classes: int) -> None:
        super().__init__()
        self.mu_classes = mu_classes
        self.scale = nn.Linear(mu_classes, features, bias=False)
        self.shift = nn.Linear(mu_classes, features, bias=False)
        self.norm1, self.norm2 = ChannelNorm(features), ChannelNorm(features)
        self.logits = nn.Linear(features, 2)

    def forward(self, pooled: Tensor, mu_index: Tensor) -> Tensor:
        mu = F.one_hot(mu_index, self.mu_classes).to(pooled.dtype)
        h = F.softplus(self.scale(mu)) * pooled + self.shift(mu)  # [b, f]
        h = F.layer_norm(h, h.shape[1:], self.norm1.scale, self.norm1.bias)
        h = F.layer_norm(F.relu(h), h.shape[1:], self.norm2.scale, self.norm2.bias)
        soft = self.logits(h).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), 2).to(soft.dtype)
        return hard + (soft - soft.detach())


class DynamicPaths(nn.Module):
    """Keys and values along selected paths: 1x1, or depthwise 3x3 and 1x1."""

    def __init__(self, features: int, mu_classes: int) -> None:
        super().__init__()
        self.select_key, self.select_value = (PathSelector(features, mu_classes) for _ in range(2))
        for name in ("key", "value"):
            self.add_module(f"{name}_p1", _pointwise(features, features, bias=True))
            self.add_module(f"{name}_p3_depthwise", _depthwise(features))
            self.add_module(f"{name}_p3", _pointwise(features, features, bias=True))

    def forward(self, x: Tensor, mu_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = x.mean((2, 3))
        for_key, for_value = self.select_key(pooled, mu_index), self.select_value(pooled, mu_index)
        f = x.shape[1]
        cost = (for_key + for_value) @ x.new_tensor([f / (f + 9), 1.0]) / 2
        return self._mix(x, for_key, "key"), self._mix(x, for_value, "value"), cost

    def _mix(self, x: Tensor, weights: Tensor, name: str) -> Tensor:
        first = getattr(self, f"{name}_p1")(x)
        second = getattr(self, f"{name}_p3")(getattr(self, f"{name}_p3_depthwise")(x))
        a = weights[:, :, None, None, None]
        return a[:, 0] * first + a[:, 1] * second


class AVAT(nn.Module):
    """Every pixel attends to key_grid x key_grid sampled points."""

    def __init__(self, c: Any, query_chunk: int) -> None:
        super().__init__()
        f, self.heads, self.groups, self.key_grid = c.width, c.heads, c.groups, c.key_grid
        self.offset_range, self.query_chunk = c.offset_range, query_chunk
        self.mu_classes = c.mu_classes
        self.norm = ChannelNorm(f)
        self.query, self.out = _pointwise(f, f, bias=True), _pointwise(f, f, bias=True)
        self.paths = DynamicPaths(f, c.mu_classes)
        self.offset_kernel = nn.Parameter(torch.empty(f // c.groups, 1, OFFSET_KERNEL, OFFSET_KERNEL))
        self.offset_bias = nn.Parameter(torch.zeros(f // c.groups))
        self.offset_norm = ChannelNorm(f // c.groups)
        self.offset = _pointwise(f // c.groups, 2)
        self.stripe_angle = nn.Parameter(torch.arange(c.groups) * (math.pi / c.groups))
        self.stripe_ratio = nn.Parameter(torch.zeros(c.groups))
        self.stripe_shift = nn.Parameter(torch.zeros(c.groups, 2, 8, 8))
        self.stripe_tables = nn.Parameter(torch.zeros(c.heads, len(STRIPE_STEPS), STRIPE_BINS))

    def forward(self, x: Tensor, mu_index: Tensor | None) -> tuple[Tensor, Tensor]:
        b, f, h, w = x.shape
        if mu_index is None:
            mu_index = torch.full((b,), self.mu_classes - 1, device=x.device)
        x = self.norm(x)
        q = self.query(x)
        positions = self._positions(q)  # [b, groups, hk, wk, 2]
        k, v, cost = self.paths(self._sample(x, positions), mu_index)
        per_head = positions.flatten(2, 3).repeat_interleave(self.heads // self.groups, dim=1)  # [b, g, m, 2]
        bias = _stripe_bias(self.stripe_tables, per_head, h, w)
        q = q.unflatten(1, (self.heads, -1))  # [b, g, d, h, w]
        k, v = (t.flatten(2).unflatten(1, (self.heads, -1)) for t in (k, v))  # [b, g, d, m]
        return self.out(_attend(q, k, v, bias, self.query_chunk)), cost

    def _positions(self, q: Tensor) -> Tensor:
        b, f, h, w = q.shape
        groups, stride = self.groups, -(-max(h, w) // self.key_grid)
        kernel = self.offset_kernel.repeat(groups, 1, 1, 1)  # the groups share the weights
        offset = F.conv2d(q, kernel, self.offset_bias.repeat(groups), stride, OFFSET_KERNEL // 2, groups=f)
        hk, wk = offset.shape[2:]
        offset = self.offset(F.gelu(self.offset_norm(offset.reshape(b * groups, f // groups, hk, wk))))
        offset = offset.tanh().unflatten(0, (b, groups)) * (self.offset_range * stride)  # [b, groups, 2, hk, wk]

        c, s = self.stripe_angle.cos(), self.stripe_angle.sin()
        rotation = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)  # [groups, 2, 2]
        scale = torch.stack([self.stripe_ratio, -self.stripe_ratio], -1).exp()[:, None]
        stretch = (rotation * scale) @ rotation.mT
        shift = F.interpolate(self.stripe_shift, (hk, wk), mode="bilinear", align_corners=False)
        positions = torch.einsum("gij,bgjhw->bghwi", stretch, offset) + shift.permute(0, 2, 3, 1)

        rows, columns = (torch.arange(n, device=q.device) * stride + (stride - 1) / 2 for n in (hk, wk))
        reference = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
        positions = positions + reference.to(positions.dtype)
        return positions.clamp(min=positions.new_zeros(2), max=positions.new_tensor([h - 1, w - 1]))

    def _sample(self, x: Tensor, positions: Tensor) -> Tensor:
        """Sample each group's channels at its own points, [b, f, hk, wk]."""
        b, f, h, w = x.shape
        grid = 2 * positions / positions.new_tensor([max(h - 1, 1), max(w - 1, 1)]) - 1
        grouped = x.reshape(b * self.groups, f // self.groups, h, w)
        grid = grid.flip(-1).flatten(0, 1)
        sampled = F.grid_sample(grouped, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return sampled.reshape(b, f, *positions.shape[2:4])


class FusedStyle(nn.Module):
    """AdaIN: the convolved fused image sets mean and spread of the features."""

    def __init__(self, inputs: int, features: int, neutral_start: bool) -> None:
        super().__init__()
        self.style = _conv(inputs, features, bias=True)
        self.alpha = nn.Parameter(torch.zeros(())) if neutral_start else None

    def forward(self, content: Tensor, fused: Tensor) -> Tensor:
        variance, mean = torch.var_mean(content, (2, 3), keepdim=True)
        style_variance, style_mean = torch.var_mean(self.style(fused), (2, 3), keepdim=True)
        gain = ((style_variance + 1e-5) / (variance + 1e-5)).sqrt()
        if self.alpha is None:
            return gain * content + (style_mean - gain * mean)
        # the blend with the plain features is an affine map too
        return (self.alpha * gain + 1 - self.alpha) * content + self.alpha * (style_mean - gain * mean)


class BRB(nn.Module):
    """ISTA-Net+'s block, with optional coarser levels; returns the features and the symmetry residual."""

    def __init__(self, features: int, levels: int, width_factor: int) -> None:
        super().__init__()
        self.conv1_forward, self.conv2_forward = _conv(features, features), _conv(features, features)
        self.conv1_backward, self.conv2_backward = _conv(features, features), _conv(features, features)
        self.theta = nn.Parameter(torch.tensor(0.01))
        self.levels = levels
        if levels > 1:
            width = features * width_factor
            self.down, self.up = _pointwise(features, width), _pointwise(width, features)
            self.coarse = BRB(width, levels - 1, width_factor)

    def forward(self, d: Tensor, symmetry: bool) -> tuple[Tensor, Tensor | None]:
        u = self.conv2_forward(F.relu(self.conv1_forward(d)))
        shrunk = torch.sign(u) * F.relu(u.abs() - self.theta)
        if self.levels > 1:
            h, w = u.shape[2:]
            even = F.pad(shrunk, (0, w % 2, 0, h % 2), mode="replicate") if h % 2 or w % 2 else shrunk
            coarse = self.up(self.coarse(self.down(F.avg_pool2d(even, 2)), False)[0])
            shrunk = shrunk + F.interpolate(coarse, scale_factor=2, mode="nearest")[:, :, :h, :w]
        return self._synthesis(shrunk), self._synthesis(u) - d if symmetry else None

    def _synthesis(self, u: Tensor) -> Tensor:
        return self.conv2_backward(F.relu(self.conv1_backward(u)))


class Update(nn.Module):
    """The learned part of a phase: image channels [b, k, h, w] -> their update, mean(e^2) and path cost per example."""

    def __init__(self, c: Any, styled: bool, query_chunk: int) -> None:
        super().__init__()
        self.stride, channels = c.stride, 2 if c.complex else 1
        inputs = channels + {"none": 0, "fused": 1, "fused+ct": 2}[c.aux_concat]
        self.conv_D = _conv(inputs * c.stride**2, c.width)
        self.avat = AVAT(c, query_chunk) if c.avat and styled else None
        self.adain = FusedStyle(c.stride**2, c.width, c.neutral_start) if c.adain != "none" and styled else None
        self.brb = BRB(c.width, c.brb_levels, 1)
        self.conv_G = _conv(c.width, channels * c.stride**2)

    def forward(
        self, image: Tensor, fused: Tensor | None, mu_index: Tensor | None, symmetry: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        f = self.conv_D(_unshuffle(image, self.stride))
        cost = f.new_zeros(f.shape[0])
        if self.avat is not None:
            attended, cost = self.avat(f, mu_index)
            f = f + attended
        if self.adain is not None:
            f = self.adain(f, _unshuffle(fused, self.stride))
        g, e = self.brb(f, symmetry)
        residual = e.square().mean((1, 2, 3)) if symmetry else f.new_zeros(f.shape[0])
        return _shuffle(self.conv_G(g), self.stride), residual, cost


class Phase(nn.Module):
    """One unrolled phase: gradient step, learned update, data consistency."""

    def __init__(self, c: Any, *, styled: bool, query_chunk: int) -> None:
        super().__init__()
        self.complex, self.aux_concat = c.complex, c.aux_concat
        self.rho = nn.Parameter(torch.tensor(0.5))
        self.dc = nn.Parameter(torch.tensor(0.5413)) if c.dc == "soft" else None
        self.update = Update(c, styled, query_chunk)

    def forward(
        self,
        x: Tensor,
        start: Tensor,
        mask: Tensor,
        fused: Tensor | None,
        ct: Tensor,
        mu_index: Tensor | None,
        symmetry: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        r = x - self.rho * self._residual(x, start, mask)
        image = torch.view_as_real(r).permute(0, 3, 1, 2) if self.complex else r[:, None]
        extra = {"none": [], "fused": [fused], "fused+ct": [fused, ct[:, None]]}[self.aux_concat]
        image = torch.cat([image, *extra], dim=1) if extra else image
        if self.update.conv_D.weight.is_contiguous():
            image = image.contiguous()
        update, residual, cost = self.update(image, fused, mu_index, symmetry)
        if self.complex:
            x = r + torch.view_as_complex(update.permute(0, 2, 3, 1).to(r.real.dtype).contiguous())
        else:
            x = r + update[:, 0]
        if self.dc is not None:
            v = F.softplus(self.dc)
            x = x - v / (1 + v) * self._residual(x, start, mask)
        return x, residual, cost

    def _residual(self, x: Tensor, start: Tensor, mask: Tensor) -> Tensor:
        """Return A^H (A x - y) = A^H A x - A^H y."""
        normal = torch.fft.ifft2(mask * torch.fft.fft2(x, norm="ortho"), norm="ortho")
        return (normal if self.complex else normal.real) - start
