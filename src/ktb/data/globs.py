"""Patterns of file names: which files below a data root match, and the key of a sample that each of them gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import has_magic
from pathlib import Path, PurePosixPath

from ktb.data.file_tree import Tree
from ktb.errors import DataError
from ktb.io import leads_back, normal


def fixed_parts(pattern: str) -> tuple[str, ...]:
    """The leading parts of a pattern's path that hold no wildcard, the file's name never among them."""
    parts = Path(pattern).parts
    first = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
    return parts[:first]


def match_files(tree: Tree, glob: str) -> dict[str, str]:
    """All files that match a pattern, by what its wildcards matched.

    Args:
        tree: what lies below the data root.
        glob: pattern below the root; `*` and `?` match within a name, `**` any folders. A suffix ".*" matches any
            suffix, which does not become part of the key.

    Returns:
        Key → file. The key joins what the wildcards matched with "/".

    Raises:
        DataError: two files have the same key.
    """
    parts = PurePosixPath(normal(glob)).parts
    files: dict[str, str] = {}

    def descend(folder: str, rest: Sequence[str], key: tuple[str, ...]) -> None:
        part, last = rest[0], len(rest) == 1
        if part == "**":
            descend(folder, rest[1:], key)
        pattern = None if part == "**" else _pattern(part, last=last)
        for name, is_folder in tree.names(folder).items():
            path = f"{folder}/{name}" if folder else name
            if pattern is None:
                if is_folder and not leads_back(tree.root / path):
                    descend(path, rest, (*key, normal(name)))
                continue
            match = pattern.fullmatch(normal(name))
            if match is None or is_folder == last:
                continue
            matched = (*key, *match.groups())
            if not last:
                descend(path, rest[1:], matched)
                continue
            joined = "/".join(matched)
            if joined in files:
                raise DataError(
                    f"{tree.root / path}: is the same sample as {files[joined]} by the pattern {glob!r} (both are "
                    f"{joined!r}); remove one, or make the pattern say which of them is meant"
                )
            files[joined] = path

    descend("", parts, ())
    return files


def _pattern(part: str, *, last: bool) -> re.Pattern[str]:
    if last and part.endswith(".*"):
        return re.compile(_wildcards(part[:-2]) + r"\.[^.]+", re.DOTALL)
    return re.compile(_wildcards(part), re.DOTALL)  # a name may hold the end of a line


def _wildcards(part: str) -> str:
    return re.sub(r"(?:\\\*)+", "(.*)", re.escape(part)).replace(r"\?", "(.)")
