"""Kinds of files: those that belong to different samples and are alike otherwise, found by names alone."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ktb.data.files import PICTURE_SUFFIXES
from ktb.data.own_results import part_results
from ktb.data.sets.folder_settings import SPLIT
from ktb.data.tools.new.words import ALL_X_WORDS, LABEL_WORDS, RGB_WORDS, band_of, split_of
from ktb.errors import DataError
from ktb.io import files_below, normal

BESIDE = (
    ".txt",
    ".csv",
    ".json",
    ".yaml",
    ".yml",
    ".xml",
    ".md",
    ".html",
    ".pdf",
    ".log",
    ".py",
    ".zip",
    ".tar",
    ".gz",
)
"""Endings of what lies beside pictures and is none."""


@dataclass(frozen=True)
class File:
    """A file below the folder looked at.

    Args:
        path: relative to it, as on disk.
        folders, stem: the parts of the path, in one Unicode form.
        suffix: as on disk.
    """

    path: str
    folders: tuple[str, ...]
    stem: str
    suffix: str


@dataclass
class Kind:
    """Files that belong to different samples and are alike otherwise.

    Args:
        words: what is particular in their names: folder, beginning of the name, end of the name, perhaps the suffix.
        files: sample → file.
    """

    words: tuple[str, ...]
    files: dict[Any, File]

    @property
    def title(self) -> str:
        """Its words as one name."""
        return "_".join(w for w in self.words if w) or "file"

    def says(self, vocabulary: Iterable[str]) -> bool:
        """Whether its name has one of these words: alone, in the plural, or as the beginning of a compound."""
        tokens = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", re.sub(r"[^A-Za-z]+", " ", " ".join(self.words)))
        known = tuple(vocabulary)
        return any(t.lower() == w or (len(w) > 3 and t.lower().startswith(w)) or t.lower() == w + "s"
                   for t in tokens for w in known)  # fmt: skip


def find_files(root: Path, label_files: str | None = None) -> tuple[list[File], list[str]]:
    """All files of readable kinds below `root`, hidden ones and what ktb itself has written left out.

    Args:
        root: the folder looked at.
        label_files: the folder or the pattern of the labels, which may be masks that ktb has written.

    Returns:
        The files, and notes on others.

    Raises:
        DataError: there is none.
    """
    found, others = [], Counter[str]()
    own, results = part_results(files_below(root))
    if label_files is not None:
        is_label = named_by(root, label_files)
        wanted = [file for file in results if is_label(_file(root, file))]
        own, results = [*own, *wanted], [file for file in results if file not in wanted]
    for file in own:
        suffix = file.suffix
        if suffix.lower() in PICTURE_SUFFIXES:
            found.append(_file(root, file))
        elif suffix and suffix.lower() not in BESIDE:
            others[suffix.lower()] += 1
    notes = [
        f"{n} files ending in {s} are not read: convert them to PNG, TIFF or NPY" for s, n in sorted(others.items())
    ]
    if results:
        folders = sorted({file.parent.relative_to(root).as_posix() for file in results})
        more = f" and {len(folders) - 1} more folders" if len(folders) > 1 else ""
        notes.append(f"{folders[0]}{more}: left out, as ktb-predict or ktb-train wrote what is in it")
    if not found:
        raise DataError(
            f"{root}: no picture in it or its folders; expected files ending in {' '.join(PICTURE_SUFFIXES)}"
            + (f" ({'; '.join(notes)})" if notes else "")
        )
    return found, notes


def _file(root: Path, file: Path) -> File:
    path = PurePosixPath(file.relative_to(root).as_posix())
    # One Unicode form for all names, so that names that look the same are the same.
    seen = PurePosixPath(normal(str(path)))
    return File(str(path), seen.parts[:-1], seen.stem, path.suffix)


def named_by(root: Path, wanted: str) -> Callable[[File], bool]:
    """Whether a file is one of those that the user names.

    Args:
        root: the folder looked at.
        wanted: a folder, a file or a pattern, below `root` or from the current folder.
    """
    pattern = Path(wanted)
    for base in (root, root.resolve()):  # the user may write the path from the current folder
        pattern = pattern.relative_to(base) if pattern.is_relative_to(base) else pattern
    text = normal(pattern.as_posix())

    def fits(f: File) -> bool:
        if set("*?[") & set(text):
            return fnmatch.fnmatchcase(normal(f.path), text)
        path = PurePosixPath(normal(f.path))
        return text in (str(path), *f.folders, *(p.as_posix() for p in path.parents))

    return fits


def find_kinds(files: Sequence[File]) -> tuple[list[Kind], int | None]:
    """Kinds of files, and which folder level tells them apart (None: the names alone do).

    Every level is tried: its folder's name (with words at either end of the files' names) is the kind, the rest of the
    path the sample. The level wins under which most files find partners, one that has a word for labels first.
    """
    depth = max(len(f.folders) for f in files)
    best: tuple[Any, list[Kind], int | None] | None = None
    for level in (*range(depth), None):
        names = {f.folders[level] for f in files if level is not None and len(f.folders) > level}
        if level is not None and all(split_of(n) for n in names):
            continue
        kinds = _kinds_at(files, level)
        keys = Counter(key for kind in kinds for key in kind.files)
        score = (
            any(k.says(LABEL_WORDS) for k in kinds),
            sum(k.says((*RGB_WORDS, *ALL_X_WORDS)) for k in kinds) > 0,
            sum(n - 1 for n in keys.values()),
            -len(kinds),
        )
        if best is None or score > best[0]:
            best = (score, kinds, level)
    assert best is not None
    return [_without_common(k, best[1]) for k in best[1]], best[2]


def _without_common(kind: Kind, kinds: Sequence[Kind]) -> Kind:
    """Move words that all kinds have at the same end into the samples' names, as they tell no kinds apart."""
    first = kind.words[1] if len({k.words[1] for k in kinds}) == 1 else ""
    last = kind.words[2] if len({k.words[2] for k in kinds}) == 1 else ""
    words = (kind.words[0], kind.words[1].removeprefix(first), kind.words[2].removesuffix(last), *kind.words[3:])
    return Kind(words, {(rest, first + middle + last): f for (rest, middle), f in kind.files.items()})


def _kinds_at(files: Sequence[File], level: int | None) -> list[Kind]:
    groups: dict[tuple[str, str], list[File]] = defaultdict(list)
    for f in files:
        if level is None or len(f.folders) > level:
            groups["" if level is None else f.folders[level], f.suffix].append(f)
    kinds: dict[tuple[str, ...], Kind] = {}
    for (folder, suffix), members in groups.items():
        rest = {f: tuple(n for i, n in enumerate(f.folders) if i != level) for f in members}
        for f, (first, middle, last) in _affixes(members, rest).items():
            words = (folder, first, last)
            key = (rest[f], middle)
            if words in kinds and key in kinds[words].files and kinds[words].files[key].suffix != suffix:
                kinds.setdefault((*words, suffix), Kind((*words, suffix), {})).files[key] = f
                continue  # 1.png and 1.npy beside each other are two kinds
            kinds.setdefault(words, Kind(words, {})).files[key] = f
    return list(kinds.values())


def _affixes(files: Sequence[File], rest: Mapping[File, tuple[str, ...]]) -> dict[File, tuple[str, str, str]]:
    """File → (beginning, middle, end) of its stem: the middle names the sample, words around it the kind of file."""
    parts = {f: ["", f.stem, ""] for f in files}
    for end in (2, 0):
        pattern = r"(.+?)([_\-.][A-Za-z][A-Za-z0-9]*)" if end else r"([A-Za-z][A-Za-z0-9]*[_\-.])(.+)"
        for _ in range(3):
            split = {f: re.fullmatch(pattern, parts[f][1]) for f in files}
            found = {f: m for f, m in split.items() if m}
            if len(found) < len(files):  # some have the word and others do not: 1.png beside 1_mask.png
                found = {f: m for f, m in found.items() if _means_something(m[2 if end else 1])}
            words = Counter("" if f not in found else found[f][2 if end else 1] for f in files)
            if not found or sum(not band_of(w) for w in words) > 6 or any(split_of(w.strip("_-.")) for w in words):
                break
            if len(words) > 1 and not any(map(_means_something, words)):
                break
            middle = {f: found[f][1 if end else 2] if f in found else parts[f][1] for f in files}
            keys = Counter((rest[f], parts[f][2 - end], middle[f]) for f in files)
            if len(words) > 1 and sum(n > 1 for n in keys.values()) * 2 < len(keys):
                break  # such as day and night: the words tell samples apart, not kinds
            for f, m in found.items():
                word, parts[f][1] = (m[2], m[1]) if end else (m[1], m[2])
                parts[f][end] = word + parts[f][end] if end else parts[f][end] + word
    return {f: (a, b, c) for f, (a, b, c) in parts.items()}


def _means_something(word: str) -> bool:
    return band_of(word) is not None or Kind((word,), {}).says((*LABEL_WORDS, *RGB_WORDS, *ALL_X_WORDS))


def pattern_of(kind: Kind, level: int | None, split_level: int | None) -> str | None:
    """The glob that finds the files of a kind.

    Args:
        kind: the files.
        level: the level of folders that tells kinds apart; None: names do.
        split_level: the level of folders that holds the splits; None: there is none.

    Returns:
        The pattern; None if the files lie at different depths, so that no pattern finds them.
    """
    files = list(kind.files.values())
    parts = []
    if len({len(f.folders) for f in files}) > 1:
        if level != 0 or split_level is not None:
            return None
        parts = [kind.words[0], "**"]
    else:
        for i in range(len(files[0].folders)):
            names = {f.folders[i] for f in files}
            parts.append(SPLIT if i == split_level else names.pop() if len(names) == 1 else "*")
    suffixes = {f.suffix for f in files}
    first, last = kind.words[1:3]
    parts.append(f"{first}*{last}{suffixes.pop() if len(suffixes) == 1 else '.*'}")
    return "/".join(parts)


def split_level_of(files: Iterable[File]) -> int | None:
    """The folder level that holds the splits: train and at least one other."""
    folders = [f.folders for f in files]
    for i in range(min(map(len, folders), default=0)):
        splits = {split_of(names[i]) for names in folders}
        if None not in splits and "train" in splits and len(splits) > 1:
            return i
    return None


def example(kind: Kind) -> str:
    """Path of one of its files, for messages."""
    return next(iter(kind.files.values())).path
