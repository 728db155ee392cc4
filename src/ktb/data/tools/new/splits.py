"""How the data is split: by folders, by lists, or by shares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from ktb.data.file_tree import Tree
from ktb.data.globs import match_files
from ktb.data.lists import read_list
from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.folder_pairing import parts_of
from ktb.data.sets.folder_settings import SPLIT
from ktb.data.tools.new.found import Guess, Survey, globs_of, module_settings
from ktb.data.tools.new.words import SPLIT_WORDS, split_of
from ktb.errors import DataError, KTBError
from ktb.io import entries


def find_splits(found: Survey, split_level: int | None) -> None:
    """Find the splits: by folders if there are any, else by lists that name samples, else by shares.

    Args:
        found: its splits, lists, batch size and notes are filled in.
        split_level: the level of folders that holds the splits; None: there is none.

    Raises:
        DataError: no sample has all its files, or too few for two splits.
    """
    tree = Tree(found.root)
    guesses = (*found.modalities, found.label)
    # The key holds the split's folder too, so one name may occur in several splits.
    matches = {
        part: match_files(tree, glob.replace(SPLIT, "*"))
        for guess in guesses
        for part, glob in zip(parts_of(guess.name, len(globs_of(guess))), globs_of(guess), strict=True)
    }
    complete = set.intersection(*(set(files) for files in matches.values()))
    if not complete:
        raise DataError(f"{found.root}: no sample has all of {', '.join(matches)}; expected names that run parallel")
    if split_level is not None:
        count = _by_folder(found, matches, complete, split_level)
    else:
        found.splits = {"train": 0.8, "val": 0.2}
        incomplete = len(set[str]().union(*matches.values()) - complete)
        _note_incomplete(found, incomplete)
        count = _by_list(found, sorted(complete), incomplete)
    found.batch_size = max(1, min(4, count))


def _note_incomplete(found: Survey, count: int) -> None:
    if count:
        found.notes.append(f"{count} names lack a file of some kind and are left out: only complete samples are listed")


def _by_folder(found: Survey, matches: Mapping[str, Mapping[str, str]], complete: set[str], split_level: int) -> int:
    """Fill in folders as splits, or lists of the samples in them where some must be left out.

    Returns:
        The number of training samples.
    """
    folder_of = {
        key: PurePosixPath(file).parts[split_level] for files in matches.values() for key, file in files.items()
    }
    folders: dict[str, set[str]] = {}
    for folder in sorted(set(folder_of.values())):
        folders.setdefault(split_of(folder) or "", set()).add(folder)
    folders = {split: folders[split] for split in SPLIT_WORDS if split in folders}
    within = {split: {key for key, folder in folder_of.items() if folder in folders[split]} for split in folders}
    samples = {split: keys & complete for split, keys in within.items()}
    if "test" in folders and not within["test"] & matches["label"].keys():
        pictures = set.intersection(*(set(files) for part, files in matches.items() if part != "label"))
        samples["test"] = within["test"] & pictures
        if samples["test"]:
            found.notes.append(
                "test: no labels, so evaluation on it writes predictions in stored ids instead of scores"
            )
    for split in [split for split, keys in samples.items() if not keys]:
        if split == "train":
            raise DataError(
                f"{found.root}: no sample in {' or '.join(sorted(folders[split]))} has all of {', '.join(matches)}; "
                "expected names that run parallel"
            )
        found.notes.append(f"{split}: no sample has all of {', '.join(matches)}, so it is left out")
        del samples[split]
    # The best checkpoint is chosen on val, or on test where there is no val, and for that it needs labels.
    chosen_on = samples.get("val" if "val" in folders else "test", set())
    incomplete = len(set[str]().union(*within.values()) - set[str]().union(*samples.values()))
    if not incomplete and chosen_on & complete and all(len(names) == 1 for names in folders.values()):
        found.splits = {split: min(names) for split, names in folders.items()}
        found.split_reason = "folders of these names"
        return len(samples["train"])

    _note_incomplete(found, incomplete)
    found.lists = {split: sorted(keys) for split, keys in samples.items()}
    found.split_reason = "lists of the samples in the folders of these names, written beside this file"
    if not chosen_on & complete:
        train, val = _parted(found.root, found.lists["train"])
        found.lists = {"train": train, "val": val} | {s: k for s, k in found.lists.items() if s == "test"}
        found.split_reason += (
            "; val is 20 % of train at random, as no other folder has labels to choose a checkpoint by"
        )
    found.modalities = [_without_splits(guess) for guess in found.modalities]
    found.label = _without_splits(found.label)
    return len(found.lists["train"])


def _without_splits(guess: Guess) -> Guess:
    """The same guess with a pattern that finds the files of all splits."""
    globs = [glob.replace(SPLIT, "*") for glob in globs_of(guess)]
    return replace(guess, settings=guess.settings | {"files": globs if len(globs) > 1 else globs[0]})


def _parted(root: Path, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """80 % and 20 % of the samples, at random."""
    if len(keys) < 2:
        raise DataError(f"{root}: {len(keys)} complete sample; expected two or more, to train and to validate")
    order = np.random.default_rng(0).permutation(len(keys))
    train = max(1, min(len(keys) - 1, round(0.8 * len(keys))))
    return sorted(keys[i] for i in order[:train]), sorted(keys[i] for i in order[train:])


def _by_list(found: Survey, keys: Sequence[str], incomplete: int) -> int:
    """Fill in the user's lists, else shares, or new lists where some samples are incomplete.

    Returns:
        The number of training samples.
    """
    for lists in _candidate_lists(found.root):
        trial = FolderDataModule(**module_settings(found) | {"splits": lists})
        try:
            counts = {split: len(trial.open_split(split)) for split in lists}
        except KTBError as error:
            found.notes.append(f"lists {', '.join(lists.values())} are not used: {error}")
            continue
        found.splits = dict(lists)
        found.split_reason = "lists in the folder"
        return counts["train"]
    train, val = _parted(found.root, keys)
    if incomplete:
        found.lists = {"train": train, "val": val}
        found.split_reason = "lists of the complete samples, written beside this file: 80 % at random to train on"
        return len(train)
    found.split_reason = (
        "no lists or folders of splits: shares, dealt out at random (split_seed). Frames of one video that are "
        "alike then lie on both sides: write lists if yours are"
    )
    if round(0.8 * len(keys)) in (0, len(keys)):
        found.splits = {"train": 0.5, "val": 0.5}
        return len(keys) // 2
    return len(train)


def _candidate_lists(root: Path) -> Iterator[dict[str, str]]:
    for folder in (root, *(Path(entry.path) for entry in entries(root) if entry.is_dir())):
        lists: dict[str, str] = {}
        for path in (Path(entry.path) for entry in entries(folder) if entry.name.endswith(".txt")):
            words = [split_of(w) for w in re.split(r"[^A-Za-z]+", path.stem)]
            for split in (w for w in words if w):
                try:
                    read_list(path, root, spaces=False)
                except DataError:
                    continue
                lists.setdefault(split, path.relative_to(root).as_posix())
        if "train" in lists and len(lists) > 1:
            yield {s: lists[s] for s in ("train", "val", "test") if s in lists}
