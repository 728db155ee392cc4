"""What a dotted name such as `my_lab.MyFusion` stands for: the one place where code is imported by name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ktb.errors import PartError, did_you_mean, first_line


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
    except Exception as error:  # whatever a user's file raises while it is read
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise PartError(_no_module(error.name)) from None
        raise PartError(f"{name} cannot be imported: {told(error, top)}") from None


def look_in_working_directory(top: str) -> None:
    """Let a module or package that lies in the working directory be found, behind all that is installed."""
    here = Path.cwd()
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
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] in packages:
            place = frame.f_code.co_filename, line
    where = f" ({place[0]}, line {place[1]})" if place else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"
