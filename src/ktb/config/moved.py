"""Where classes are now that older checkpoints, run folders and users' YAML files name by where they were.

A `_target_` is the only place where a file names Python code; everything that reads one asks here.
"""

from __future__ import annotations

from typing import Any

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
