"""State dicts of timm's models, and of their authors, in the names of a backbone that is made of such a model."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ktb.errors import CheckpointError
from ktb.models.backbones.base import Backbone
from ktb.models.backbones.of_timm import OfTimm
from ktb.models.backbones.pyramid import Pyramid
from ktb.models.backbones.swin import FrozenSwin
from ktb.models.backbones.timm_model import create
from ktb.models.backbones.vit import ViT
from ktb.weights.states import StateDict

PREFIXES = ("", "model.", "backbone.", "backbone.model.", "encoder.", "visual.trunk.")
"""What stands before timm's names in files of models that contain one of timm's."""


def from_timm_names(backbone: Pyramid | ViT, state: Mapping[str, Tensor]) -> StateDict:
    """A state dict in the backbone's names, without what the backbone leaves out (classifier, last norm).

    Args:
        backbone: only names are taken from it.
        state: in timm's names, with one of `PREFIXES` before all of them, or in the names of the model's authors where
            timm has a function that translates them.

    Returns:
        tensors by the backbone's names; names that are unknown are kept, so that loading can list them.

    Raises:
        CheckpointError: not one tensor of it is the backbone's.
    """
    expected = {name.removeprefix("model.") for name in backbone.state_dict()}

    def named(given: Mapping[str, Tensor]) -> StateDict:
        cuts = [{k.removeprefix(p): v for k, v in given.items() if k.startswith(p)} for p in PREFIXES]
        cut = max(cuts, key=lambda one: len(expected & one.keys()))  # of equal ones the first, of the shortest prefix
        return {k: v for k, v in cut.items() if k in expected or k.partition(".")[0] not in backbone.left_out}

    found = named(state)
    if found.keys() != expected:
        translated = named(_translated(backbone, state))
        found = min(found, translated, key=lambda one: len(one.keys() ^ expected))
    if not expected & found.keys():
        raise CheckpointError(
            f"not the weights of timm's {backbone.config['timm_name']}; its first name is {next(iter(state), '-')!r}, "
            f"expected are names like {min(expected)!r}"
        )
    return {f"model.{name}": value for name, value in found.items()}


def to_timm_names(backbone: Backbone) -> StateDict:
    """The backbone's state dict in timm's names; of what timm's model has besides (last norm, classifier) it has
    none.

    Raises:
        CheckpointError: the backbone is not made of a model of timm.
    """
    if not isinstance(backbone, FrozenSwin | OfTimm):
        cls = type(backbone)
        raise CheckpointError(
            f"{cls.__module__}.{cls.__qualname__} is not made of a model of timm: it has its own names"
        )
    return {name.removeprefix("model."): value for name, value in backbone.state_dict().items()}


def _translated(backbone: Pyramid | ViT, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state as timm itself translates files of the model's authors; as it is where timm can't."""
    # No public function of timm gives this without loading; each module has its own under this name.
    translate = getattr(importlib.import_module(type(backbone.model).__module__), "checkpoint_filter_fn", None)
    if translate is None:
        return state
    with torch.device("meta"):
        whole = create(backbone.config["timm_name"], 0.0, backbone.config["options"])
    try:
        found = translate(dict(state), whole)
    except Exception:  # names that its rules do not expect, in whatever form
        return state
    return {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else state
