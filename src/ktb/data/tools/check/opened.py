"""The splits of a data set opened: the samples to look at, and what is odd before any file is opened."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ktb.data.module import RGBXDataModule
from ktb.data.samples import FileSamples
from ktb.data.tools.check.look import Look
from ktb.errors import DataError
from ktb.io import entries

MANY, FAR_MORE = 20, 3
"""Samples of the split that is scored, and how many times more than those trained on, from which on that is odd."""


@dataclass(frozen=True)
class OpenedSplits:
    """The splits, opened.

    Args:
        looks: every sample of every split that could be opened.
        counts: split → its number of samples.
        unopened: split → why it could not be opened.
        findings: oddities known without opening a file.
    """

    looks: list[Look]
    counts: dict[str, int]
    unopened: dict[str, str]
    findings: list[str]


def open_splits(data: RGBXDataModule) -> OpenedSplits:
    """Open all splits.

    Args:
        data: the data set.

    Raises:
        DataError: none of them can be opened; what is wrong with the first one.
    """
    streams = tuple(m.name for m in data.modalities)
    looks: list[Look] = []
    counts: dict[str, int] = {}
    unopened: dict[str, str] = {}
    opened: dict[str, FileSamples] = {}
    for split in data.spec.splits:
        try:
            samples = data.open_split(split)
        except DataError as error:
            unopened[split] = str(error)
            continue
        counts[split] = len(samples)
        if isinstance(samples, FileSamples):
            opened[split] = samples
        for index in range(len(samples)):
            name, single = f"sample {index} of {split}", samples
            if isinstance(samples, FileSamples):
                # Jobs are sent to worker processes, so each carries its own entry only, not those of the whole split.
                name, single = samples.entries[index].id, copy.copy(samples)
                single.entries = [samples.entries[index]]
            looks.append(
                Look(
                    split,
                    name,
                    single,
                    0 if single is not samples else index,
                    streams,
                    data.spec.num_classes,
                    data.max_pixels,
                )
            )
    if not counts:
        raise DataError(next(iter(unopened.values())))
    notes = [f"{split}: {note}" for split, samples in opened.items() for note in samples.notes]
    findings = [*notes, *_duplicates(opened), *_swapped(data, counts), *([] if unopened else _unnamed(opened, streams))]
    return OpenedSplits(looks, counts, unopened, findings)


def _swapped(data: RGBXDataModule, counts: dict[str, int]) -> list[str]:
    """What to say where far more samples are scored than trained on, as with lists that are taken for each other."""
    train, scored = counts.get("train", 0), counts.get(data.spec.selection_split, 0)
    if not MANY <= scored >= FAR_MORE * train or data.spec.counts:
        return []
    split = data.spec.selection_split
    return [f"train has {train} samples, {split} {scored}: are the two the wrong way round (dataset.splits)?"]


def _duplicates(opened: dict[str, FileSamples]) -> list[str]:
    """Label files that more than one sample has, within a split or across."""
    users: dict[Path, list[str]] = defaultdict(list)
    for split, samples in opened.items():
        for entry in samples.entries:
            if entry.label is not None:
                users[samples.root / entry.label].append(f"{split}: {entry.id}")
    return [f"{path}: label of {len(names)} samples ({', '.join(names)})" for path, names in users.items() if names[1:]]


def _unnamed(opened: dict[str, FileSamples], streams: Sequence[str]) -> list[str]:
    """Files beside those of the samples that belong to no sample of any split."""
    used: dict[Path, set[str]] = defaultdict(set)
    for samples in opened.values():
        for entry in samples.entries:
            for file in entry.paths(streams):
                path = samples.root / file
                used[path.parent].add(path.name)
    found = []
    for folder, names in sorted(used.items()):
        try:
            others = [entry.name for entry in entries(folder) if entry.name not in names and entry.is_file()]
        except OSError:  # reading its files will say what is wrong
            continue
        if others:
            found.append(f"{folder}: {len(others)} files that no split names (first: {others[0]})")
    return found
