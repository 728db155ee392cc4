"""The frozen backbone's weights: from timm's hub, shipped with ktb, or out of a file."""

from __future__ import annotations

from importlib import resources

from ktb.errors import CheckpointError, first_line
from ktb.models.backbones.base import Backbone
from ktb.models.backbones.pyramid import Pyramid
from ktb.models.backbones.swin import FrozenSwin
from ktb.models.backbones.vit import ViT
from ktb.models.parts import Spec
from ktb.models.segmentor import backbone_of
from ktb.weights.files import read_state_dict
from ktb.weights.hub import prepare_hub_client
from ktb.weights.offline import PACKAGE, offline_state
from ktb.weights.states import StateDict, load_exactly
from ktb.weights.tensor_names import backbone_to_timm
from ktb.weights.timm_names import from_timm_names

OPENMMLAB_SWIN_B = "swin_base_patch4_window12_384_22k_20220317-e5c09f74.pth"


def load_backbone(spec: Spec, weights: str, *, name: str, timm_name: str | None = None) -> Backbone:
    """A backbone with its weights.

    Args:
        spec: the backbone that the weights must fit, its class and settings.
        weights: "hub" (fetched by timm), "bundled" (shipped with ktb), "offline" (of a Python package, for
            efficientnet_lite0), "random", or the path of a file in timm,
            Microsoft, OpenMMLab or Hugging Face naming; of a backbone of the user's own, in its own; or a checkpoint
            or whole bundle of ktb.
        name: the backbone's name, for messages and for the bundled file.
        timm_name: the model on timm's hub.

    Raises:
        CheckpointError: no network and no file, an unreadable file, or weights that do not fit.
        ValueError: there is no backbone as described.
    """
    backbone = backbone_of(spec)
    if weights == "random":
        return backbone
    translated = isinstance(backbone, FrozenSwin | Pyramid | ViT)
    if weights in ("bundled", "offline") and not translated:
        raise CheckpointError(
            f"backbone.weights={weights}: none of {spec['_target_']} come with ktb; pass backbone.weights=FILE, with "
            "its own names, or backbone.weights=random"
        )
    if weights == "hub":
        where, state = f"timm hub model {timm_name}", _from_hub(name, timm_name)
    elif weights == "offline":
        where, state = f"the package {PACKAGE}", offline_state()
    elif weights == "bundled":
        file = resources.files("ktb") / "weights" / f"{name}.safetensors"
        with resources.as_file(file) as path:
            where, state = str(path), read_state_dict(path)
    else:
        where, state = weights, read_state_dict(weights)
        if not isinstance(backbone, FrozenSwin):  # which finds its names in files of whole models itself
            state = _of_model(backbone, state)
    try:
        if isinstance(backbone, Pyramid | ViT):
            state = from_timm_names(backbone, state)
        elif translated:
            state = backbone_to_timm(state)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    load_exactly(backbone, {k: v.float() for k, v in state.items()}, where)
    return backbone


def _of_model(backbone: Backbone, state: StateDict) -> StateDict:
    """The backbone's part of a checkpoint or whole bundle of ktb, by the backbone's names; other files as they are."""
    for prefix in ("model.backbone.", "backbone."):
        found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if found.keys() >= backbone.state_dict().keys():
            return found
    return state


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
