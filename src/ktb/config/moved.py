"""Where classes and settings are now that older checkpoints, run folders and users' YAML files have where they were.

A `_target_` is the only place where a file names Python code; everything that reads one asks here.
"""

from __future__ import annotations

from typing import Any

from ktb.errors import ConfigError, did_you_mean

_MOVED = {
    "ktb.engine.losses": "ktb.losses.pixel",
    "ktb.engine.losses.SelfTeachingLoss": "ktb.losses.self_teaching.SelfTeachingLoss",
    "ktb.losses.pixel.SelfTeachingLoss": "ktb.losses.self_teaching.SelfTeachingLoss",
    "ktb.engine.metrics_file": "ktb.engine.callbacks.metrics_file",
    "ktb.data.nyu": "ktb.data.sets.nyu",
    "ktb.data.sunrgbd": "ktb.data.sets.sunrgbd",
    "ktb.data.mfnet": "ktb.data.sets.mfnet",
    "ktb.data.pst900": "ktb.data.sets.pst900",
    "ktb.data.mcubes": "ktb.data.sets.mcubes",
    "ktb.data.deliver": "ktb.data.sets.deliver",
    "ktb.data.folder": "ktb.data.sets.folder",
    "ktb.data.synthetic": "ktb.data.sets.synthetic",
}
"""Old module → the module that holds its classes now; old name of one class → its name now, which counts more."""


def current_target(target: str) -> str:
    """The dotted name of a class today, from the name that it had in any version of ktb."""
    module, _, name = target.rpartition(".")
    return _MOVED.get(target) or (f"{_MOVED[module]}.{name}" if module in _MOVED else target)


def with_current_targets(node: Any) -> Any:
    """A copy of plain nested dictionaries and lists in which every `_target_` is current."""
    if isinstance(node, dict):
        return {
            key: current_target(value) if key == "_target_" and isinstance(value, str) else with_current_targets(value)
            for key, value in node.items()
        }
    return [with_current_targets(value) for value in node] if isinstance(node, list) else node


_FUSIONS = {
    "dscf": {"name": "dscf", "_target_": "ktb.models.fusion.dscf.DSCF"},
    "sum": {"name": "sum", "_target_": "ktb.models.fusion.simple.PlainSum"},
}
_SWIN = {"_target_": "ktb.models.backbones.swin.FrozenSwin"}
_PAPER = {
    "peft": {"name": "mapa", "_target_": "ktb.models.peft.mapa.MAPA"},
    "fusion": _FUSIONS["dscf"],
    "head": {"name": "mlp", "_target_": "ktb.models.heads.mlp.MLPHead"},
}


def with_current_settings(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of any version, with classes and settings where they are now.

    The parts of a model were settings of `model` before they had groups of their own, and the schedule of the learning
    rate of `optim`.

    Args:
        config: plain, composed or out of a run; references (`${...}`) are left alone.

    Returns:
        a copy; the older settings of `model` are gone from it where they had a value, those of `optim` in any case.

    Raises:
        ConfigError: a fusion that there was not.
    """
    config = _with_schedule(with_current_targets(config))
    if isinstance(backbone := config.get("backbone"), dict) and "embed_dim" in backbone:
        config["backbone"] = _SWIN | backbone
    model = config.get("model")
    if not isinstance(model, dict):
        return config
    config["model"] = model = dict(model)
    older = {key: model.pop(key) for key in _OLDER if model.get(key) is not None}
    if not older and "peft" in config:
        return config
    for group, part in _PAPER.items():
        config[group] = dict(config.get(group) or part)
    if "fusion" in older and older["fusion"] != config["fusion"].get("name"):
        if older["fusion"] not in _FUSIONS:
            meant = did_you_mean(str(older["fusion"]), list(_FUSIONS), cutoff=0.5, before=": ")
            raise ConfigError(f"model.fusion={older['fusion']}: expected dscf or sum{meant}")
        config["fusion"] = dict(_FUSIONS[older["fusion"]])
    if "prompts" in older:
        config["peft"]["prompts"] = older["prompts"]
    for key, name in (("head_dim", "width"), ("head_init", "init")):
        if key in older:
            config["head"][name] = older[key]
    if "side_head_dim" in older:
        config["head"]["side"] = {**(config["head"].get("side") or {}), "width": older["side_head_dim"]}
    return config


def _with_schedule(config: dict[str, Any]) -> dict[str, Any]:
    """The schedule of the learning rate was a part of `optim`, which was always AdamW, before both were groups."""
    if not isinstance(optim := config.get("optim"), dict):
        return config
    older = {key: optim[key] for key in _OF_SCHEDULE if optim.get(key) is not None}
    optim = {key: value for key, value in optim.items() if key not in _OF_SCHEDULE}
    schedule = config.get("schedule") or {"name": "poly", "_target_": "ktb.engine.schedules.Poly"}
    if not isinstance(schedule, dict):
        return config
    adamw = {} if "_target_" in optim else {"name": "adamw", "_target_": "torch.optim.AdamW"}
    return {**config, "optim": adamw | optim, "schedule": schedule | older}


_OF_SCHEDULE = ("warmup_epochs", "warmup_ratio", "power")
"""Settings of `optim` that belong to the schedule now."""

_OLDER = ("fusion", "prompts", "head_dim", "side_head_dim", "head_init")
"""Settings of `model` that belong to its parts now."""

RENAMED = {
    "model.fusion": "fusion",
    "model.prompts": "peft.prompts",
    "model.head_dim": "head.width",
    "model.side_head_dim": "head.side.width",
    "model.head_init": "head.init",
    **{f"optim.{key}": f"schedule.{key}" for key in _OF_SCHEDULE},
}
"""The same as names of settings: then, now."""
