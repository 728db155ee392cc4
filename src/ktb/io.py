"""Files and folders: whole or not there, as a person sees them, held by one process, found where a path means."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ktb.errors import ConfigError


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with a leading `~` or `~user` replaced by that home, unlike `Path.expanduser` also where there is none:
    then it stays as it is, as in a shell. What exists in another form of Unicode is meant by it, see `existing`."""
    return existing(Path(os.path.expanduser(path)))  # noqa: PTH111


def path_given(argument: str, value: object) -> str | Path:
    """The path, or name, that a program gives to a function; `pathlib` says of others neither which nor what is wanted.

    Args:
        argument: of the function, for messages.
        value: what it was given.

    Raises:
        ConfigError: no text or path, or an empty one, which would mean the current folder.
    """
    if isinstance(value, os.PathLike) and isinstance(path := os.fspath(value), str):
        return Path(path)
    if not isinstance(value, str):
        raise ConfigError(f"{argument}={value!r}: expected a path, as text or pathlib.Path")
    if not value.strip():
        raise ConfigError(f"{argument} is empty, which would mean the current folder; is a variable not set?")
    return value


def is_link_loop(path: Path) -> bool:
    """Whether symbolic links on the way to `path` lead in a circle, so that there is no file at their end."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one of those that hold it: whoever searches it as well never comes to an end."""
    try:
        if not folder.is_symlink():
            return False
        target = folder.resolve()
        return any(parent.resolve() == target for parent in folder.absolute().parents)
    except (OSError, RuntimeError):  # such as a circle of links; there is no folder at its end
        return True


def absent(path: Path, what: str) -> str:
    """`what`, such as "no such file", unless it is a circle of symbolic links that hides it."""
    return "a circle of symbolic links (a symlink loop)" if is_link_loop(path) else what


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block succeeds and disappears when it does not.

    The block makes a file or a folder of that name.

    Raises:
        OSError: it can't be written; `filename` is `path`, also where a library reports it in another way.
    """
    temporary = path.with_name(f".{_short(path.name)}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except Exception as error:
        failure = write_failure(error)
        if failure is None:
            raise
        named = str(failure.filename)
        if failure.filename is None or failure.filename2 == str(temporary):
            failure.filename = str(path)
        elif named.startswith(str(temporary)):  # or of a file in the folder that the block makes
            failure.filename = str(path) + named.removeprefix(str(temporary))
        if failure is error:
            raise
        raise failure from error
    finally:
        with suppress(OSError):  # such as a folder that is a file, which the block has met before
            if temporary.is_dir():
                shutil.rmtree(temporary)
            temporary.unlink(missing_ok=True)


def _short(name: str) -> str:
    """A name that leaves room for more of it, as most file systems end at 255 bytes; its ending stays."""
    if len(os.fsencode(name)) <= 200:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f"{name[:40]}~{digest}{Path(name).suffix[-10:]}"


# --- a folder is what a person sees ----------------------------------------------------------------------------------


OF_THE_SYSTEM = (
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information",
    "#recycle", "lost+found", "icon\r",
)  # fmt: skip
"""What Windows, macOS, Linux and network storage put into folders without a dot before the name."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: .DS_Store, ._1.png, .git, Thumbs.db, ..."""
    return name.startswith(".") or name.casefold() in OF_THE_SYSTEM


def normal(name: str) -> str:
    """`name` in the form of Unicode in which equal names are equal; macOS writes ü as u and two dots."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """The files and folders in `folder` that a person sees, by name.

    Raises:
        OSError: it cannot be listed.
    """
    with os.scandir(folder) as found:
        return sorted((entry for entry in found if not is_hidden(entry.name)), key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere or in a circle; reading the file will say so
        return False


def files_below(folder: Path) -> Iterator[Path]:
    """The files below `folder` that a person sees, by name; links are followed, but not in circles.

    Raises:
        OSError: a folder in it cannot be listed.
    """
    seen = set()
    pending = [folder]
    while pending:
        here = pending.pop()
        seen.add(here.resolve())
        files, inside = list[Path](), list[Path]()
        for entry in entries(here):
            (inside if is_folder(entry) else files).append(Path(entry))
        yield from files
        # A link to a folder around this one would take in all that lies beside it too.
        pending += [path for path in reversed(inside) if path.resolve() not in seen and not leads_back(path)]


def is_empty(folder: Path) -> bool:
    """Whether a person sees nothing in `folder`."""
    return not entries(folder)


def existing(path: Path) -> Path:
    """`path`, or, where it does not exist, what has the same name in another form of Unicode."""
    if str(path).isascii() or path.exists():
        return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        if not (found / part).exists() and not part.isascii():
            try:
                same = [entry.name for entry in found.iterdir() if normal(entry.name) == normal(part)]
            except OSError:
                return path
            part = same[0] if same else part
        found /= part
    return found if found.exists() else path


def write_failure(error: BaseException) -> OSError | None:
    """The failed write behind an exception, which libraries raise in ways of their own; None: it is another error."""
    text = str(error)
    if isinstance(error, OSError):
        if error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", text):  # NumPy
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return error
    if type(error).__name__ == "SafetensorError" and (found := re.search(r"\(os error (\d+)\)", text)):
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return None


@contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """Hold a file or a folder for this process alone.

    The lock ends with the block and with the process, however that ends; a command that it starts and that inherits
    the descriptor holds it as well, but not a forked copy of it, such as one that loads data. On Windows the first byte
    of a locked file can be read by nobody else, and a folder is held by a file `.lock` in it.

    Yields:
        The open descriptor that holds the lock; None on a system or a file system without locks.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be made.
    """
    from filelock import lock_descriptor  # 50 ms, which `import ktb` does not need

    folder = path.is_dir()
    if folder and sys.platform == "win32":  # only a file can be opened there
        path, folder = path / ".lock", False
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        try:
            held: bool | None = lock_descriptor(descriptor, blocking=False)
        except OSError:  # a system or a file system, such as some network drives, without locks
            held = None
        if held is False:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
        yield descriptor if held else None
    finally:
        if descriptor in _held:  # a forked copy of this process has closed it already
            _held.discard(descriptor)
            os.close(descriptor)


_held: set[int] = set()


def _let_go() -> None:
    """In a forked copy of this process, which may outlive it for some seconds and would hold its locks so long."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
