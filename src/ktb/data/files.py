"""Files read whole, as bytes or as text; where one is missing, the name that it probably has instead."""

from __future__ import annotations

import codecs
import errno
import stat
from pathlib import Path

from ktb.errors import DataError, did_you_mean, first_line, is_out_of_memory
from ktb.io import entries, existing, is_link_loop

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".npz", ".exr")
"""Endings of the files that are taken out of a folder; what they hold, their bytes say."""

UNREAD_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hdr", ".jp2", ".jxl", ".pfm", ".pgm", ".ppm", ".webp",
)  # fmt: skip
"""Endings of pictures that are not read; whoever leaves them in a folder expects something of them."""


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        DataError: it does not exist (a name that differs only in case or spelling is suggested), cannot be read, is
            empty, or is a pipe or another kind of file whose reading might never end.
    """
    path = existing(path)
    try:
        check_ends(path)
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file{similar(path)}") from None
    except OSError as error:
        what = "a readable file" if error.errno != errno.ELOOP else "a file, found a circle of links (a symlink loop)"
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {what}") from None
    if not data:
        raise DataError(f"{path}: the file is empty (0 bytes); copy or download it again")
    return data


def check_ends(path: Path) -> None:
    """Check that whoever reads a file comes to its end.

    Raises:
        DataError: it is a pipe, a socket or a device.
        OSError: it is not there, or cannot be asked for its kind.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise DataError(f"{path}: is a {kind}; expected a file with something in it: remove it, or name another")


def read_text(path: Path) -> str:
    """The whole file as text: UTF-8, or UTF-16 with a byte order mark, as some programs on Windows write it.

    Raises:
        DataError: it cannot be read (see `read_bytes`) or is in another encoding, or no text at all.
    """
    data = read_bytes(path)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path}: is no text in UTF-8; expected a text file: save it again in this encoding")
    return text


def unreadable(path: Path, what: str, error: BaseException, remedy: str) -> DataError:
    """What to say of a file that a library could not decode.

    Args:
        path: the file.
        what: what it then is, such as "damaged image".
        error: of the library.
        remedy: what helps, unless there was too little memory.
    """
    if is_out_of_memory(error):
        what = "there is too little memory to read it"
        remedy = "use fewer workers (dataset.num_workers, --workers), or close other programs"
    said = getattr(error, "err", "") or first_line(error)  # OpenCV's, without the place in its sources
    return DataError(f"{path}: {what} ({said}); {remedy}")


def similar(path: Path) -> str:
    """A remedy for a path that does not exist: the existing name it was probably meant to be, or where it ends.

    Looks at the first component that is missing, so a folder in the wrong case is named as such.
    """
    if is_link_loop(path):
        return "; it is a circle of symbolic links (a symlink loop)"
    if path.exists():
        return ""
    if path.is_symlink():
        return f"; it is a link to {path.readlink()}, and nothing is there"
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    folder = missing.parent
    try:
        names = [entry.name for entry in entries(folder)]
    except OSError:
        return f"; {folder} is not a folder that can be listed"
    same = [name for name in names if name.casefold() == missing.name.casefold()]
    if same:
        return f"; {folder} has {same[0]!r}, not {missing.name!r}: upper and lower case matter, rename it"
    # Names that differ only in their numbers are other frames, not misspellings of this one.
    words = [name for name in names if _without_digits(name) != _without_digits(missing.name)]
    where = "" if missing == path else f"; {folder} has no {missing.name!r}"
    return where + did_you_mean(missing.name, words)


def _without_digits(name: str) -> str:
    return "".join(c for c in name if not c.isdigit())
