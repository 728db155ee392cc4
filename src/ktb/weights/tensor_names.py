"""Names of tensors, translated: published checkpoints of "Keep the Balance" and Swin backbones into ours and back.

Five namings are known (docs/method.md#published-checkpoints): the published checkpoints, and Swin backbones as timm,
Microsoft, OpenMMLab and Hugging Face's transformers write them. All translations are pure functions of names and
tensors; the naming of a file is recognised by its names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ktb.errors import CheckpointError
from ktb.weights.states import StateDict, depths_in, refuse_not_finite


def published_names(depths: Sequence[int], modalities: tuple[str, str]) -> dict[str, str]:
    """Published name → ours, for every entry of a model (docs/method.md#published-checkpoints).

    Patch merging also needs its inputs reordered and counts to the stage after it here: see `from_published`.

    Args:
        depths: blocks of each stage.
        modalities: our names for the published RGB and "dte" streams.
    """
    rgb, x = modalities
    pairs = [
        *_layer("backbone.patch_embed.projection", "backbone.patch_embed.proj"),
        *_layer("backbone.patch_embed.norm", "backbone.patch_embed.norm"),
        *_layer("backbone.extra_patch_embed.projection", f"patch_embeds.{x}.proj"),
        *_layer("backbone.extra_patch_embed.norm", f"patch_embeds.{x}.norm"),
    ]
    for i, depth in enumerate(depths):
        for j in range(depth):
            pairs += _block_names(i, j, rgb, x)
        if i < len(depths) - 1:
            theirs, ours = f"backbone.stages.{i}.downsample", f"backbone.layers.{i + 1}.downsample"
            pairs += [
                *_layer(f"{theirs}.norm", f"{ours}.norm"),
                *_layer(f"{theirs}.reduction", f"{ours}.reduction", _W),
            ]
        pairs += [*_prompt_names(i, rgb, x), *_fusion_names(i, rgb, x)]
        for published, ours in (("norm", f"norms.{rgb}"), ("extra_norm", f"norms.{x}"), ("fuse_norm", "fused_norms")):
            pairs += _layer(f"backbone.{published}{i}", f"{ours}.{i}")
    for published, ours in (
        ("decode_head", "head"),
        ("decode_head_rgb", f"side_heads.{rgb}"),
        ("decode_head_dte", f"side_heads.{x}"),
    ):
        pairs += _head_names(published, ours, len(depths))
    return dict(pairs)


_W = ("weight",)
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _layer(published: str, ours: str, leaves: Iterable[str] = ("weight", "bias")) -> list[tuple[str, str]]:
    """(published name, ours) of a layer's tensors."""
    return [(f"{published}.{leaf}", f"{ours}.{leaf}") for leaf in leaves]


def _block_names(stage: int, block: int, rgb: str, x: str) -> list[tuple[str, str]]:
    """A Swin block with its adapters."""
    theirs, ours = f"backbone.stages.{stage}.blocks.{block}", f"backbone.layers.{stage}.blocks.{block}"
    table = "relative_position_bias_table"
    pairs = [(f"{theirs}.attn.w_msa.{table}", f"{ours}.attn.{table}")]
    for published, name in (
        ("norm1", "norm1"),
        ("attn.w_msa.qkv", "attn.qkv"),
        ("attn.w_msa.proj", "attn.proj"),
        ("norm2", "norm2"),
        ("ffn.layers.0.0", "mlp.fc1"),
        ("ffn.layers.1", "mlp.fc2"),
    ):
        pairs += _layer(f"{theirs}.{published}", f"{ours}.{name}")
    for m, prefix in ((rgb, "RGB"), (x, "DTE")):
        pairs += _layer(f"{theirs}.MLP_{prefix}_Adapter.D_fc1", f"peft.adapters.{stage}.{block}.down.{m}")
        pairs += _layer(f"{theirs}.MLP_{prefix}_Adapter.D_fc2", f"peft.adapters.{stage}.{block}.up.{m}")
    return pairs


def _prompt_names(stage: int, rgb: str, x: str) -> list[tuple[str, str]]:
    theirs, ours = f"backbone.MPGBlocks.{stage}", f"peft.prompts.{stage}"
    pairs = []
    for published, name in (("D_fc1", f"down.{rgb}"), ("D_fc2", f"down.{x}"), ("P_fc2", "project"), ("U_fc1", "up")):
        pairs += _layer(f"{theirs}.{published}", f"{ours}.{name}")
    for m, suffix in ((rgb, "rgb"), (x, "dte")):
        pairs += [(f"{theirs}.tfts_{part}_{suffix}", f"{ours}.{part}.{m}") for part in ("gamma", "beta")]
    return pairs


def _fusion_names(stage: int, rgb: str, x: str) -> list[tuple[str, str]]:
    theirs, ours = f"backbone.DeformMPGBlocks.{stage}", f"fusion.{stage}"
    pairs = []
    for published, name in (("D_fc1", f"down.{rgb}"), ("D_fc2", f"down.{x}"), ("U_fc1", "up")):
        pairs += _layer(f"{theirs}.{published}", f"{ours}.{name}")
    theirs += ".deform_atten"
    pairs += _layer(f"{theirs}.fuse_q.conv.0", f"{ours}.fuse.0")
    pairs += _layer(f"{theirs}.fuse_q.conv.1", f"{ours}.fuse.1", _BATCH_NORM)
    for m, axis in ((rgb, "x"), (x, "y")):  # their "x" are the offsets of RGB
        pairs += _layer(f"{theirs}.conv_offset_{axis}.0", f"{ours}.offset.{m}.0")
        pairs += _layer(f"{theirs}.conv_offset_{axis}.1.norm", f"{ours}.offset.{m}.1")
        pairs += _layer(f"{theirs}.conv_offset_{axis}.3", f"{ours}.offset.{m}.3", _W)
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
        pairs += _layer(f"{theirs}.proj_{letter}", f"{ours}.{name}")
    for index in (0, 2):
        pairs += _layer(f"{theirs}.get_sample_weight.{index}", f"{ours}.weight.{index}")
    return [
        *pairs,
        (f"{theirs}.rpe_table", f"{ours}.table"),
        (f"{theirs}.deform_weight", f"{ours}.attention_gain"),
        (f"{theirs}.identity_weight", f"{ours}.identity_gain"),
    ]


def _head_names(published: str, ours: str, scales: int) -> list[tuple[str, str]]:
    pairs = []
    for i in range(scales):
        pairs += _layer(f"{published}.linear_c{i + 1}.proj", f"{ours}.linear.{i}")
    pairs += _layer(f"{published}.linear_fuse.conv", f"{ours}.fuse", _W)
    pairs += _layer(f"{published}.linear_fuse.bn", f"{ours}.norm", _BATCH_NORM)
    return [*pairs, *_layer(f"{published}.linear_pred", f"{ours}.predict")]


def published_depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks per stage of a published state dict."""
    return depths_in(state, r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.")


def merging_from_openmmlab(x: Tensor) -> Tensor:
    """Reorder patch merging's last axis (4C) from channel-major (c·4 + row·2 + col) to timm's (col·2 + row)·C + c."""
    return x.unflatten(-1, (-1, 2, 2)).movedim(-3, -1).transpose(-3, -2).flatten(-3)


def merging_to_openmmlab(x: Tensor) -> Tensor:
    """Inverse of `merging_from_openmmlab`."""
    return x.unflatten(-1, (2, 2, -1)).transpose(-3, -2).movedim(-1, -3).flatten(-3)


def _ignored(name: str) -> bool:
    """Buffers that follow from the architecture."""
    return name.endswith(("relative_position_index", "attn_mask"))


def from_published(state: Mapping[str, Tensor], modalities: tuple[str, str]) -> StateDict:
    """A published state dict in our names.

    Args:
        state: tensors by published names.
        modalities: our names for its RGB and "dte" streams.

    Returns:
        tensors by our names; unknown names are kept, so that loading can list them.
    """
    names = published_names(published_depths(state), modalities)
    return {
        names.get(k, k): merging_from_openmmlab(v) if ".downsample." in k else v
        for k, v in state.items()
        if not _ignored(k)
    }


def to_published(state: Mapping[str, Tensor], modalities: tuple[str, str]) -> StateDict:
    """Inverse of `from_published`, without the index buffers.

    Args:
        state: tensors by our names.
        modalities: our names for the published RGB and "dte" streams.

    Raises:
        KeyError: a name that the published model does not have.
    """
    depths = depths_in(state, r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.")
    names = {ours: theirs for theirs, ours in published_names(depths, modalities).items()}
    return {names[k]: merging_to_openmmlab(v) if ".downsample." in k else v for k, v in state.items()}


def is_published(state: Mapping[str, Any]) -> bool:
    """Whether these are the names of a published checkpoint."""
    return any(k.startswith("backbone.DeformMPGBlocks.") for k in state)


def backbone_to_timm(state: Mapping[str, Tensor]) -> StateDict:
    """Swin weights in timm, Microsoft, OpenMMLab or Hugging Face naming → timm's, without classifier and output norms;
    or the backbone in a model of ktb.

    Raises:
        CheckpointError: none of these, or weights that are not finite.
    """
    state = {k.removeprefix("model.").removeprefix("backbone."): v for k, v in state.items() if not _ignored(k)}
    state = {k.removeprefix("swin."): v for k, v in state.items()}
    if "embeddings.patch_embeddings.projection.weight" in state:
        state = _from_transformers(state)
    if any(".w_msa." in k for k in state):
        renamed = {}
        for k, v in state.items():
            if "_Adapter." in k:  # of a published checkpoint, whose blocks hold their adapters
                continue
            if ".downsample." in k:
                v = merging_from_openmmlab(v)
            k = k.replace("stages.", "layers.").replace(".w_msa.", ".").replace("projection", "proj")
            k = k.replace(".ffn.layers.0.0.", ".mlp.fc1.").replace(".ffn.layers.1.", ".mlp.fc2.")
            renamed[k] = v
        state = renamed
    elif not any(re.match(r"layers\.\d+\.blocks\.\d+\.attn\.qkv\.weight", k) for k in state):
        raise CheckpointError(
            "not a Swin backbone in timm, Microsoft, OpenMMLab or Hugging Face naming; its first name is "
            f"{next(iter(state), '-')!r}"
        )
    if any(k.startswith("layers.0.downsample.") for k in state):
        # Microsoft and OpenMMLab count patch merging to the stage before it, timm to the stage after.
        state = {
            re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", k): v
            for k, v in state.items()
        }
    state = {k: v for k, v in state.items() if k.startswith(("patch_embed.", "layers."))}
    refuse_not_finite(state)
    return state


def _from_transformers(state: Mapping[str, Tensor]) -> StateDict:
    """Names of Hugging Face's SwinModel → Microsoft's. Patch merging takes its neighbours in the same order as there;
    query, key and value are three layers."""
    parts = (
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.norm\.", "patch_embed.norm."),
        (r"^encoder\.", ""),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.attention\.self\.", ".attn."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
    )
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in parts:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    for query in [name for name in renamed if ".attn.query." in name]:
        names = [query.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(name in renamed for name in names):
            renamed[query.replace(".query.", ".qkv.")] = torch.cat([renamed.pop(name) for name in names])
    return renamed
