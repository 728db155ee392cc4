"""One look at a folder of the user's own data: what it holds, how it is stored, how it is split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ktb.data.arrays import Size
from ktb.data.files import similar
from ktb.data.readers.decode import MAX_PIXELS, pixel_limit
from ktb.data.resizing import ASPECT_TOLERANCE, aspect_difference
from ktb.data.tools.new.class_names import ClassNames, read_class_names
from ktb.data.tools.new.found import Guess, Survey, globs_of
from ktb.data.tools.new.kinds import Kind, example, find_files, find_kinds, pattern_of, split_level_of
from ktb.data.tools.new.label_files import LabelSeen, look_at_label
from ktb.data.tools.new.labels import guess_labels
from ktb.data.tools.new.progress import Watch, plain_watch
from ktb.data.tools.new.roles import choose_label, given_label, guess_modalities, richness
from ktb.data.tools.new.splits import find_splits
from ktb.data.tools.new.stats import Stats, look_at
from ktb.data.tools.new.words import ALL_X_WORDS, LABEL_WORDS, RGB_WORDS
from ktb.data.tools.parallel import parallel
from ktb.errors import DataError

MAX_LABELS = 5000


def survey(
    root: Path,
    *,
    label_files: str | None = None,
    watch: Watch = plain_watch,
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
    files, notes = find_files(root, label_files)
    unread = f" ({'; '.join(notes)})" if notes else ""
    names = read_class_names(root)
    kinds, level = find_kinds(files)
    stats = {id(k): look_at(root, list(k.files.values())) for k in kinds if len(k.files) > 1 or len(kinds) < 5}
    kinds = [k for k in kinds if id(k) in stats]
    if label_files is None:
        label = choose_label(root, kinds, stats, names, unread)
    else:
        label = given_label(root, kinds, label_files, unread)
    partners = _partners(label, kinds, stats, names, level, notes)
    if not partners:
        raise DataError(
            f"{root / example(label)}: taken for a label, but no other files have names that go with the labels'; "
            f"expected folders side by side, such as rgb/1.png, depth/1.png and label/1.png{unread}"
        )
    split_level = split_level_of([f for k in (label, *partners) for f in k.files.values()])
    patterns = _patterns(root, label, partners, level, split_level, notes)
    partners = [k for k in partners if id(k) in patterns]
    modalities = guess_modalities(root, partners, stats, patterns, notes)
    seen = _read_labels([root / f.path for f in label.files.values()], watch, workers, max_pixels, notes)
    meant = guess_labels(seen, names)
    if names.source:
        meant.reasons.append(f"names from {names.source}")
    sizes = Counter(s.size for s in seen)
    # Files of one modality beside its first are resized to that one, whatever the size of labels.
    beside = {glob for guess in modalities for glob in globs_of(guess)[1:]}
    alone = [k for k in partners if patterns[id(k)] not in beside]
    resized = _note_sizes(alone, stats, sizes, modalities[0].name, notes)
    if resized:  # crops are cut from the first modality
        first = globs_of(modalities[0])[0]
        sizes = next(stats[id(k)].sizes for k in partners if patterns[id(k)] == first)
    found = Survey(
        root=root,
        modalities=modalities,
        label=Guess("label", {"files": patterns[id(label)]} | meant.settings, tuple(meant.reasons)),
        classes=meant.classes,
        palette=meant.palette,
        splits={},
        split_reason="",
        crop=_crop(sizes),
        batch_size=4,
        notes=notes + meant.notes,
        resized=resized,
        max_pixels=max_pixels,
    )
    find_splits(found, split_level)
    return found


def _partners(
    label: Kind,
    kinds: Sequence[Kind],
    stats: Mapping[int, Stats],
    names: ClassNames,
    level: int | None,
    notes: list[str],
) -> list[Kind]:
    """The kinds of files that belong to the labels and are none themselves; a note for each that is left out."""
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
    return partners


def _patterns(
    root: Path,
    label: Kind,
    partners: Sequence[Kind],
    level: int | None,
    split_level: int | None,
    notes: list[str],
) -> dict[int, str]:
    """Id of a kind → its pattern, of those that a pattern finds; a note for each other one.

    Raises:
        DataError: no pattern finds the labels.
    """
    patterns: dict[int, str] = {}
    for k in (label, *partners):
        pattern = pattern_of(k, level, split_level)
        if pattern is not None:
            patterns[id(k)] = pattern
        elif k is label:
            raise DataError(
                f"{root / example(k)}: labels lie at different depths; expected them in folders of one depth"
            )
        else:
            notes.append(
                f"{example(k)} and others like it lie at different depths and are left out: no pattern finds them"
            )
    return patterns


def _read_labels(
    paths: Sequence[Path], watch: Watch, workers: int | None, max_pixels: int, notes: list[str]
) -> list[LabelSeen]:
    """What the labels hold; of very many, those of some, spread evenly, with a note.

    Raises:
        DataError: a label cannot be read.
    """
    if len(paths) > MAX_LABELS:
        notes.append(f"{MAX_LABELS} of {len(paths)} labels were read: rare classes may be missing")
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, MAX_LABELS).astype(int)]
    work = partial(_label_within, max_pixels=max_pixels)
    outcomes = list(watch(parallel(work, paths, workers), len(paths), "labels"))
    if failed := [o for o in outcomes if o.state == "failed"]:
        raise DataError(min(o.message for o in failed))
    return [o for o in outcomes if isinstance(o, LabelSeen)]


def _note_sizes(
    partners: Sequence[Kind],
    stats: Mapping[int, Stats],
    sizes: Counter[Size],
    first: str,
    notes: list[str],
) -> bool:
    """Whether pictures have sizes that no label has, with a note for each such size.

    Args:
        sizes: those of the labels.
        first: the modality to whose size files are resized.
    """
    resized = False
    for k in partners:
        for size in stats[id(k)].sizes:
            if size not in sizes:
                resized = True
                alike = any(aspect_difference(size, of_label) <= ASPECT_TOLERANCE for of_label in sizes)
                notes.append(
                    f"{example(k)}: pictures of {size[0]}x{size[1]} (height x width), but no label has this size; "
                    + (
                        f"files of unequal size are resized to {first} (resize: first)"
                        if alike
                        else "their aspect ratio is another one too, so they are refused: cut the larger view"
                    )
                )
    return resized


def _crop(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    height, width = (min(side) for side in zip(*sizes, strict=True))
    return max(32, min(480, height // 32 * 32)), max(32, min(640, width // 32 * 32))
