"""A class of the user's own in the place of a group's member: `fusion._target_=my_lab.MyFusion`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, open_dict

from ktb.config.schema import BACKBONE_FACTS
from ktb.models.imports import imported_class
from ktb.models.parts import accepted

_GROUPS = ("backbone", "peft", "fusion", "head", "loss", "optim", "schedule")
"""Groups of the parts of a model, of its loss, and of what trains it."""

_FACTS = {"backbone": (*BACKBONE_FACTS, "timm_name"), "schedule": ("interval",)}
"""Settings of a group that are not arguments of the class that it names."""


def settle_own_classes(cfg: DictConfig, given: Collection[str]) -> None:
    """Let a class that the user put in the place of a group's member have its own settings, and its own name.

    The member brings along settings of the class that it names itself. Those that the user has not written and the new
    class does not take are left out.

    Args:
        cfg: composed and checked; changed in place.
        given: the groups and settings that the user overrode.

    Raises:
        PartError: there is no such class.
    """
    for group in _GROUPS:
        node = cfg.get(group)
        if f"{group}._target_" not in given or not isinstance(node, DictConfig):
            continue
        cls = imported_class(str(node["_target_"]))
        takes = accepted(cls)
        own = (*_FACTS.get(group, ()), "name", "_target_")

        def kept(path: str, key: str, takes: Any = takes) -> bool:
            return key in takes or any(name == path or name.startswith(f"{path}.") for name in given)

        with open_dict(cfg):
            for key in [str(key) for key in node]:
                if key == "side" and group == "head":
                    side = node.side or {}
                    node.side = {k: side[k] for k in side if kept(f"head.side.{k}", str(k))}
                elif key not in own and not kept(f"{group}.{key}", key):
                    del node[key]
            if f"{group}.name" not in given:
                node["name"] = cls.__name__
            if group == "backbone" and not kept("backbone.timm_name", "timm_name"):
                node["timm_name"] = None
