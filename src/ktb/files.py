"""Files that are there whole or not at all, and folders as a person sees them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block succeeds and disappears when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):  # such as a folder that is a file, which the block has met before
            temporary.unlink(missing_ok=True)


# --- a folder is what a person sees ----------------------------------------------------------------------------------


OF_THE_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "icon\r")
"""What Windows, macOS and network storage put into folders without a dot before the name."""


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


def files_below(folder: Path) -> Iterator[Path]:
    """The files below `folder` that a person sees, by name; links are followed, but not in circles."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        seen.add(Path(here).resolve())
        folders[:] = sorted(n for n in folders if not is_hidden(n) and Path(here, n).resolve() not in seen)
        yield from (Path(here, name) for name in sorted(names) if not is_hidden(name))


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
