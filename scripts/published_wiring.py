"""The published wiring of the model, over our parameters: what benchmarks compare with and tests check against.

Plain and readable, as docs/method.md states it: the streams run one after the other through every stage, windows
are padded before qkv and unpadded after the output projection, masks and position biases are built at every call,
attention is not fused, DSCF holds its whole bias and attention matrices, the head upsamples and concatenates four maps
before one 1x1 convolution, and all heads always run. Same numbers as `KTBSegmentor`, at the published cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.models.backbones.base import Tokens
from ktb.models.fusion.dscf import TABLE
from ktb.models.segmentor import SegOutput


def forward(model: Any, inputs: Mapping[str, Tensor]) -> SegOutput:
    """As `model(inputs, side=True)`."""
    size = next(iter(inputs.values())).shape[-2:]
    tokens = embed(model, inputs)
    fused: list[Tensor] = []
    streams: dict[str, list[Tensor]] = {m: [] for m in model.modalities}
    for i in range(4):
        if i:
            tokens = [model.backbone.enter(i, Tokens(t)).map for t in tokens]
        if model.peft.has_prompts:
            tokens = prompt(model.peft.prompts[i], tokens)
        tokens = stage(model, i, tokens)
        normed = [model.norms[m][i](t) for m, t in zip(model.modalities, tokens, strict=True)]
        for m, t in zip(model.modalities, normed, strict=True):
            streams[m].append(t)
        fused.append(model.fused_norms[i](fuse(model.fusion[i], normed)))
    side = {m: head(model.side_heads[m], streams[m], size) for m in model.modalities}
    return SegOutput(head(model.head, fused, size), side)


def embed(model: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    tokens = []
    for m, image in inputs.items():
        module = model.backbone.patch_embed if m == "rgb" else model.patch_embeds[m]
        image = F.pad(image, (0, -image.shape[3] % 4, 0, -image.shape[2] % 4))
        tokens.append(module.norm(module.proj(image).permute(0, 2, 3, 1)))
    return tokens


def stage(model: Any, i: int, tokens: list[Tensor]) -> list[Tensor]:
    out = []
    for m, x in zip(model.modalities, tokens, strict=True):
        for block, adapter in zip(model.backbone.layers[i].blocks, model.peft.adapters[i], strict=True):
            x = swin_block(block, adapter, m, x)
        out.append(x)
    return out


def prompt(module: Any, tokens: list[Tensor]) -> list[Tensor]:
    down = [module.down[m](t) for m, t in zip(module.down, tokens, strict=True)]
    u = module.up(module.project(torch.cat(down, dim=-1)))
    return [t + u + (module.gamma[m] * u + module.beta[m]) for m, t in zip(module.down, tokens, strict=True)]


def swin_block(block: Any, adapter: Any, modality: str, x: Tensor) -> Tensor:
    y = x + block.drop_path1(window_attention(block, block.norm1(x)))
    adapted = adapter.up[modality](adapter.dropout(adapter.down[modality](y).relu()))
    return y + block.drop_path2(block.mlp(block.norm2(y))) + 0.5 * adapted


def window_attention(block: Any, x: Tensor) -> Tensor:
    attn = block.attn
    ws, shift, heads = attn.window_size[0], block.shift_size[0], attn.num_heads
    b, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, -w % ws, 0, -h % ws))
    hp, wp = x.shape[1:3]
    if shift:
        x = x.roll((-shift, -shift), (1, 2))
    windows = x.view(b, hp // ws, ws, wp // ws, ws, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, ws * ws, c)
    q, k, v = attn.qkv(windows).view(-1, ws * ws, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    scores = (q * attn.scale) @ k.transpose(-2, -1)
    bias = attn.relative_position_bias_table[attn.relative_position_index.view(-1)]
    scores = scores + bias.view(ws * ws, ws * ws, heads).permute(2, 0, 1)
    if shift:
        region = torch.zeros(hp, wp, device=x.device)
        borders = (slice(0, -ws), slice(-ws, -shift), slice(-shift, None))
        for n, (rows, cols) in enumerate((r, c) for r in borders for c in borders):
            region[rows, cols] = n
        region = region.view(hp // ws, ws, wp // ws, ws).permute(0, 2, 1, 3).reshape(-1, ws * ws)
        mask = region[:, None] - region[:, :, None]
        mask = mask.masked_fill(mask != 0, -100.0).to(scores.dtype)
        scores = (scores.view(b, -1, heads, ws * ws, ws * ws) + mask[:, None]).view(-1, heads, ws * ws, ws * ws)
    out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, ws * ws, c)
    out = attn.proj(out).view(b, hp // ws, wp // ws, ws, ws, c).permute(0, 1, 3, 2, 4, 5).reshape(b, hp, wp, c)
    if shift:
        out = out.roll((shift, shift), (1, 2))
    return out[:, :h, :w].contiguous()


def fuse(module: Any, tokens: list[Tensor]) -> Tensor:
    names = list(module.down)
    maps = [module.down[m](t).permute(0, 3, 1, 2) for m, t in zip(names, tokens, strict=True)]
    b, r, h, w = maps[0].shape
    g, heads = module.groups, module.heads
    fused = module.fuse(torch.cat(maps, dim=1))
    query = module.query(fused)
    positions = []
    for m, x in zip(names, maps, strict=True):
        offset = module.offset[m](x.reshape(b * g, r // g, h, w)).permute(0, 2, 3, 1)
        hk, wk = offset.shape[1:3]
        y = (torch.arange(hk, device=x.device, dtype=x.dtype) + 0.5) / (hk - 1) * 2 - 1 if hk > 1 else x.new_zeros(1)
        z = (torch.arange(wk, device=x.device, dtype=x.dtype) + 0.5) / (wk - 1) * 2 - 1 if wk > 1 else x.new_zeros(1)
        reference = torch.stack(torch.meshgrid(y, z, indexing="ij"), -1)
        positions.append((offset + reference).clamp(-1, 1).reshape(b * g, -1, 1, 2))

    def sample(x: Tensor) -> Tensor:
        x = x.reshape(b * g, r // g, h, w)
        found = [F.grid_sample(x, p[..., (1, 0)], mode="bilinear", align_corners=True) for p in positions]
        return torch.cat(found, dim=2).reshape(b, r, -1, 1)

    weights = module.weight(sample(query)).softmax(dim=1)
    mixed = sum(weights[:, n : n + 1] * sample(x) for n, x in enumerate(maps))
    d = r // heads
    q = query.reshape(b * heads, d, h * w)
    k = module.key(mixed).reshape(b * heads, d, -1)
    v = module.value(mixed).reshape(b * heads, d, -1)
    attention = torch.einsum("bcm,bcn->bmn", q, k) * d**-0.5
    grid_y = torch.linspace(-1, 1, h, device=q.device, dtype=q.dtype) if h > 1 else q.new_zeros(1)
    grid_x = torch.linspace(-1, 1, w, device=q.device, dtype=q.dtype) if w > 1 else q.new_zeros(1)
    grid_q = torch.stack(torch.meshgrid(grid_y, grid_x, indexing="ij"), -1).reshape(1, h * w, 1, 2)
    points = torch.cat(positions, dim=1).reshape(b * g, 1, -1, 2)
    distance = (grid_q.expand(b * g, -1, -1, -1) - points) * 0.5
    table = module.table[None].expand(b, -1, -1, -1).reshape(b * g, heads // g, *TABLE)
    bias = F.grid_sample(table, distance[..., (1, 0)], mode="bilinear", align_corners=True)
    attention = (attention + bias.reshape(b * heads, h * w, -1)).softmax(dim=2)
    out = module.out(torch.einsum("bmn,bcn->bcm", attention, v).reshape(b, r, h, w))
    out = module.attention_gain[:, None, None] * out + module.identity_gain[:, None, None] * fused
    return module.up(out.permute(0, 2, 3, 1))


def head(module: Any, features: list[Tensor], size: torch.Size) -> Tensor:
    grid = features[0].shape[1:3]
    maps = []
    for linear, feature in zip(module.linear, features, strict=True):
        x = linear(feature).permute(0, 3, 1, 2).contiguous()
        maps.append(F.interpolate(x, size=grid, mode="bilinear", align_corners=False))
    x = module.dropout(torch.relu(module.norm(module.fuse(torch.cat(maps[::-1], dim=1)))))
    return F.interpolate(module.predict(x), size=size, mode="bilinear", align_corners=False)


def update_counts(counts: np.ndarray, prediction: Tensor, target: Tensor, num_classes: int) -> None:
    """Per class, what IoU and accuracy need: pixels that are right, labelled and predicted, each count brought to the
    host on its own; counts (K, 3)."""
    valid = target != 255
    for c in range(num_classes):
        labelled, predicted = valid & (target == c), valid & (prediction == c)
        counts[c, 0] += (labelled & predicted).sum().item()
        counts[c, 1] += labelled.sum().item()
        counts[c, 2] += predicted.sum().item()


def multi_scale_flip(model: Any, inputs: Mapping[str, Tensor], scales: tuple[float, ...]) -> Tensor:
    """Sum over scales and flips of the softmax (docs/method.md#evaluation), one pass after the other."""
    size = next(iter(inputs.values())).shape[-2:]
    total: Any = 0
    for scale in scales:
        scaled = [int(-(-side * scale // 32) * 32) for side in size]
        for flip in (False, True):
            views = {m: F.interpolate(x, size=scaled, mode="bilinear", align_corners=True) for m, x in inputs.items()}
            views = {m: x.flip(-1) if flip else x for m, x in views.items()}
            logits = forward(model, views).logits
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
            probabilities = logits.softmax(1)
            total = total + (probabilities.flip(-1) if flip else probabilities)
    return total
