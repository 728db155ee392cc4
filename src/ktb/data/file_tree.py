"""What lies below a data root."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from pathlib import Path

from ktb.data.files import similar
from ktb.errors import DataError
from ktb.io import entries, existing, is_folder, is_hidden, normal


class Tree:
    """What lies below a data root; each folder is listed once, which is much faster than a question per file.

    Raises:
        DataError: the root does not exist or is not a folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist" + similar(root)
            raise DataError(f"data root {root} {what}; set dataset.root=/path/to/the/data (or the variable KTB_DATA)")
        self.root = root
        self._listings: dict[str, dict[str, bool]] = {}
        self._normal: dict[str, dict[str, str]] = {}

    def names(self, folder: str) -> dict[str, bool]:
        """Name → whether it is a folder, of all that a person sees in `folder`; empty if there is no such folder.

        Raises:
            DataError: the folder cannot be listed, or two of its names differ in nothing that can be seen.
        """
        if folder not in self._listings:
            try:
                found = entries(existing(self.root / folder))
                self._listings[folder] = {entry.name: is_folder(entry) for entry in found}
                normals = self._normal[folder] = dict[str, str]()
                for name in self._listings[folder]:
                    if normals.setdefault(normal(name), name) != name:
                        raise DataError(
                            f"{self.root / folder}: holds two names {name!r} that differ in their Unicode form only "
                            "(composed and decomposed letters); rename or remove one of them"
                        )
            except (FileNotFoundError, NotADirectoryError):
                self._listings[folder], self._normal[folder] = {}, {}
            except OSError as error:
                remedy = "check its rights" if error.errno != errno.ELOOP else "they lead in a circle, a symlink loop"
                raise DataError(f"{self.root / folder}: cannot be listed ({error.strerror}); {remedy}") from None
        return self._listings[folder]

    def __contains__(self, file: str) -> bool:
        folder, _, name = file.rpartition("/")
        names = self.names(folder)
        name = self._normal[folder].get(normal(name), name)
        return names.get(name) is False or (is_hidden(name) and (self.root / file).is_file())

    def find(self, folders: Sequence[str], stem: str, suffixes: Sequence[str]) -> str:
        """The first file of a stem that exists, or the first that was looked for if none does.

        Args:
            folders: below the root, in the order in which they are searched.
            stem: name without suffix.
            suffixes: in the order in which they are tried.
        """
        candidates = [f"{folder}/{stem}{suffix}" for folder in folders for suffix in suffixes]
        return next((file for file in candidates if file in self), candidates[0])

    def missing(self, files: Iterable[str]) -> list[str]:
        """Those of `files` that do not exist."""
        return [file for file in files if file not in self]

    def require(self, files: Iterable[str], named_by: str, remedy: str) -> None:
        """Check that files exist.

        Args:
            files: paths below the root.
            named_by: who asks for them, for messages.
            remedy: what helps beside adding them.

        Raises:
            DataError: one of them does not exist.
        """
        missing = self.missing(files)
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            path = self.root / missing[0]
            raise DataError(f"{path}: no such file, but {named_by} names it{more}{similar(path)}; {remedy}")
