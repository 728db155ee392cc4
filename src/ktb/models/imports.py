"""What a dotted name such as `my_lab.MyFusion` stands for: the one place where code is imported by name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ktb.errors import PartError, did_you_mean, first_line

_LIBRARIES = ("ktb", "torch", "torchmetrics", "lightning", "timm")
_own: set[str] = set()


def own_packages() -> tuple[str, ...]:
    """The packages and modules of somebody's own that a class was looked for in so far: first parts of dotted names."""
    return tuple(sorted(_own))


def imported_class(target: str) -> type[Any]:
    """The class of a dotted name.

    A module that is not installed is looked for in the working directory too, where the user's own file most often
    lies: console scripts do not have it on their path.

    Raises:
        PartError: no such module, one that fails when it is imported, or no such class in it.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in target.split(".")):
        raise PartError(f"{target or 'an empty text'} is no dotted name of a class, such as my_lab.MyFusion")
    module = _imported(module_name)
    found = getattr(module, name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise PartError(f"{module_name} ({_file_of(module)}) has no class {name}{did_you_mean(name, classes)}")
    if not inspect.isclass(found):
        raise PartError(f"{target} is not a class but of type {type(found).__name__}")
    return found


def _imported(name: str) -> ModuleType:
    """The module of a dotted name.

    Raises:
        PartError: there is none, or it fails when it is imported.
    """
    top = name.partition(".")[0]
    look_in_working_directory(top)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a user's file raises while it is read
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise PartError(_no_module(error.name)) from None
        raise PartError(f"{name} cannot be imported: {told(error, top)}") from None


def look_in_working_directory(top: str) -> None:
    """Let a module or package that lies in the working directory be found, behind all that is installed."""
    here = Path.cwd()
    if top not in _LIBRARIES:
        _own.add(top)
    if top in sys.modules or str(here) in sys.path:
        return
    importlib.invalidate_caches()
    if importlib.util.find_spec(top) is None and ((here / f"{top}.py").is_file() or (here / top).is_dir()):
        sys.path.append(str(here))


def _no_module(name: str) -> str:
    parent, _, leaf = name.rpartition(".")
    if not parent:
        return f"there is no module {name}: it is not installed, and {Path.cwd()} has no {name}.py"
    package = sys.modules[parent]
    inside = [info.name for info in pkgutil.iter_modules(getattr(package, "__path__", ()))]
    return f"{parent} ({_file_of(package)}) has no module {leaf}{did_you_mean(leaf, inside)}"


def _file_of(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "built in")


def told(error: BaseException, *packages: str) -> str:
    """An error that code of the user's own has raised, in one line: what, and where in that code.

    Args:
        error: as caught.
        packages: the first parts of the code's dotted names.
    """
    place = None
    if isinstance(error, SyntaxError) and error.filename:
        place = error.filename, error.lineno
    place = last_line(error, packages) or place
    where = f" ({place[0]}, line {place[1]})" if place else ""
    said = (error.msg if isinstance(error, SyntaxError) else first_line(error)) if str(error).strip() else ""
    return f"{type(error).__name__}{f': {said}' if said else ''}{where}"


def raised_in_own_code(error: BaseException) -> bool:
    """Whether an error came out of code of the user's own, or of what that called."""
    return last_line(error, own_packages()) is not None


def last_line(error: BaseException, packages: Sequence[str]) -> tuple[str, int] | None:
    """File and line of the innermost call in these packages."""
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] in packages:
            place = frame.f_code.co_filename, line
    return place


def is_of_library(cls: type[Any]) -> bool:
    """Whether a class is ktb's, Python's, or of a library that parts of models are made of, and not the user's own."""
    top = cls.__module__.partition(".")[0]
    return top in _LIBRARIES or top in sys.stdlib_module_names


def place_of(cls: type[Any], method: str) -> str:
    """Where a class of the user's own is written, as the end of a message about it: " (FILE, line N)".

    Args:
        cls: the class.
        method: the one that the message is about; the line is left out where a base class in another file has it.

    Returns:
        The text; nothing for a class of ktb or PyTorch, or without a file.
    """
    if is_of_library(cls):
        return ""
    try:
        file = inspect.getfile(cls)
    except (TypeError, OSError):  # typed in
        return ""
    code = getattr(getattr(cls, method, None), "__code__", None)
    line = f", line {code.co_firstlineno}" if code is not None and code.co_filename == file else ""
    return f" ({file}{line})"
