"""One look at a folder of the user's own data: what it holds, how it is stored, how it is split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ktb.data.files import similar
from ktb.data.readers.decode import MAX_PIXELS, pixel_limit
from ktb.data.resizing import ASPECT_TOLERANCE, aspect_difference
from ktb.data.tools.new.found import Guess, Survey
from ktb.data.tools.new.kinds import example, find_files, find_kinds, pattern_of, split_level_of
from ktb.data.tools.new.labels import LabelSeen, guess_labels, look_at_label, read_class_names
from ktb.data.tools.new.roles import choose_label, given_label, guess_modalities, richness
from ktb.data.tools.new.splits import find_splits
from ktb.data.tools.new.stats import look_at
from ktb.data.tools.new.words import ALL_X_WORDS, LABEL_WORDS, RGB_WORDS
from ktb.data.tools.parallel import Outcome, parallel
from ktb.errors import DataError

Watch = Callable[[Iterator[Outcome], int, str], Iterable[Outcome]]
"""Wraps outcomes that are about to come: their iterator, how many, what they are; for a progress bar."""

MAX_LABELS = 5000


def _plain_watch(outcomes: Iterator[Outcome], total: int, title: str) -> Iterable[Outcome]:
    return outcomes


def survey(
    root: Path,
    *,
    label_files: str | None = None,
    watch: Watch = _plain_watch,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Survey:
    """Look at the folder `root`.

    Args:
        root: the folder.
        label_files: the folder or the pattern of the labels; None: they are looked for.
        watch: shows the progress.
        workers: processes that read labels.
        max_pixels: larger pictures are refused.

    Raises:
        DataError: no folder, no pictures, no labels, files that cannot be read, no modality beside the labels.
    """
    with pixel_limit(max_pixels):
        return _survey(root, label_files, watch, workers, max_pixels)


def _label_within(path: Path, max_pixels: int) -> LabelSeen:
    """`look_at_label` in another process, which the limit of this one does not reach."""
    with pixel_limit(max_pixels):
        return look_at_label(path)


def _survey(root: Path, label_files: str | None, watch: Watch, workers: int | None, max_pixels: int) -> Survey:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder{similar(root)}; expected the one that holds your pictures and labels")
    files, notes = find_files(root)
    unread = f" ({'; '.join(notes)})" if notes else ""
    names = read_class_names(root)
    kinds, level = find_kinds(files)
    stats = {id(k): look_at(root, list(k.files.values())) for k in kinds if len(k.files) > 1 or len(kinds) < 5}
    kinds = [k for k in kinds if id(k) in stats]
    if label_files is None:
        label = choose_label(root, kinds, stats, names, unread)
    else:
        label = given_label(root, kinds, label_files, unread)
    partners = []
    for k in (k for k in kinds if k is not label):
        like = f"{example(k)} and {len(k.files) - 1} like it are left out"
        named = k.says((*RGB_WORDS, *ALL_X_WORDS)) and not k.says(LABEL_WORDS)
        if 2 * len(k.files.keys() & label.files.keys()) < len(label.files):
            notes.append(f"{like}: most labels have no such partner")
        elif (stats[id(k)].labelled or k.says(LABEL_WORDS)) and not named:
            other = pattern_of(k, level, None) or example(k)
            notes.append(
                f"{like}: they look like labels, too ({richness(stats[id(k)], names)}); --label '{other}' takes them"
            )
        else:
            partners.append(k)
    if not partners:
        raise DataError(
            f"{root / next(iter(label.files.values())).path}: taken for a label, but no other files have names that go "
            f"with the labels'; expected folders side by side, such as rgb/1.png, depth/1.png and label/1.png{unread}"
        )
    split_level = split_level_of([f for k in (label, *partners) for f in k.files.values()])
    patterns = {id(k): pattern_of(k, level, split_level) for k in (label, *partners)}
    for k in [k for k in (label, *partners) if patterns[id(k)] is None]:
        if k is label:
            raise DataError(
                f"{root / example(k)}: labels lie at different depths; expected them in folders of one depth"
            )
        notes.append(f"{example(k)} and others like it lie at different depths and are left out: no pattern finds them")
        partners.remove(k)
    modalities = guess_modalities(root, partners, stats, {k: p for k, p in patterns.items() if p}, notes)

    paths = [root / f.path for f in label.files.values()]
    if len(paths) > MAX_LABELS:
        notes.append(f"{MAX_LABELS} of {len(paths)} labels were read: rare classes may be missing")
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, MAX_LABELS).astype(int)]
    outcomes = list(
        watch(parallel(partial(_label_within, max_pixels=max_pixels), paths, workers), len(paths), "labels")
    )
    if failed := [o for o in outcomes if o.state == "failed"]:
        raise DataError(min(o.message for o in failed))
    seen = [o for o in outcomes if isinstance(o, LabelSeen)]
    found = guess_labels(seen, names)
    if names.source:
        found.reasons.append(f"names from {names.source}")
    sizes = Counter(s.size for s in seen)
    resized = False
    for k in partners:
        for size in stats[id(k)].sizes:
            if size not in sizes:
                resized = True
                alike = any(aspect_difference(size, of_label) <= ASPECT_TOLERANCE for of_label in sizes)
                notes.append(
                    f"{example(k)}: pictures of {size[0]}x{size[1]} (height x width), but no label has this size; "
                    + (
                        f"files of unequal size are resized to {modalities[0].name} (resize: first)"
                        if alike
                        else "their aspect ratio is another one too, so they are refused: cut the larger view"
                    )
                )
    if resized:  # crops are cut from the first modality
        sizes = next(stats[id(k)].sizes for k in partners if patterns[id(k)] == modalities[0].settings["files"])
    pattern = patterns[id(label)]
    assert pattern is not None
    result = Survey(
        root=root,
        modalities=modalities,
        label=Guess("label", {"files": pattern} | found.settings, tuple(found.reasons)),
        classes=found.classes,
        palette=found.palette,
        splits={},
        split_reason="",
        crop=_crop(sizes),
        batch_size=4,
        notes=notes + found.notes,
        resized=resized,
        max_pixels=max_pixels,
    )
    find_splits(result, split_level)
    return result


def _crop(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    height, width = (min(side) for side in zip(*sizes, strict=True))
    return max(32, min(480, height // 32 * 32)), max(32, min(640, width // 32 * 32))
