"""Checkpoints and bundles of earlier versions, put into today's names when they are read.

Before the parts of a model could be chosen, a model's description was Swin's numbers and a few settings of the paper's
parts, and MAPA's parameters stood beside those of fusion and heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ktb.config.moved import with_current_targets
from ktb.models.segmentor import FUSION, HEAD, PEFT, SIDE_HEAD

_FUSIONS = {"dscf": FUSION, "sum": {"_target_": "ktb.models.fusion.simple.PlainSum"}}


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint or bundle of any version as today's would be.

    Args:
        content: with "ktb" and "state_dict", see `ktb.weights.files.is_ours`. It may come from anywhere: what can't be
            understood is left as it is, for whoever builds the model to refuse.
    """
    about = content["ktb"]
    model = about.get("model")
    if not isinstance(model, Mapping):
        return dict(content)
    if "arch" not in model:
        return {**content, "ktb": {**about, "model": with_current_targets(dict(model))}}
    state = {_renamed(name): value for name, value in content["state_dict"].items()}
    return {**content, "ktb": {**about, "model": upgraded_config(model)}, "state_dict": state}


def upgraded_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's description by Swin's numbers (`arch`) and settings of the paper's parts, as today's `config`."""
    rest = dict(model)
    arch = rest.pop("arch")
    head, side = rest.pop("head_dim", 512), rest.pop("side_head_dim", 256)
    peft = PEFT if rest.pop("prompts", True) else {**PEFT, "prompts": False}
    fusion = rest.pop("fusion", "dscf")
    side_heads = rest.pop("side_heads", True)
    return {
        "backbone": {"_target_": "ktb.models.backbones.swin.FrozenSwin", **(arch if isinstance(arch, Mapping) else {})},
        **rest,
        "peft": dict(peft),
        "fusion": dict(_FUSIONS.get(fusion, {"_target_": fusion}) if isinstance(fusion, str) else {"_target_": "?"}),
        "head": {**HEAD, "width": head},
        "side_head": {**SIDE_HEAD, "width": side} if side_heads else None,
    }


def _renamed(name: Any) -> Any:
    """The name of a tensor today: MAPA's parameters belong to the PEFT method."""
    if isinstance(name, str) and name.startswith(("model.prompts.", "model.adapters.")):
        return f"model.peft.{name.removeprefix('model.')}"
    return name
