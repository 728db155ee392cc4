"""Which kind of files holds the labels, which one RGB, and which modalities the others are."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ktb.data.readers.limits import MAX_CHANNELS
from ktb.data.tools.new.bands import band_groups, name_of, together
from ktb.data.tools.new.class_names import ClassNames
from ktb.data.tools.new.found import Guess
from ktb.data.tools.new.kinds import Kind, example, named_by
from ktb.data.tools.new.labels import VOID_IDS
from ktb.data.tools.new.modality import guess_modality
from ktb.data.tools.new.stats import Stats
from ktb.data.tools.new.words import ALL_X_WORDS, LABEL_WORDS, RGB_WORDS, X_WORDS
from ktb.errors import DataError


def given_label(root: Path, kinds: Sequence[Kind], wanted: str, unread: str) -> Kind:
    """The kind of files that the user names as the labels.

    Args:
        root: the folder looked at.
        kinds: all kinds of files in it.
        wanted: their folder, or a pattern.
        unread: what is to be said of files that cannot be read, for messages.

    Raises:
        DataError: no files lie there, or only some of a kind.
    """
    fits = named_by(root, wanted)
    fitting = {id(k): sum(map(fits, k.files.values())) for k in kinds}
    best = max(kinds, key=lambda k: (fitting[id(k)] == len(k.files), fitting[id(k)]))
    if not fitting[id(best)]:
        raise DataError(
            f"--label {wanted}: no files of {root} lie there; it has "
            f"{', '.join(sorted(map(example, kinds))[:9])}{unread}"
        )
    if fitting[id(best)] < len(best.files):
        raise DataError(
            f"--label {wanted}: takes {fitting[id(best)]} of {len(best.files)} files like {example(best)}; expected "
            "all of them: name their folder, or a wider pattern"
        )
    return best


def choose_label(root: Path, kinds: Sequence[Kind], stats: Mapping[int, Stats], names: ClassNames, unread: str) -> Kind:
    """The kind of files that is most likely the labels, by names and by look.

    Args:
        root: the folder looked at.
        kinds: all kinds of files in it.
        stats: id of a kind → what some of its files hold.
        names: the list of classes in the folder.
        unread: what is to be said of files that cannot be read, for messages.

    Raises:
        DataError: none looks like labels.
    """
    named = [k for k in kinds if k.says(LABEL_WORDS)]
    by_look = [k for k in kinds if stats[id(k)].labelled and not k.says(RGB_WORDS)]
    candidates = (
        [k for k in named if stats[id(k)].labelled] or [k for k in named if stats[id(k)].patches] or by_look or named
    )
    if not candidates:
        raise DataError(
            f"{root}: none of {', '.join(sorted({k.title for k in kinds})[:9])} looks like labels; expected PNG or NPY "
            f"files with few values in a folder called label, mask or the like{unread}"
        )

    # Of several forms of one label, class ids are wanted, not instances or colours; of several labels, the one that
    # fits the list of classes, then the one with more classes.
    def rank(k: Kind) -> tuple[Any, ...]:
        text = k.title.lower()
        return (
            "instance" in text,
            _misfit(stats[id(k)], names),
            "color" in text or "colour" in text,
            not k.says(LABEL_WORDS),
            "trainid" not in text,
            "id" not in text,
            -len(_classes_seen(stats[id(k)])),
            max(stats[id(k)].channels),
            -len(k.files),
        )

    return min(candidates, key=rank)


def _classes_seen(stats: Stats) -> set[int]:
    """Ids or colours that seem to be classes: they occur in several of the files looked at and are not void."""
    files = max(stats.codes.values(), default=0)
    return {c for c, n in stats.codes.items() if (n > 1 or files <= 2) and c >= 0 and c not in VOID_IDS}


def _misfit(stats: Stats, names: ClassNames) -> tuple[int, int, int]:
    """How far the ids or colours are from the list of classes; less is better.

    Returns:
        The number of ids without a name, 0 not counted as it may be void; of names without an id; of ids without a
        name, 0 counted. All 0 if there is no list.
    """
    if not names.ids:
        return 0, 0, 0
    seen = {c for c in stats.codes if c >= 0 and c not in VOID_IDS}
    known = {r << 16 | g << 8 | b for r, g, b in names.colours}
    if known and seen & known and max(seen) > 255:
        ways = [known]
    elif max(seen, default=0) > max(*names.ids, 255):  # colours without names can only be as many as the classes
        return max(0, len(seen) - len(names.ids) - 1), max(0, len(names.ids) - len(seen)), len(seen)
    else:
        ways = [set(names.ids)] if names.numbered else [set(names.ids), {i + 1 for i in names.ids}]
    return min((len(seen - way - {0}), len(way - seen), len(seen - way)) for way in ways)


def richness(stats: Stats, names: ClassNames) -> str:
    """How many classes a kind of files seems to tell apart, in words.

    Args:
        stats: what some of its files hold.
        names: the list of classes in the folder.
    """
    count = len(_classes_seen(stats))
    without = _misfit(stats, names)[0]
    return f"{count} ids or colours" + (f", {without} of them not in {names.source}" if without else "")


def guess_modalities(
    root: Path, kinds: Sequence[Kind], stats: Mapping[int, Stats], patterns: Mapping[int, str], notes: list[str]
) -> list[Guess]:
    """A modality for each kind of files, RGB first, and how its values are stored.

    Args:
        root: the folder looked at.
        kinds: those beside the labels.
        stats: id of a kind → what some of its files hold.
        patterns: id of a kind → the pattern that finds its files.
        notes: what the user has to know is added to it.

    Raises:
        DataError: no kind of files can be a modality.
    """

    def colourful(k: Kind) -> bool:
        s = stats[id(k)]
        if s.arrays and not k.says(RGB_WORDS):
            return False  # channels of some sensor: colours in such files would be named so
        if s.one_channel and len(s.channels) > 1 and not k.says(RGB_WORDS):
            return False
        return bool(s.channels & {3, 4}) and not s.grey and s.dtypes <= {"uint8", "uint16"}

    usable = [k for k in kinds if max(stats[id(k)].channels) <= MAX_CHANNELS]
    colour = [k for k in usable if colourful(k)]
    rgb = next(
        (k for word in RGB_WORDS for k in colour if k.says([word]) and not k.says(ALL_X_WORDS)),
        colour[0] if len(colour) == 1 and not colour[0].says(ALL_X_WORDS) else None,
    )
    # RGB may hold grey pictures and some with alpha; a sensor of one channel may have some files with equal channels;
    # files of all other kinds must have one number of channels.
    usable = [k for k in usable if k is rgb or len(stats[id(k)].channels) == 1 or stats[id(k)].one_channel]
    for k in kinds:
        if k not in usable:
            counts = " and ".join(map(str, sorted(stats[id(k)].channels)))
            remedy = "convert them first" if len(stats[id(k)].channels) > 1 else "choose some by hand: bands"
            notes.append(f"{example(k)} and others like it have {counts} channels and are left out: {remedy}")
    if not usable:
        raise DataError(
            f"{root}: no modality whose files have one number of channels, 1 to {MAX_CHANNELS}; convert them first"
        )
    guesses: list[Guess] = []
    taken = {"label", "rgb"}
    groups = band_groups([k for k in usable if k is not rgb], stats)
    single = [k for k in usable if not any(k in group for group in groups)]
    known = Counter(_sensor_named(k) for k in single if k is not rgb)
    for k in sorted(single, key=lambda k: k is not rgb):
        s, pattern = stats[id(k)], patterns[id(k)]
        name = (
            "rgb"
            if k is rgb
            else _name([_sensor_named(k) if known[_sensor_named(k)] == 1 else "", k.words[0], k.title], taken)
        )
        taken.add(name)
        why = "colours, and named like it" if k is rgb and k.says(RGB_WORDS) else "colours" if k is rgb else None
        guess = guess_modality(name, pattern, s)
        guesses.append(Guess(name, guess.settings, (*([why] if why else []), *guess.reasons)))
        if k is rgb and s.fourth and s.channels == {4}:
            x = _name(["x"], taken)
            taken.add(x)
            reasons = ("the fourth channel of the colour pictures varies: another sensor's picture, as in MFNet",)
            guesses.append(Guess(x, {"files": pattern, "pick": [3]}, reasons))
    for group in groups:
        name = _name([name_of(group), "bands"], taken)
        taken.add(name)
        guess = guess_modality(name, [patterns[id(k)] for k in group], together(group, stats))
        why_together = [
            f"{len(group)} files per sample, a band each, by their names: {', '.join(k.title for k in group)}"
        ]
        sizes = {k.title: next(iter(stats[id(k)].sizes)) for k in group}
        if len(set(sizes.values())) > 1:
            why_together.append(
                f"the finest comes first, as the others are resized to it: "
                f"{', '.join(f'{title} {h}x{w}' for title, (h, w) in sizes.items())}"
            )
        guesses.append(Guess(name, guess.settings, (*why_together, *guess.reasons)))
    return guesses


def _sensor_named(kind: Kind) -> str:
    """The modality that the kind's words name, those of its folder first; "" if none."""
    return next((name for w in kind.words for name, words in X_WORDS.items() if Kind((w,), {}).says(words)), "")


def _name(wanted: Sequence[str], taken: set[str]) -> str:
    """A name for a modality: the first of `wanted` that is not taken, else the first one with a number."""
    plain = [re.sub(r"[\W_]+", "_", w).strip("_").lower() for w in wanted]
    plain = [f"x{w}" if w[0].isdigit() else w for w in plain if w] or ["x"]
    numbered = (f"{plain[0]}_{i}" for i in itertools.count(2))
    return next(name for name in itertools.chain(plain, numbered) if name not in taken)
