"""Weight files: reading them safely, and translating between namings.

Five namings are known (docs/method.md#published-checkpoints): the published checkpoints of "Keep the Balance", and Swin
backbones as timm, Microsoft, OpenMMLab and Hugging Face's transformers write them. All translations are pure functions
of names and tensors; the naming of a file is recognised by its names. Files are read as tensors only: nothing stored in
one is ever executed, and nothing in one decides how much memory is taken before it has been compared with what the file
really holds.

What `ktb-train` writes and what `ktb.weights.bundle` writes have one content: {"ktb": plain values about the model,
"state_dict": {"model.NAME": tensor}}.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import re
import socket
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ktb.errors import CheckpointError
from ktb.io import absent, expanded
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.finite import not_finite, some_of
from ktb.models.segmentor import KTBSegmentor

StateDict = dict[str, Tensor]

OPENMMLAB_SWIN_B = "swin_base_patch4_window12_384_22k_20220317-e5c09f74.pth"

BUNDLE_WEIGHTS = "model.safetensors"
"""The file of a bundle that holds tensors and, in its header under "ktb", everything about the model as JSON."""

MAX_PARAMETERS = 4_000_000_000
"""A file may not ask for a larger model: 20 times Swin-L."""


def read_file(path: str | Path) -> Any:
    """Content of a .safetensors file or of a PyTorch file, tensors and plain values only.

    A .safetensors file of `ktb.weights.bundle` comes as the checkpoint it holds, see `is_ours`.

    Raises:
        CheckpointError: missing, damaged, a pickle that would run code, a file that unpacks to more than its size, or a
            checkpoint of ours whose weights are not finite.
    """
    path = expanded(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {absent(path, 'no such checkpoint file')}; check the path")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if zipfile.is_zipfile(path):
            _refuse_packed(path)
        with warnings.catch_warnings():
            # A pickle by other hands than torch.save; if it holds more than tensors, it is refused below.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            warnings.filterwarnings("ignore", ".*sparse tensor.*")  # refused below as well
            content = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_stretched(content, path)
        if is_ours(content):
            refuse_not_finite(content["state_dict"], str(path))
        return content
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        with path.open("rb") as file:
            is_pickle = found or file.read(1) == pickle.PROTO
        if not is_pickle:
            raise CheckpointError(f"{path}: not a checkpoint (no known file format); fetch it again") from None
        what = f"the Python object {found[1]}" if found else "more than tensors and plain values"
        raise CheckpointError(
            f"{path}: refused: it holds {what}, and loading that would run code from the file; "
            "save its state dict alone and pass that file"
        ) from None
    except (
        AttributeError, EOFError, IndexError, KeyError, MemoryError, OSError, OverflowError, RuntimeError,
        SafetensorError, TypeError, UnicodeError, ValueError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path}: not a readable checkpoint ({first_line(error)}); fetch it again") from None


def _read_safetensors(path: Path) -> Any:
    """The library itself refuses a header whose offsets, shapes and file length do not agree."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("ktb")
    if text is None:
        return tensors
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise CheckpointError(f"{path}: damaged: what it says about its model is no JSON object; fetch it again")
    refuse_not_finite(tensors, str(path))
    return {"ktb": about, "state_dict": {f"model.{k}": v for k, v in tensors.items()}}


def _refuse_packed(path: Path) -> None:
    """torch.save stores its records as they are; a compressed one can unpack to a thousand times its size."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    unpacked = sum(record.file_size for record in records)
    if any(record.compress_type != zipfile.ZIP_STORED for record in records) or unpacked > path.stat().st_size:
        raise CheckpointError(
            f"{path}: refused: it unpacks to {unpacked:,} bytes from {path.stat().st_size:,}, and torch.save never "
            "compresses; fetch it again"
        )


def _refuse_stretched(content: Any, path: Path) -> None:
    """A tensor of stride 0 may claim any shape over four bytes; converting it would allocate all of it."""
    parts = list(content.values()) if isinstance(content, Mapping) else []
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            parts += part.values()
        elif isinstance(part, Tensor) and part.layout != torch.strided:
            raise CheckpointError(f"{path}: refused: it holds a sparse tensor, and model weights are dense")
        elif isinstance(part, Tensor) and part.numel() * part.element_size() > part.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: refused: it holds a tensor of shape {tuple(part.shape)} over "
                f"{part.untyped_storage().nbytes()} bytes"
            )


def read_state_dict(source: str | Path | Mapping[str, Any]) -> StateDict:
    """Tensors by name, out of a file or of a mapping that may wrap them (`model_state_dict`, `state_dict`, `model`)."""
    content = source if isinstance(source, Mapping) else read_file(source)
    where = "the given mapping" if isinstance(source, Mapping) else str(source)
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{where}: expected a state dict (name → tensor), found {type(content).__name__}")
    state = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{where}: expected a state dict (name → tensor), found no tensor in it")
    return state


# ---------------------------------------------------------------------------------------------- published checkpoints


def published_names(depths: Sequence[int], modalities: tuple[str, str]) -> dict[str, str]:
    """Published name → ours, for every entry of a model with these depths (docs/method.md#published-checkpoints).

    `modalities` are our names for the published RGB and "dte" streams. Patch merging also needs its inputs reordered
    and counts to the stage after it here: see `from_published`.
    """
    rgb, x = modalities
    pairs: dict[str, str] = {}

    def add(published: str, ours: str, leaves: Iterable[str] = ("weight", "bias")) -> None:
        pairs.update({f"{published}.{leaf}": f"{ours}.{leaf}" for leaf in leaves})

    norm_leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for published, ours in (("patch_embed", "backbone.patch_embed"), ("extra_patch_embed", f"patch_embeds.{x}")):
        add(f"backbone.{published}.projection", f"{ours}.proj")
        add(f"backbone.{published}.norm", f"{ours}.norm")
    for i, depth in enumerate(depths):
        for j in range(depth):
            theirs, ours = f"backbone.stages.{i}.blocks.{j}", f"backbone.layers.{i}.blocks.{j}"
            for block_theirs, block_ours in (
                ("norm1", "norm1"),
                ("attn.w_msa.qkv", "attn.qkv"),
                ("attn.w_msa.proj", "attn.proj"),
                ("norm2", "norm2"),
                ("ffn.layers.0.0", "mlp.fc1"),
                ("ffn.layers.1", "mlp.fc2"),
            ):
                add(f"{theirs}.{block_theirs}", f"{ours}.{block_ours}")
            table = "relative_position_bias_table"
            pairs[f"{theirs}.attn.w_msa.{table}"] = f"{ours}.attn.{table}"
            for m, prefix in ((rgb, "RGB"), (x, "DTE")):
                add(f"{theirs}.MLP_{prefix}_Adapter.D_fc1", f"adapters.{i}.{j}.down.{m}")
                add(f"{theirs}.MLP_{prefix}_Adapter.D_fc2", f"adapters.{i}.{j}.up.{m}")
        if i < len(depths) - 1:
            add(f"backbone.stages.{i}.downsample.norm", f"backbone.layers.{i + 1}.downsample.norm")
            add(
                f"backbone.stages.{i}.downsample.reduction",
                f"backbone.layers.{i + 1}.downsample.reduction",
                ("weight",),
            )
        add(f"backbone.MPGBlocks.{i}.D_fc1", f"prompts.{i}.down.{rgb}")
        add(f"backbone.MPGBlocks.{i}.D_fc2", f"prompts.{i}.down.{x}")
        add(f"backbone.MPGBlocks.{i}.P_fc2", f"prompts.{i}.project")
        add(f"backbone.MPGBlocks.{i}.U_fc1", f"prompts.{i}.up")
        for m, suffix in ((rgb, "rgb"), (x, "dte")):
            for part in ("gamma", "beta"):
                pairs[f"backbone.MPGBlocks.{i}.tfts_{part}_{suffix}"] = f"prompts.{i}.{part}.{m}"
        theirs, ours = f"backbone.DeformMPGBlocks.{i}", f"fusion.{i}"
        add(f"{theirs}.D_fc1", f"{ours}.down.{rgb}")
        add(f"{theirs}.D_fc2", f"{ours}.down.{x}")
        add(f"{theirs}.U_fc1", f"{ours}.up")
        theirs += ".deform_atten"
        add(f"{theirs}.fuse_q.conv.0", f"{ours}.fuse.0")
        add(f"{theirs}.fuse_q.conv.1", f"{ours}.fuse.1", norm_leaves)
        for m, axis in ((rgb, "x"), (x, "y")):
            add(f"{theirs}.conv_offset_{axis}.0", f"{ours}.offset.{m}.0")
            add(f"{theirs}.conv_offset_{axis}.1.norm", f"{ours}.offset.{m}.1")
            add(f"{theirs}.conv_offset_{axis}.3", f"{ours}.offset.{m}.3", ("weight",))
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
            add(f"{theirs}.proj_{letter}", f"{ours}.{name}")
        for index in (0, 2):
            add(f"{theirs}.get_sample_weight.{index}", f"{ours}.weight.{index}")
        pairs[f"{theirs}.rpe_table"] = f"{ours}.table"
        pairs[f"{theirs}.deform_weight"] = f"{ours}.attention_gain"
        pairs[f"{theirs}.identity_weight"] = f"{ours}.identity_gain"
        for published, ours in (("norm", f"norms.{rgb}"), ("extra_norm", f"norms.{x}"), ("fuse_norm", "fused_norms")):
            add(f"backbone.{published}{i}", f"{ours}.{i}")
    for published, ours in (
        ("decode_head", "head"),
        ("decode_head_rgb", f"side_heads.{rgb}"),
        ("decode_head_dte", f"side_heads.{x}"),
    ):
        for i in range(len(depths)):
            add(f"{published}.linear_c{i + 1}.proj", f"{ours}.linear.{i}")
        add(f"{published}.linear_fuse.conv", f"{ours}.fuse", ("weight",))
        add(f"{published}.linear_fuse.bn", f"{ours}.norm", norm_leaves)
        add(f"{published}.linear_pred", f"{ours}.predict")
    return pairs


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
    """A published state dict in our names. Names we do not know are kept, so that loading can list them."""
    names = published_names(_depths(state, r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."), modalities)
    return {
        names.get(k, k): merging_from_openmmlab(v) if ".downsample." in k else v
        for k, v in state.items()
        if not _ignored(k)
    }


def to_published(state: Mapping[str, Tensor], modalities: tuple[str, str]) -> StateDict:
    """Inverse of `from_published`, without the index buffers."""
    depths = _depths(state, r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.")
    names = {ours: theirs for theirs, ours in published_names(depths, modalities).items()}
    return {names[k]: merging_to_openmmlab(v) if ".downsample." in k else v for k, v in state.items()}


def is_published(state: Mapping[str, Any]) -> bool:
    """Whether these are the names of a published checkpoint."""
    return any(k.startswith("backbone.DeformMPGBlocks.") for k in state)


def load_published(
    source: str | Path | Mapping[str, Any], modalities: tuple[str, str] = ("rgb", "depth")
) -> KTBSegmentor:
    """Build the model a published checkpoint holds; every size is read off its names and shapes.

    Args:
        source: a file, or a state dict (also wrapped as `model_state_dict`).
        modalities: our names for its RGB stream and its X stream; the first must be "rgb".

    Returns:
        the model in evaluation mode, float32.

    Raises:
        CheckpointError: not such a checkpoint; names unknown or missing (listed); a file that would run code.
    """
    where = "the given state dict" if isinstance(source, Mapping) else str(source)
    if len(modalities) != 2 or modalities[0] != "rgb":
        raise CheckpointError(f"{where}: a published checkpoint has the modalities (rgb, X), got {tuple(modalities)}")
    state = read_state_dict(source)
    if not is_published(state):
        raise CheckpointError(
            f"{where}: expected a published checkpoint (names like backbone.DeformMPGBlocks.0...), "
            f"found names like {next(iter(state))}"
        )
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    missing = set(published_names(_depths(state, r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."), modalities)) - set(state)
    if missing:
        raise CheckpointError(f"{where}: {_listing('missing', missing)}")
    ours = from_published(state, modalities)
    sizes: dict[str, Any] = {
        "num_classes": len(ours["head.predict.bias"]),
        "head_dim": len(ours["head.norm.weight"]),
        "side_head_dim": len(ours["side_heads.rgb.norm.weight"]),
    }
    try:
        arch = _arch_of(ours, prefix="backbone.")
        with torch.device("meta"):  # shapes first: sizes out of a file must not decide how much memory is taken
            _refuse_misfit(KTBSegmentor(FrozenSwin(arch), modalities, **sizes).state_dict(), ours, where)
    except (ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{where}: no Swin of four stages: {first_line(error)}") from None
    model = KTBSegmentor(FrozenSwin(arch), modalities, **sizes)
    load_exactly(model, ours, where)
    return model.eval()


# --------------------------------------------------------------------------------------------------- Swin backbones


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


def load_backbone(arch: SwinArch, weights: str, *, name: str, timm_name: str | None = None) -> FrozenSwin:
    """A backbone with its weights.

    Args:
        arch: the architecture the weights must fit.
        weights: "hub" (fetched by timm), "bundled" (shipped with ktb), "random", or the path of a file in timm,
            Microsoft, OpenMMLab or Hugging Face naming.
        name: the backbone's name, for messages and for the bundled file.
        timm_name: the model on timm's hub.

    Raises:
        CheckpointError: no network and no file, an unreadable file, or weights that do not fit.
    """
    backbone = FrozenSwin(arch)
    if weights == "random":
        return backbone
    if weights == "hub":
        where, state = f"timm hub model {timm_name}", _from_hub(name, timm_name)
    elif weights == "bundled":
        file = resources.files("ktb") / "weights" / f"{name}.safetensors"
        with resources.as_file(file) as path:
            where, state = str(path), read_state_dict(path)
    else:
        where, state = weights, read_state_dict(weights)
    try:
        state = backbone_to_timm(state)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    load_exactly(backbone, {k: v.float() for k, v in state.items()}, where)
    return backbone


def _from_hub(name: str, timm_name: str | None) -> StateDict:
    if timm_name is None:
        raise CheckpointError(f"backbone {name} is not on timm's hub; pass backbone.weights=FILE")
    import timm

    prepare_hub_client()
    try:
        return timm.create_model(timm_name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # the hub client raises many kinds; all mean that there are no weights
        raise CheckpointError(
            f"weights of {timm_name} could not be fetched ({first_line(error)}); without a network pass a local file: "
            f"backbone.weights=/path/to/FILE, in timm naming (model.safetensors of {timm_name}), Microsoft naming, "
            f"Hugging Face naming, or OpenMMLab naming (for swin_b: {OPENMMLAB_SWIN_B}); backbone.weights=random trains"
            " on random weights"
        ) from None


def prepare_hub_client() -> None:
    """Without a network the hub client takes its local cache or fails at once, and says nothing of its own."""
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; our error says it once
    if not _resolves(urlsplit(constants.ENDPOINT).hostname or ""):
        constants.HF_HUB_OFFLINE = True  # instead of a minute of retries


def _resolves(host: str) -> bool:
    """Whether the machine knows the address of `host`, or leaves that to a proxy."""
    if getproxies().get("https"):
        return True
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 over a module's state: names, shapes and values."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------- our checkpoints


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file, the best (else the last) one of a run folder, or the weights of a bundle."""
    path = expanded(path)
    if not path.is_dir():
        if not path.exists():
            raise CheckpointError(f"{path}: {absent(path, 'no such checkpoint or run folder')}; check the path")
        return path
    for name in ("best", "last"):
        file = path / "checkpoints" / f"{name}.ckpt"
        if file.is_file():
            return file
    if (path / BUNDLE_WEIGHTS).is_file():
        return path / BUNDLE_WEIGHTS
    raise CheckpointError(
        f"{path}: no checkpoints/best.ckpt or last.ckpt and no {BUNDLE_WEIGHTS} in this folder; is it a run of "
        "ktb-train or a bundle?"
    )


def check_data(
    model: Mapping[str, Any],
    trained: Sequence[str] | None,
    where: str,
    *,
    dataset: str,
    classes: Sequence[str],
    channels: Mapping[str, int],
    remedy: str,
) -> None:
    """Refuse data that a model was not made for.

    Args:
        model: its `config`.
        trained: the classes it was trained for, in order; None: only their number is known.
        where: its file, for messages.
        dataset, classes, channels: name, classes, and channels per modality of the data.
        remedy: what to do about it.

    Raises:
        CheckpointError: other classes, other modalities.
    """
    if model["num_classes"] != len(classes) or (trained and list(trained) != list(classes)):
        names = f" ({', '.join(trained[:4])}, ...)" if trained else ""
        raise CheckpointError(
            f"{where}: was trained for {model['num_classes']} classes{names}, but {dataset} has {len(classes)} "
            f"({', '.join(classes[:4])}, ...); choose its own with dataset=...{remedy and '; '}{remedy}"
        )
    theirs = model["modalities"]
    if list(theirs.items()) != list(channels.items()):
        raise CheckpointError(
            f"{where}: was trained on {_channels(theirs)}, but the data has {_channels(channels)}; choose the "
            f"modalities it was trained on with modality=... or modality.streams=[{','.join(theirs)}]"
            f"{remedy and '; '}{remedy}"
        )


def _channels(modalities: Mapping[str, int]) -> str:
    return ", ".join(f"{m} ({c} channels)" for m, c in modalities.items())


def is_ours(content: Any) -> bool:
    """Whether this is what `ktb-train` or `ktb.weights.bundle` writes."""
    return isinstance(content, Mapping) and isinstance(content.get("ktb"), Mapping) and "state_dict" in content


def model_from_checkpoint(content: Mapping[str, Any], where: str, *, weights: str | None = None) -> KTBSegmentor:
    """The model of a `ktb-train` checkpoint: its frozen backbone as named in it, its trained part from it.

    Args:
        content: what `read_file` returned.
        where: the file, for messages.
        weights: the backbone's weights, if they are no longer where they were (see `load_backbone`).

    Raises:
        CheckpointError: the backbone can't be had or is another one than in training, or something does not fit.
    """
    about = content["ktb"]
    state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    _refuse_other_sizes(about, state, where)
    config, backbone = dict(about["model"]), about.get("backbone") or {}
    arch = SwinArch.from_dict(config.pop("arch"))
    if any(k.startswith("backbone.") for k in state):
        swin, source = FrozenSwin(arch), None
    else:
        source = weights or str(backbone.get("weights"))
        swin = _base(arch, source, backbone, where)
    model = KTBSegmentor(swin, **config)
    if source is not None:
        found = fingerprint(swin)
        if found != backbone["sha256"]:
            raise CheckpointError(
                f"{where}: was trained on backbone weights with SHA-256 {backbone['sha256'][:16]}..., but {source} "
                f"gives {found[:16]}...; pass the file used in training as backbone.weights=FILE"
            )
    # Frozen parameters that the file leaves out are as they are built: the backbone just loaded, the output norms.
    frozen = {k: p.detach() for k, p in model.named_parameters() if not p.requires_grad}
    if source is None:
        frozen = {k: p for k, p in frozen.items() if not k.startswith("backbone.")}
    load_exactly(model, {**frozen, **state}, where)
    model.about = {k: v for k, v in about.items() if k != "model"}
    return model


def _base(arch: SwinArch, source: str, backbone: Mapping[str, Any], where: str) -> FrozenSwin:
    """The frozen backbone that a checkpoint without one names."""
    name, timm_name, sha256 = (str(backbone.get(key) or "") for key in ("name", "timm_name", "sha256"))
    if not re.fullmatch(r"\w+", name) or not re.fullmatch(r"[\w.]*", timm_name) or not sha256:
        raise CheckpointError(f"{where}: damaged: its base weights are {name!r}, {timm_name!r}, SHA-256 {sha256!r}")
    if source not in ("hub", "bundled", "random") and not Path(source).is_file():
        also = f" (on timm's hub: {timm_name})" if timm_name else ""
        raise CheckpointError(
            f"{where}: holds what was trained only; its base weights, {Path(source).name} of {name}{also} with SHA-256 "
            f"{sha256[:16]}..., are not here: pass them as backbone.weights=FILE"
        )
    return load_backbone(arch, source, name=name, timm_name=timm_name or None)


def _refuse_other_sizes(about: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> None:
    """Build the model that a file describes without memory, and compare it with the tensors the file holds.

    Whatever comes out of a file decides nothing else: names and shapes must agree, so a description that lies cannot
    make us allocate or loop without bound.
    """
    try:
        config = dict(about["model"])
        arch = SwinArch.from_dict(config.pop("arch"))
        depths = _depths(state, r"adapters\.(\d+)\.(\d+)\.")
        limits = {"embed_dim": 4096, "window_size": 64, "mlp_ratio": 16}
        if arch.depths != depths or any(not 0 < getattr(arch, k) <= limit for k, limit in limits.items()):
            raise ValueError(f"{arch} does not describe tensors of stages with {depths} blocks")
        classes, base = about.get("classes"), dict(about.get("backbone") or {})
        if classes is not None and (
            not isinstance(classes, list)
            or not all(isinstance(name, str) for name in classes)
            or len(classes) != config["num_classes"]
        ):
            raise ValueError(f"{config['num_classes']} classes called {str(classes)[:60]}")
        if not all(isinstance(value, str | None) for value in base.values()):
            raise ValueError(f"base weights {str(base)[:60]}")
        if len(config["modalities"]) > 64 or not all(0 < c <= 4096 for c in dict(config["modalities"]).values()):
            raise ValueError(f"modalities {config['modalities']}")
        with torch.device("meta"):
            model = KTBSegmentor(FrozenSwin(arch), **config)
        if (size := sum(p.numel() for p in model.parameters())) > MAX_PARAMETERS:
            raise ValueError(f"{size:,} parameters")
    except (
        ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{where}: damaged: no model is as this file describes it ({type(error).__name__}: {first_line(error)})"
        ) from None
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    if any(k.startswith("backbone.") for k in state):
        frozen -= {k for k in frozen if k.startswith("backbone.")}
    expected = {k: v for k, v in model.state_dict().items() if k in state or k not in frozen}
    _refuse_misfit(expected, state, where)


def load_model(path: str | Path, *, weights: str | None = None) -> KTBSegmentor:
    """The model of a run folder or checkpoint file of `ktb-train`, or of a bundle, in evaluation mode.

    Args:
        path: a run folder (its best checkpoint is taken), a .ckpt file, a bundle's folder or its .safetensors file.
        weights: the backbone's weights, if they are no longer where they were in training.
    """
    file = find_checkpoint(path)
    content = read_file(file)
    if not is_ours(content):
        raise CheckpointError(f"{file}: not a checkpoint of ktb-train; published ones are read by load_published")
    return model_from_checkpoint(content, str(file), weights=weights).eval()


# ------------------------------------------------------------------------------------------------------------ helpers


def load_exactly(module: torch.nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load `state`, all of it and nothing less; says which names are missing, unknown or of another shape."""
    _refuse_misfit(module.state_dict(), state, where)
    refuse_not_finite(state, where)
    module.load_state_dict(state)


def refuse_not_finite(state: Mapping[str, Any], where: str = "") -> None:
    """Raises CheckpointError if a tensor holds NaN or infinities: every answer of such a model is void."""
    if found := not_finite({k: v for k, v in state.items() if isinstance(v, Tensor)}):
        raise CheckpointError(
            f"{where}{': ' * bool(where)}holds weights that are NaN or infinite, {some_of(found)}, as a training that "
            "had failed leaves them; take a checkpoint from before that"
        )


def _refuse_misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    problems = [
        _listing("missing", set(expected) - set(state)),
        _listing("unknown", set(state) - set(expected)),
        _listing(
            "of another shape",
            {
                f"{k} {tuple(state[k].shape)} (expected {tuple(v.shape)})"
                for k, v in expected.items()
                if k in state and state[k].shape != v.shape
            },
        ),
    ]
    if any(problems):
        raise CheckpointError(f"{where}: does not fit this model: " + "; ".join(p for p in problems if p))


def _listing(what: str, names: Iterable[str], limit: int = 6) -> str:
    names = sorted(names)
    if not names:
        return ""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} {what}: {', '.join(names[:limit])}{more}"


def _depths(state: Iterable[str], pattern: str) -> tuple[int, ...]:
    blocks = {(int(m[1]), int(m[2])) for k in state if (m := re.match(pattern, k))}
    # Counted, not the largest number: a name like stages.0.blocks.999999999 must not make the others missing.
    return tuple(sum(i == stage for i, _ in blocks) for stage in sorted({i for i, _ in blocks}))


def _arch_of(state: Mapping[str, Tensor], prefix: str) -> SwinArch:
    """Architecture of timm-named Swin weights, from names and shapes."""
    depths = _depths(state, re.escape(prefix) + r"layers\.(\d+)\.blocks\.(\d+)\.")
    block = prefix + "layers.{}.blocks.0."
    tables = [state[block.format(i) + "attn.relative_position_bias_table"] for i in range(len(depths))]
    embed_dim = len(state[prefix + "patch_embed.proj.bias"])
    return SwinArch(
        embed_dim=embed_dim,
        depths=depths,
        num_heads=tuple(t.shape[1] for t in tables),
        window_size=(round(tables[0].shape[0] ** 0.5) + 1) // 2,
        mlp_ratio=len(state[block.format(0) + "mlp.fc1.bias"]) / embed_dim,
    )


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
