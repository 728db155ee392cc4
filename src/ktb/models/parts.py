"""Parts of a model out of plain values: a class, named by `_target_`, and its settings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

Spec = Mapping[str, Any]
"""`_target_`, the dotted name of a class, and settings for its constructor."""


def class_of(spec: Spec) -> Any:
    """The class that a spec names.

    Raises:
        ValueError: there is no such class.
    """
    target = str(spec["_target_"])
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{target} cannot be imported: {error}") from None
    if not inspect.isclass(found):
        raise ValueError(f"{target} is not a class")
    return found


def build(spec: Spec, *given: Any, **also: Any) -> Any:
    """The part that a spec describes.

    Args:
        spec: its class and settings.
        given, also: arguments that do not come from the settings.

    Raises:
        ValueError: there is no such class, or it does not take these settings.
    """
    cls = class_of(spec)
    settings = {key: value for key, value in spec.items() if key != "_target_"}
    try:
        inspect.signature(cls).bind(*given, **also, **settings)
    except TypeError as error:
        raise ValueError(f"{spec['_target_']}: {error}") from None
    return cls(*given, **also, **settings)


GIVEN = ("modalities", "backbone", "channels", "stage", "stride", "num_classes")
"""Arguments of parts that the model gives them."""


def in_full(spec: Spec) -> dict[str, Any]:
    """A spec with all settings of its class, as plain values, without those that only say how weights start (`START`
    of the class)."""
    cls = class_of(spec)
    defaults = {
        name: p.default
        for name, p in inspect.signature(cls).parameters.items()
        if p.default is not p.empty and name not in GIVEN
    }
    start = getattr(cls, "START", ())
    return {key: plain(value) for key, value in {**spec, **defaults, **spec}.items() if key not in start}


def plain(value: Any) -> Any:
    """Nested mappings and lists as JSON has them: tuples are lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def completed(spec: Spec | None, default: Spec) -> dict[str, Any]:
    """A spec in full: one without `_target_` changes settings of the default part."""
    given = dict(spec or {})
    return given if "_target_" in given else {**default, **given}
