"""Models out of files: runs and checkpoints of ktb-train, bundles, published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ktb.config.trust import Trust, is_dotted
from ktb.config.zoo import is_of_zoo, zoo_model
from ktb.errors import CheckpointError, ConfigError, PartError, first_line
from ktb.io import path_given
from ktb.models import segmentor
from ktb.models.backbones.base import Backbone
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.imports import imported_class, told
from ktb.models.parts import Spec
from ktb.models.segmentor import PARTS, backbone_of, own_classes
from ktb.weights.backbone import load_backbone
from ktb.weights.bundle import save_bundle
from ktb.weights.files import find_checkpoint, is_ours, read_file, read_state_dict
from ktb.weights.hub import TO_BE_HAD
from ktb.weights.states import depths_in, fingerprint, listing, load_exactly, refuse_misfit
from ktb.weights.tensor_names import from_published, is_published, published_names

MAX_PARAMETERS = 4_000_000_000
"""A file may not ask for a larger model: 20 times Swin-L."""

MAX_BLOCKS, MAX_SETTING = 256, 1 << 16
"""Nor for more blocks or larger numbers than these."""


class KTBSegmentor(segmentor.KTBSegmentor):
    """`ktb.models.segmentor.KTBSegmentor`, with the two methods that read and write bundles; what users import.

    Every model out of a file is of this class. See there for the arguments.
    """

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, weights: str | None = None, trust: str | Sequence[str] = ()
    ) -> KTBSegmentor:
        """The model of a bundle: a local folder, or the name of a model on the Hugging Face hub (OWNER/NAME) or in the
        zoo (zoo:NAME, also of a published file).

        Args:
            source: the folder or name.
            weights: a file of the frozen backbone's weights, where the bundle leaves them out and they are neither on
                timm's hub nor shipped with ktb.
            trust: see `load_model`.

        Returns:
            the model in evaluation mode, float32.

        Raises:
            CheckpointError: not such a bundle, no network, or base weights other than in training.
        """
        return load_model(path_given("source", source), weights=weights, trust=trust)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a bundle into a new folder: model.safetensors, config.json and a model card, README.md.

        A backbone that `about` identifies (a model of `load_model` or `from_pretrained`) is left out and named.

        Args:
            folder: new or empty.

        Raises:
            CheckpointError: the folder holds something already or can't be written.
        """
        save_bundle(self, path_given("folder", folder))


def load_model(path: str | Path, *, weights: str | None = None, trust: str | Sequence[str] = ()) -> KTBSegmentor:
    """The model of a run folder or checkpoint file of `ktb-train`, or of a bundle, in evaluation mode.

    Args:
        path: a run folder (its best checkpoint is taken), a .ckpt file, a bundle's folder or its .safetensors file; or
            a name: OWNER/NAME on the hub, zoo:NAME.
        weights: the backbone's weights, if they are no longer where they were in training.
        trust: modules or packages of your own (or one), whose classes the file may name: "my_lab", "my_lab.fusion".
            Without it nothing but ktb itself is imported.

    Raises:
        CheckpointError: not such a file, or one that names other classes.
    """
    trusted = Trust.of(trust, spelling="argument")
    path = path_given("path", path)
    weights = None if weights is None else str(path_given("weights", weights))
    file = find_checkpoint(path)
    content = read_file(file)
    if not is_ours(content) and isinstance(path, str) and is_of_zoo(path):
        return load_published(content, zoo_model(path).modalities)
    if not is_ours(content):
        raise CheckpointError(f"{file}: not a checkpoint of ktb-train; published ones are read by load_published")
    return model_from_checkpoint(content, str(file), weights=weights, trust=trusted).eval()


def model_from_checkpoint(
    content: Mapping[str, Any], where: str, *, trust: Trust, weights: str | None = None
) -> KTBSegmentor:
    """The model of a `ktb-train` checkpoint: its frozen backbone as named in it, its trained part from it.

    Args:
        content: what `read_file` returned.
        where: the file, for messages.
        trust: what it may name beside classes of ktb.
        weights: the backbone's weights, if they are no longer where they were (see `load_backbone`).

    Raises:
        CheckpointError: the backbone can't be had or is another one than in training, something does not fit, or a
            class is not to be trusted or can't be had.
    """
    about = content["ktb"]
    state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    own = _refuse_foreign_classes(about, where, trust)
    _refuse_other_sizes(about, state, where, own=own)
    config, backbone = dict(about["model"]), about.get("backbone") or {}
    spec = config.pop("backbone")
    try:
        if any(k.startswith("backbone.") for k in state):
            frozen_part, source = backbone_of(spec), None
        else:
            source = weights or str(backbone.get("weights"))
            frozen_part = _base(spec, source, backbone, where)
        model = KTBSegmentor(frozen_part, **config)
    except CheckpointError:
        raise
    except Exception as error:
        if not own:
            raise
        said = (
            str(error) if isinstance(error, PartError) else told(error, *(target.partition(".")[0] for target in own))
        )
        raise CheckpointError(
            f"{where}: its model cannot be built with {', '.join(own)} as found here: {said}"
        ) from None
    if source is not None:
        found = fingerprint(frozen_part)
        if found != backbone["sha256"]:
            raise CheckpointError(
                f"{where}: was trained on backbone weights with SHA-256 {backbone['sha256'][:16]}..., but {source} "
                f"gives {found[:16]}...; pass the file used in training as backbone.weights=FILE"
            )
    # Frozen parameters that the file leaves out are as they are built: the backbone just loaded, the output norms.
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    norms = ("norms.", "fused_norms.")
    frozen = {
        k: v
        for k, v in model.state_dict().items()
        if k not in trained and (k.startswith(norms) or (source is not None and k.startswith("backbone.")))
    }
    load_exactly(model, {**frozen, **state}, where)
    model.about = {k: v for k, v in about.items() if k != "model"}
    return model


def _base(spec: Spec, source: str, backbone: Mapping[str, Any], where: str) -> Backbone:
    """The frozen backbone that a checkpoint without one names."""
    name, timm_name, sha256 = (str(backbone.get(key) or "") for key in ("name", "timm_name", "sha256"))
    if not re.fullmatch(r"[\w.-]+", name) or not re.fullmatch(r"[\w.]*", timm_name) or not sha256:
        raise CheckpointError(f"{where}: damaged: its base weights are {name!r}, {timm_name!r}, SHA-256 {sha256!r}")
    if source not in (*TO_BE_HAD, "random") and not Path(source).is_file():
        also = f" (on timm's hub: {timm_name})" if timm_name else ""
        raise CheckpointError(
            f"{where}: holds what was trained only; its base weights, {Path(source).name} of {name}{also} with SHA-256 "
            f"{sha256[:16]}..., are not here: pass them as backbone.weights=FILE"
        )
    return load_backbone(spec, source, name=name, timm_name=timm_name or None)


def _refuse_other_sizes(
    about: Mapping[str, Any], state: Mapping[str, Tensor], where: str, *, own: Sequence[str]
) -> None:
    """Build the model that a file describes without memory, and compare it with the tensors the file holds.

    Whatever comes out of a file decides nothing else: names and shapes must agree, so a description that lies cannot
    make us allocate or loop without bound.

    Args:
        about: what the file says of its model.
        state: its tensors.
        where: the file, for messages.
        own: the trusted classes in it. Not every one of them can be built without memory.
    """
    try:
        config = dict(about["model"])
        for part in ("backbone", *PARTS):
            _refuse_large_numbers(config[part])
        spec = config.pop("backbone")
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
        model = _without_memory(spec, config, own=own)
        if model is None:
            return
        if (size := sum(p.numel() for p in model.parameters())) > MAX_PARAMETERS:
            raise ValueError(f"{size:,} parameters")
    except (
        ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{where}: damaged: no model is as this file describes it ({type(error).__name__}: {first_line(error)})"
        ) from None
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    absent: tuple[str, ...] = ("norms.", "fused_norms.")
    if not any(k.startswith("backbone.") for k in state):
        absent = (*absent, "backbone.")
    frozen = {k for k in model.state_dict() if k not in trained and k.startswith(absent)}
    expected = {k: v for k, v in model.state_dict().items() if k in state or k not in frozen}
    refuse_misfit(expected, state, where)


def _without_memory(spec: Spec, config: Mapping[str, Any], *, own: Sequence[str]) -> KTBSegmentor | None:
    """The model on the meta device; None where a class of the user's own cannot be built there."""
    try:
        with torch.device("meta"):
            return KTBSegmentor(backbone_of(spec), **config)
    except Exception:
        if own:
            return None
        raise


def _refuse_foreign_classes(about: Mapping[str, Any], where: str, trust: Trust) -> list[str]:
    """A description names classes, and to build one is to run it: a file may name parts of ktb's models, and classes
    that the user trusts.

    Returns:
        the names of those that are not ktb's; all of them can be imported.

    Raises:
        CheckpointError: another class, or a trusted one that is not there.
    """
    model = about.get("model")
    if not isinstance(model, Mapping):
        return []  # `_refuse_other_sizes` says so
    own, ours = own_classes(model), []
    for spec in (model.get(part) for part in ("backbone", *PARTS)):
        if isinstance(spec, Mapping) and "_target_" in spec and str(spec["_target_"]) not in own:
            ours.append(str(spec["_target_"]))
    if broken := [target for target in own if "." not in target or not is_dotted(target)]:
        raise CheckpointError(f"{where}: damaged: its model has a part {broken[0]!r}, which is no name of a class")
    if foreign := [target for target in own if not trust.covers(target)]:
        kind = "a class that is" if len(foreign) == 1 else "classes that are"
        raise CheckpointError(f"{where}: names {', '.join(foreign)}, {kind} not of ktb; {trust.plea(foreign)}")
    for target in (*own, *ours):
        harm = "" if target in own else "damaged: "
        if harm and not target.startswith("ktb.models."):
            raise CheckpointError(f"{where}: {harm}{target} is not a part of ktb's models")
        try:
            found = imported_class(target)
        except PartError as error:
            raise CheckpointError(f"{where}: {harm}names {target}: {error}") from None
        # A name below ktb. may lead out of it again, through what its modules import.
        if not issubclass(found, torch.nn.Module) or (harm and not found.__module__.startswith("ktb.models.")):
            raise CheckpointError(f"{where}: {harm}names {target}, which is not a part of a model")
    return own


def _refuse_large_numbers(spec: Any) -> None:
    """Numbers of a description decide how long it takes to build a model, even without memory.

    Raises:
        ValueError: one that no model of today comes near to.
    """
    if isinstance(spec, Mapping):
        if isinstance(depths := spec.get("depths"), list | tuple) and sum(depths) > MAX_BLOCKS:
            raise ValueError(f"{sum(depths)} blocks")
        for value in spec.values():
            _refuse_large_numbers(value)
    elif isinstance(spec, list | tuple):
        if len(spec) > MAX_BLOCKS:
            raise ValueError(f"a list of {len(spec)} values")
        for value in spec:
            _refuse_large_numbers(value)
    elif isinstance(spec, int | float) and not -MAX_SETTING <= spec <= MAX_SETTING:
        raise ValueError(f"a setting of {spec}")


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
    source = source if isinstance(source, Mapping) else path_given("source", source)
    where = "the given state dict" if isinstance(source, Mapping) else str(source)
    if not isinstance(modalities, Sequence) or isinstance(modalities, str | bytes):
        raise ConfigError(f"modalities={modalities!r}: expected two names, such as ('rgb', 'depth')")
    if len(modalities) != 2 or modalities[0] != "rgb":
        raise CheckpointError(f"{where}: a published checkpoint has the modalities (rgb, X), got {tuple(modalities)}")
    state = read_state_dict(source)
    if not is_published(state):
        raise CheckpointError(
            f"{where}: expected a published checkpoint (names like backbone.DeformMPGBlocks.0...), "
            f"found names like {next(iter(state))}"
        )
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    missing = set(published_names(depths_in(state, r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."), modalities)) - set(
        state
    )
    if missing:
        raise CheckpointError(f"{where}: {listing('missing', missing)}")
    ours = from_published(state, modalities)
    sizes: dict[str, Any] = {
        "num_classes": len(ours["head.predict.bias"]),
        "head": {"width": len(ours["head.norm.weight"])},
        "side_head": {"width": len(ours["side_heads.rgb.norm.weight"])},
    }
    try:
        arch = _arch_of(ours, prefix="backbone.")
        with torch.device("meta"):  # shapes first: sizes out of a file must not decide how much memory is taken
            refuse_misfit(KTBSegmentor(FrozenSwin(arch), modalities, **sizes).state_dict(), ours, where)
    except (ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{where}: no Swin of four stages: {first_line(error)}") from None
    model = KTBSegmentor(FrozenSwin(arch), modalities, **sizes)
    load_exactly(model, ours, where)
    return model.eval()


def _arch_of(state: Mapping[str, Tensor], prefix: str) -> SwinArch:
    """Architecture of timm-named Swin weights, from names and shapes."""
    depths = depths_in(state, re.escape(prefix) + r"layers\.(\d+)\.blocks\.(\d+)\.")
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


def refuse_other_data(
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
