"""Files of several modalities → samples: paired by what the wildcards match or by time, chosen by lists."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ktb.data import timestamps
from ktb.data.file_tree import Tree
from ktb.data.files import similar
from ktb.data.lists import below_root, read_list
from ktb.data.samples import Entry
from ktb.errors import DataError, did_you_mean
from ktb.io import normal

LISTS = (".txt", ".csv")
"""How the names of lists of time stamps end."""


def require_matches(root: Path, matches: Matches, globs: Mapping[str, str]) -> None:
    """Check that every pattern matches a file.

    Args:
        root: data root.
        matches: modality or "label" → key → file.
        globs: modality or "label" → its pattern.

    Raises:
        DataError: one of them matches none.
    """
    for name, files in matches.items():
        if not files:
            fixed = itertools.takewhile(lambda part: not set("*?") & set(part), PurePosixPath(globs[name]).parts)
            where = "label" if name == "label" else f"modalities.{name.partition(_FILE)[0]}"
            raise DataError(
                f"{root / globs[name]}: no file matches this pattern{similar(root.joinpath(*fixed))}; "
                f"correct dataset.{where}.files or dataset.root"
            )


def pair_by_name(root: Path, matches: Matches, globs: Mapping[str, str], *, may_be_incomplete: bool) -> Pool:
    """The samples of which every modality, and the label, has a file.

    Args:
        root: data root.
        matches: modality or "label" → key → file.
        globs: modality or "label" → its pattern, for messages.
        may_be_incomplete: leave out samples that lack a file, as lists name those to use.

    Raises:
        DataError: a sample lacks a file and must not.
    """
    common = set.intersection(*(set(files) for files in matches.values()))
    for files in matches.values():
        lonely = sorted(set(files) - common)
        if lonely and not may_be_incomplete:
            lacking = next(other for other in matches if lonely[0] not in matches[other])
            raise DataError(
                f"{root / files[lonely[0]]}: no file of {lacking!r} belongs to it, {lonely[0]!r} in "
                f"{globs[lacking]} ({len(lonely)} such); add it, or name the samples to use in a list"
            )
    labels = matches.get("label", {})
    streams = [name for name in matches if name != "label"]
    entries = {key: Entry(key, {name: (matches[name][key],) for name in streams}, labels.get(key)) for key in common}
    return Pool(entries, set(), [])


def pair_by_time(
    tree: Tree, matches: Matches, globs: Mapping[str, str], *, max_gap: float, time_unit: str | None
) -> Pool:
    """The frames of the first modality, each with the nearest frame of every other one and of the label.

    Args:
        tree: what lies below the data root.
        matches: modality or "label" → key → file; a file may be a list of time stamps.
        globs: modality or "label" → its pattern.
        max_gap: seconds that a partner may be away; frames that lack one are left out.
        time_unit: of the time stamps, see `timestamps.nanoseconds`.

    Raises:
        DataError: no frame has all its partners, or two have the same time.
    """
    frames: dict[str, timestamps.Frames] = {}
    for name, files in matches.items():
        if globs[name].endswith(LISTS):
            frames[name] = timestamps.list_frames(tree.root, files, time_unit)
            named = [frame.file for of_list in frames[name].values() for frame in of_list]
            tree.require(named, str(tree.root / globs[name]), "copy the files there")
        else:
            frames[name] = timestamps.named_frames(files, time_unit)
    first, *others = frames
    pairs = timestamps.pair(frames[first], {name: frames[name] for name in others}, max_gap)
    within = timestamps.as_text(max_gap)
    count = sum(map(len, frames[first].values()))
    if not pairs.partners:
        raise DataError(
            f"{tree.root / globs[first]}: none of {count} frames of {first} has a frame of each of "
            f"{', '.join(others)} within {within}; correct dataset.max_gap or dataset.time_unit"
        )
    notes = [f"{len(pairs.partners)} of {count} frames of {first} paired by time, within {within}"]
    if pairs.lonely:
        lacking = ", ".join(f"{n} without {name}" for name, n in pairs.lacking.items())
        notes[0] += f"; left out: {lacking} (dataset.max_gap={max_gap:g})"
    entries: dict[str, Entry] = {}
    for (sequence, frame), partners in pairs.partners.items():
        key = _joined(sequence, frame)
        if key in entries:
            raise DataError(f"{tree.root / frame.file}: another frame has the time {frame.stamp!r}; remove one")
        together = {first: frame, **partners}
        entries[key] = Entry(
            key,
            {name: (f.file,) for name, f in together.items() if name != "label"},
            together["label"].file if "label" in together else None,
            gaps={name: (f.time - frame.time) / timestamps.NS for name, f in partners.items()},
        )
    lonely = {_joined(sequence, frame): frame.file for sequence, frame in pairs.lonely}
    dropped = {alias for key, file in lonely.items() for alias in _aliases(Entry(key, {first: (file,)}, None))}
    return Pool(entries, {*dropped, *lonely}, notes)


def listed(path: Path, root: Path, pool: Pool) -> list[str]:
    """Keys of the samples that a list names, in its order, those left out by time not among them.

    Args:
        path: the list; a line is a sample's key, or the path or name of one or several of its files.
        root: data root.
        pool: the samples that there are.

    Raises:
        DataError: the list cannot be read, or a line names no sample, several, or one that another line names.
    """
    found = pool.found
    names: dict[str, str | None] = {}
    for sample, entry in found.items():
        for alias in _aliases(entry):
            # None: several samples go by that name.
            names[alias] = sample if names.get(alias, sample) == sample else None
    names.update({sample: sample for sample in found})
    names.update(dict.fromkeys(pool.dropped - set(names), _DROPPED))
    keys: dict[str, int] = {}
    for line in read_list(path, root, spaces=False):
        # "rgb/1.png label/1.png" names one sample twice.
        named = [key for column in line.columns for key in _samples_named(column, names, root)]
        key = named[0] if named else None
        if key == _DROPPED:
            continue
        if other := next((k for k in named if k != key), None):
            raise DataError(
                f"{path}, line {line.number}: {' '.join(line.columns)!r} names two samples, {key!r} and {other!r}; "
                "expected one per line"
            )
        if key is None:
            near = did_you_mean(normal(line.columns[0]), found)
            raise DataError(
                f"{path}, line {line.number}: {line.columns[0]!r} is not one sample with all its files below "
                f"{root}{near}; expected names like {min(found, default='')!r}: add its files or take the "
                "line out"
            )
        if key in keys:
            raise DataError(f"{path}: lines {keys[key]} and {line.number} name the same sample {key!r}; remove one")
        keys[key] = line.number
    return list(keys)


Matches = Mapping[str, Mapping[str, str]]
"""Modality or "label" → key of a sample → its file."""


class Pool(NamedTuple):
    """The samples that a split's are chosen from.

    Attributes:
        found: key → sample.
        dropped: names of samples that lack a partner in time; lists may hold them.
        notes: in words, what was done.
    """

    found: dict[str, Entry]
    dropped: set[str]
    notes: list[str]

    def put_together(self, parts: Mapping[str, tuple[str, ...]]) -> Pool:
        """Entries with one file each of several parts → entries with several files of a modality.

        Args:
            parts: modality → the names under which its files were paired, in order.
        """
        if all(len(names) == 1 for names in parts.values()):
            return self
        found = {
            key: replace(entry, files={m: tuple(entry.files[p][0] for p in names) for m, names in parts.items()})
            for key, entry in self.found.items()
        }
        return Pool(found, self.dropped, self.notes)


_FILE = ", file "


def parts_of(name: str, count: int) -> list[str]:
    """The names under which the files of a modality are paired: its own if it has one file, else numbered.

    Args:
        name: of the modality, or "label".
        count: of its files.
    """
    return [name] if count == 1 else [f"{name}{_FILE}{i + 1}" for i in range(count)]


_DROPPED = "\0"
"""Stands for a sample that was left out because it lacks a partner in time."""


def _samples_named(text: str, names: Mapping[str, str | None], root: Path) -> list[str]:
    """The samples that a line of a list names; what follows the last known name is left out.

    A name may itself contain spaces, commas or semicolons, so the longest part that is a known name is taken first.
    """
    name = below_root(text, root)
    if name is not None and (key := names.get(normal(name))) is not None:
        return [key]
    for gap in reversed(list(re.finditer(r"\s*[,;]\s*|\s+", text))):
        name = below_root(text[: gap.start()], root)
        if name is not None and (key := names.get(normal(name))) is not None:
            return [key, *_samples_named(text[gap.end() :], names, root)]
    return []


def _joined(sequence: str, frame: timestamps.Frame) -> str:
    return f"{sequence}/{frame.stamp}" if sequence else frame.stamp


def _aliases(entry: Entry) -> Iterable[str]:
    for file in entry.paths(entry.files):
        path = PurePosixPath(normal(file))
        yield from (str(path), str(path.with_suffix("")), path.name, path.stem)
