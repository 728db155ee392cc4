"""Parts of a model out of plain values: a class, named by `_target_`, and its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ktb.errors import KTBError, PartError, did_you_mean
from ktb.models.imports import imported_class, place_of, told
from ktb.models.setting_types import misfit, whole_numbers

Spec = Mapping[str, Any]
"""`_target_`, the dotted name of a class, and settings for its constructor."""


def class_of(spec: Spec) -> type[Any]:
    """The class that a spec names.

    Raises:
        PartError: there is no such class.
    """
    return imported_class(str(spec["_target_"]))


def build(spec: Spec, *given: Any, **also: Any) -> Any:
    """The part that a spec describes.

    Args:
        spec: its class and settings.
        given, also: arguments that do not come from the settings.

    Raises:
        PartError: there is no such class, or it does not take these settings.
    """
    cls, target = class_of(spec), str(spec["_target_"])
    settings = {key: value for key, value in spec.items() if key != "_target_"}
    check_settings(cls, target, settings, given, also)
    settings |= whole_numbers(cls, settings)
    return made(lambda: cls(*given, **also, **settings), cls, target, settings)


def check_settings(
    cls: type[Any],
    target: str,
    settings: Mapping[str, Any],
    given: Sequence[Any] = (),
    also: Mapping[str, Any] | None = None,
    *,
    complete: bool = True,
) -> None:
    """Refuse settings that a class's constructor does not take.

    Args:
        cls: the class.
        target: its dotted name, for messages.
        settings: of the configuration.
        given, also: arguments that do not come from the settings, by place and by name.
        complete: whether nothing will be added to them.

    Raises:
        PartError: naming the setting that is unknown, lacks a value or has one of another type, and what was
            probably meant.
    """
    also = also or {}
    try:
        signature = inspect.signature(cls)
    except ValueError:  # some classes of C have none
        return
    try:
        signature.bind_partial(*given, **also)
    except TypeError:
        names = [*(["..."] * len(given)), *(f"{name}=..." for name in also)]
        raise PartError(
            f"{target} cannot be built: ktb calls {cls.__name__}({', '.join(names)}), and its "
            f"constructor takes {signature}"
        ) from None
    takes = _settings_of(signature, len(given), also)
    known = [name for name, p in takes.items() if p.kind is not p.VAR_KEYWORD]
    unknown = [name for name in settings if name not in known]
    if unknown and len(known) == len(takes):
        raise PartError(_takes_no(target, unknown[0], known))
    needed = [name for name in known if takes[name].default is inspect.Parameter.empty]
    if complete and (lacking := [name for name in needed if name not in settings]):
        raise PartError(f"{target} needs a value for its setting {lacking[0]!r}")
    if wrong := misfit(cls, settings):
        raise PartError(f"{target}: {wrong}")


def _takes_no(target: str, name: str, known: Sequence[str]) -> str:
    return f"{target} takes no setting {name!r}{did_you_mean(name, known)} (it takes {', '.join(known) or 'none'})"


def refused_setting(cls: type[Any], target: str, settings: Mapping[str, Any], error: BaseException) -> PartError | None:
    """What an error says in our words, if it is that of a base class which was handed a setting that it does not take.

    Args:
        cls: the class.
        target: its dotted name, for messages.
        settings: what it was built with.
        error: as caught.
    """
    known = [name for name in accepted(cls) if name not in GIVEN]
    unknown = [name for name in settings if name not in known and f"argument '{name}'" in str(error)]
    return PartError(_takes_no(target, unknown[0], known)) if unknown and isinstance(error, TypeError) else None


def accepted(cls: type[Any]) -> list[str]:
    """The arguments that a constructor names, and where it hands on others (`**rest`) those of its base classes."""
    from torch import nn  # here: `ktb-train --help` reads this module and must not wait for torch

    names: list[str] = []
    for base in cls.__mro__:
        if base is nn.Module:
            break
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]  # without self
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(dict.fromkeys(names))


def made(make: Callable[[], Any], cls: type[Any], target: str, settings: Mapping[str, Any]) -> Any:
    """What a class's constructor makes; what one of the user's own raises is told in one line.

    Args:
        make: calls it.
        cls: the class.
        target: its dotted name, for messages.
        settings: what it is called with out of the configuration.

    Raises:
        PartError: a setting that only the constructor of its base class has refused, or any error of a class that is
            not of ktb; a module that is not fully built.
    """
    from torch import nn  # here: see `accepted`

    top = target.partition(".")[0]
    try:
        part = make()
        if isinstance(part, nn.Module):
            refuse_unfinished(part, target)
        return part
    except KTBError:
        raise
    except Exception as error:
        if refused := refused_setting(cls, target, settings, error):
            raise refused from None
        if top == "ktb":
            raise
        raise PartError(f"{target} cannot be built: {told(error, top)}") from None


def refuse_unfinished(part: Any, target: str) -> None:
    """Refuse a module that PyTorch has not set up, or that has parameters without a shape: no checkpoint would fit.

    Args:
        part: the module; layers in it are looked at too.
        target: its dotted name.

    Raises:
        PartError: saying which.
    """
    from torch.nn.parameter import is_lazy

    left = [part]
    while left:
        layer = left.pop()
        where = place_of(type(layer), "__init__")
        said = f"{target} cannot be built: {f'its {type(layer).__name__}: ' if layer is not part else ''}"
        if "_modules" not in vars(layer):
            raise PartError(f"{said}the constructor does not call super().__init__(){where}")
        if lazy := [name for name, p in layer._parameters.items() if p is not None and is_lazy(p)]:
            raise PartError(
                f"{said}{lazy[0]} has no shape; say how many channels it takes"
                f"{where or place_of(type(part), '__init__')}"
            )
        left += list(layer.children())


def _settings_of(signature: inspect.Signature, places: int, names: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a constructor that are left for settings, a `**rest` among them."""
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {p.name for p in positional[:places]} | set(names)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p for p in parameters if p.kind in kinds and p.name not in taken}


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
