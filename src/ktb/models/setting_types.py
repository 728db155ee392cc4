"""Whether the values of settings are of the types that a constructor or function states for them.

Python does not look: `masking="off"` would count as true, and `None` fails far away from its cause, or not at all.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}


def misfit(named: Callable[..., Any], settings: Mapping[str, Any]) -> str | None:
    """The first setting whose value is of another type than stated, in words: `masking=off: expected true or false`.

    Only what is certainly wrong is refused: null, true, a number, a text, a list or a mapping that all stated types
    rule out. A default may be given whatever is stated of it.

    Args:
        named: a class, or a function.
        settings: its keyword arguments. References of a configuration (`${...}`) are not followed and not judged.

    Returns:
        None: nothing is wrong.
    """
    stated = _stated(named)
    for name, value in settings.items():
        hint, default = stated.get(name, (Any, inspect.Parameter.empty))
        if _admits(hint, value):
            continue
        if value is not default and (value != default or isinstance(value, bool) != isinstance(default, bool)):
            return f"{name}={_shown(value)}: expected {_words(hint)}"
    return None


def whole_numbers(named: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of which whole numbers are wanted and that are whole but written as others (1e3 is a float in YAML).

    Args:
        named: a class, or a function.
        settings: its keyword arguments, which `misfit` has nothing to say of.

    Returns:
        Those settings alone, as whole numbers.
    """
    stated = _stated(named)
    wanted = {name: _whole(stated[name][0], value) for name, value in settings.items() if name in stated}
    return {name: value for name, value in wanted.items() if repr(value) != repr(settings[name])}


def _whole(hint: Any, value: Any) -> Any:
    """A value of that type; whole numbers in a list too."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if isinstance(value, float) and value.is_integer():
        return int(value) if int in members and float not in members else value
    if isinstance(value, list | tuple):
        inner = {item for member in members for item in get_args(member) if item is not Ellipsis}
        return [_whole(int, item) for item in value] if inner == {int} else value
    return value


def above_zero(part: str, **settings: float | Sequence[float]) -> None:
    """Refuse settings of a part that must be above zero, each a number or several.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in settings.items():
        for number in value if isinstance(value, Sequence) else [value]:
            if not number > 0:
                raise ValueError(f"{name} of {part} must be above 0, got {value}")


def _stated(named: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Parameter → (type, default); for a constructor that hands arguments on also those of its base classes."""
    if not inspect.isclass(named):
        return _parameters(named)
    found: dict[str, tuple[Any, Any]] = {}
    for base in named.__mro__:
        if base is object or "__init__" not in vars(base):
            continue
        init = vars(base)["__init__"]
        found = {**_parameters(init), **found}
        if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(init).parameters.values()):
            break
    return found


def _parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    try:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError, AttributeError):  # names only imported for type checkers; classes of C
        return {}
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {n: (hints[n], p.default) for n, p in parameters.items() if n in hints and p.kind not in several}


def _admits(hint: Any, value: Any) -> bool:
    """Whether a value may be meant by a type; True where that can't be told."""
    if hint in (Any, object):  # Any is a class
        return True
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_admits(member, value) for member in get_args(hint))
    if origin is Annotated:
        return _admits(get_args(hint)[0], value)
    if isinstance(value, str) and ("${" in value or value == "???"):
        return True
    if origin is Literal:
        return any(value == member and type(value) is type(member) for member in get_args(hint))
    if value is None:
        return hint in (None, type(None)) or not (inspect.isclass(hint) or origin is not None)
    if hint is bool:
        return isinstance(value, bool) or value in (0, 1)
    if hint is int and isinstance(value, float):
        return value.is_integer()  # 1e3 is a float in YAML
    if hint in (int, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return not isinstance(value, bool | list | dict)
    if hint in (None, type(None)):
        return False
    kind = origin or hint
    if not inspect.isclass(kind):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if issubclass(kind, Sequence):
        return _admits_all(kind, get_args(hint), value)
    return True


def _admits_all(kind: type[Any], members: tuple[Any, ...], value: Any) -> bool:
    """The same for a list or a tuple."""
    if isinstance(value, str | bool | int | float | Mapping):
        return False
    if not isinstance(value, list | tuple) or not members:
        return True
    if kind is tuple and members[-1] is not Ellipsis:
        return len(members) == len(value) and all(map(_admits, members, value))
    return all(_admits(members[0], item) for item in value)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _words(hint: Any) -> str:
    """A type in words."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    said: list[str] = []
    for member in members:
        if get_origin(member) is Literal:
            said += [_shown(choice) for choice in get_args(member)]
        else:
            said.append(_WORDS.get(member) or inspect.formatannotation(member).replace("collections.abc.", ""))
    said.sort(key=lambda word: word == "null")  # last
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} or {said[-1]}"
