"""Which of the user's files belong together as one picture: by folder, by pattern, or by a table in CSV."""

from __future__ import annotations

import csv
import glob
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from ktb.data.file_tree import Tree
from ktb.data.files import PICTURE_SUFFIXES, UNREAD_SUFFIXES, read_text, similar
from ktb.data.globs import fixed_parts, match_files
from ktb.data.lists import inside_root
from ktb.data.own_results import part_results
from ktb.data.sets.folder_pairing import LISTS
from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError, did_you_mean
from ktb.io import existing, expanded, files_below, normal


@dataclass(frozen=True)
class PictureFiles:
    """The files of one picture to segment.

    Args:
        name: of its outputs below their folders, without suffix, "/" between its parts.
        files: modality → its file, or several where the modality is stored in several. At least one modality.
    """

    name: str
    files: Mapping[str, tuple[Path, ...]]

    @property
    def first(self) -> Path:
        """The file that messages name the picture by."""
        return next(iter(self.files.values()))[0]


class Named(NamedTuple):
    """A file of the user's, and what its results are called."""

    path: Path
    name: str


class Found(NamedTuple):
    """The files that one option stands for.

    Attributes:
        files: key, by which files of several modalities are paired → file; the key of a single file is empty.
        failures: one for each picture in a folder that is of a format which is not read.
    """

    files: dict[str, Named]
    failures: list[Outcome]


def plan(
    sources: Mapping[str, Sequence[str]], out: Path, *, allow_missing: bool = False
) -> tuple[list[PictureFiles], list[Outcome]]:
    """Pictures in the order of their names, and a failure for each that lacks a modality or is of an unread format.

    Args:
        sources: modality → a file, a folder (searched with its subfolders) or a glob pattern (`*`, `?` and `**/`);
            several where the modality is stored in several files. Files of folders belong together when their paths
            below the folder agree but for the suffix, those of patterns when the wildcards match the same.
        out: folder of the results; where it lies in a folder that is searched, it is left out.
        allow_missing: a picture that lacks a modality is no failure.

    Raises:
        DataError: nothing is found, or what is found cannot be paired.
    """
    given = [(modality, source) for modality, several in sources.items() for source in several]
    options = [find(source, out.resolve()) for _, source in given]
    found = [option.files for option in options]
    alone = [list(files) == [""] for files in found]
    if any(alone) and not all(alone):
        file, other = given[alone.index(True)], given[alone.index(False)]
        raise DataError(
            f"--{file[0]} {file[1]} is one file but --{other[0]} {other[1]} is not; expected a file for each modality, "
            "or a folder or a pattern for each"
        )
    pictures, failures = [], [failure for option in options for failure in option.failures]
    for key in sorted(set().union(*found)):
        files: dict[str, tuple[Path, ...]] = {}
        lacking: list[str] = []
        for (modality, source), matches in zip(given, found, strict=True):
            if key in matches:
                files[modality] = (*files.get(modality, ()), matches[key].path)
            else:
                lacking.append(f"{modality} in {source}")
        files = {modality: paths for modality, paths in files.items() if len(paths) == len(sources[modality])}
        name = next(matches[key].name for matches in found if key in matches)
        if files and (allow_missing or not lacking):
            pictures.append(PictureFiles(name, files))
        else:
            some = next(matches[key].path for matches in found if key in matches)
            message = f"{some}: nothing belongs to it as {', '.join(lacking)} (looked for {key!r}); add the file, or "
            failures.append(Outcome(some, "failed", message + "use --allow-missing to go without"))
    return distinct(pictures), failures


def find(source: str, out: Path) -> Found:
    """The files that one option stands for.

    Args:
        source: a file, a folder or a pattern, as in `plan`.
        out: folder of the results, resolved; what lies in it is left out.

    Raises:
        DataError: there is none.
    """
    path = existing(Path(source))
    if path.is_file() and source.endswith(LISTS):
        raise DataError(f"{source}: is a list, whose files are paired by time; add --max-gap SECONDS")
    if path.is_file():
        return Found({"": Named(path, normal(path.stem))}, [])
    if path.is_dir():
        if path.resolve() == out:
            raise DataError(f"{path}: is the folder for the results; expected another one")
        return _in_folder(path, out)
    if not glob.has_magic(source):
        raise DataError(f"{source}: no such file or folder{similar(path)}")
    root = Path(*fixed_parts(source))
    if not root.is_dir():
        raise DataError(f"{source}: no such folder as {root}{similar(root)}")
    pattern = path.relative_to(root).as_posix()
    matches = {key: root / file for key, file in match_files(Tree(root), pattern).items()}
    files = {
        key: Named(file, normal(file.relative_to(root).with_suffix("").as_posix()))
        for key, file in matches.items()
        if not _is_result(file, root, out)
    }
    if not files:
        raise DataError(f"{source}: no file matches this pattern; is it quoted, and is {root} the right folder?")
    return Found(files, [])


def _in_folder(folder: Path, out: Path) -> Found:
    """The pictures in a folder and its subfolders, by their paths below it without suffix; masks are none.

    Args:
        folder: the folder.
        out: as in `find`.

    Raises:
        DataError: there is none, or two differ in their suffix only.
    """
    files: dict[str, Named] = {}
    failures: list[Outcome] = []
    own, results = part_results(files_below(folder))
    for file in sorted(own):
        suffix = file.suffix.lower()
        if suffix not in (*PICTURE_SUFFIXES, *UNREAD_SUFFIXES) or _is_result(file, folder, out):
            continue
        if suffix in UNREAD_SUFFIXES:
            message = f"{file}: {file.suffix} is a format that is not read; convert it to PNG, TIFF or NPY"
            failures.append(Outcome(file, "failed", message))
            continue
        key = normal(file.relative_to(folder).with_suffix("").as_posix())
        if key in files:
            raise DataError(
                f"{file} and {files[key].path.name} would be the same picture; choose one kind with a pattern "
                f"such as '{folder}/*{file.suffix}'"
            )
        files[key] = Named(file, key)
    if not files:
        raise DataError(
            f"{folder}: no picture in this folder; expected files ending in {' '.join(PICTURE_SUFFIXES)}"
            + (f" ({len(failures)} like {failures[0].path.name} are not read: convert them)" if failures else "")
            + (f" ({results[0].parent} and the like was written by ktb)" if results else "")
        )
    return Found(files, failures)


def _is_result(file: Path, root: Path, out: Path) -> bool:
    """Whether a file below `root` is of an earlier call, whose results folder lies there too."""
    return root.resolve() in out.parents and out in file.resolve().parents


def plan_csv(
    path: Path, modalities: Sequence[str], *, allow_missing: bool = False
) -> tuple[list[PictureFiles], list[Outcome], list[str]]:
    """As `plan`, from a table: one picture per row, one column per modality, and the modalities that have a column.

    Args:
        path: the table. Its first row names the columns; a modality stored in several files has several columns of its
            name. Paths are relative to the table's folder, or begin with `~`. A column "name" may say what the outputs
            are called; else they are called as the first modality's file.
        modalities: that there may be columns of.
        allow_missing: as in `plan`.

    Raises:
        DataError: not such a table.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(path)), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: is no table in CSV ({error}); expected text, columns separated by commas") from None
    header = [cell.strip() for cell in (rows[0] if rows else ())]
    for column in header:
        if column != "name" and column not in modalities:
            raise DataError(
                f"{path}: has a column {column!r}; expected {', '.join(modalities)} or name"
                + did_you_mean(column, [*modalities, "name"])
            )
    used = list(dict.fromkeys(column for column in header if column != "name"))
    if not used or header.count("name") > 1:
        raise DataError(f"{path}: its first row is {', '.join(header)!r}; expected some of {', '.join(modalities)}")
    pictures, failures = [], []
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise DataError(f"{path}, row {number}: {len(cells)} columns; expected {len(header)} as in the first row")
        files: dict[str, tuple[Path, ...]] = {}
        for column in used:
            named = [cell for at, cell in zip(header, cells, strict=True) if at == column]
            if all(named):
                files[column] = tuple(existing(path.parent / expanded(cell.replace("\\", "/"))) for cell in named)
        name = dict(zip(header, cells, strict=True)).get("name") or _name_of(next(iter(files.values()), ())[:1], path)
        name = normal(name)
        if not files or not inside_root(name):
            raise DataError(
                f"{path}, row {number}: "
                + (f"the name {name!r} leaves the results folder" if files else "names no file")
                + "; expected a file per modality, and a plain relative path for a name"
            )
        if len(files) < len(used) and not allow_missing:
            lacking = ", ".join(column for column in used if column not in files)
            message = f"{path}, row {number}: no file for {lacking}; add it, or use --allow-missing to go without"
            failures.append(Outcome(path, "failed", message))
        else:
            pictures.append(PictureFiles(name, files))
    if not pictures and not failures:
        raise DataError(f"{path}: no row below the names of the columns; expected one per picture")
    return distinct(pictures), failures, used


def _name_of(files: Sequence[Path], table: Path) -> str:
    """The file's path without suffix, below the table's folder if it is there, else its last two parts."""
    if not files:
        return ""
    path = PurePath(files[0].with_suffix(""))
    below = path.relative_to(table.parent) if path.is_relative_to(table.parent) else PurePath(*path.parts[-2:])
    return below.as_posix() if ".." not in below.parts else path.name


def distinct(pictures: list[PictureFiles]) -> list[PictureFiles]:
    """The same pictures.

    Raises:
        DataError: two have one name, so one's results would overwrite the other's.
    """
    seen: dict[str, PictureFiles] = {}
    for picture in pictures:
        if picture.name in seen:
            raise DataError(
                f"{seen[picture.name].first} and {picture.first} would both be called {picture.name}; name them in a "
                "CSV (column name)"
            )
        seen[picture.name] = picture
    return pictures
