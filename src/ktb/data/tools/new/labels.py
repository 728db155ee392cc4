"""What the labels of a folder mean: ids or colours, void, classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ktb.data.readers.label import ranges
from ktb.data.readers.label_palettes import Palette, conflict
from ktb.data.spec import IGNORE, MAX_CLASSES, Colour, ignore_index
from ktb.data.tools.new.class_names import ClassNames
from ktb.data.tools.new.label_files import Counts, LabelSeen
from ktb.data.tools.new.smoothed import refuse_smoothed
from ktb.errors import DataError

MAX_COLOURS = 64
"""More colours, or ids beyond 255, are looked at closely: are they classes at all?"""
MANY = 9
"""Ids from which on those that are in one file only are remarked on."""
CLOSE = 2
"""Steps of 256 in each channel, up to which two colours are hardly those of two classes."""
SPECK = 8
"""Pixels of a colour in a file, below which it is no class's but a smoothed edge's."""

VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
VOID_IDS = (IGNORE, 65535, 2**31 - 1, 2**32 - 1, 2**63 - 1)
"""The greatest numbers of the usual types, which programs write for "no class"."""


@dataclass
class Labels:
    """What the labels mean: settings of `dataset.label` and why, classes, palette, notes for the user."""

    settings: dict[str, Any]
    reasons: list[str]
    classes: list[tuple[str, str]]
    """Name, and what is known of it."""
    palette: list[Colour] | None
    notes: list[str]


def guess_labels(seen: Sequence[LabelSeen], names: ClassNames) -> Labels:
    """What the ids or colours of the labels mean.

    Args:
        seen: what the files hold.
        names: the list of classes in the folder, empty if there is none.

    Raises:
        DataError: labels of several forms, no class in them, or more ids or colours than there can be classes.
    """
    settings, reasons, notes, seen = _alpha(seen, names)
    by_id = all(s.ids is not None for s in seen)
    differ = conflict((s.path, {i: s.palette[i] for i, _ in s.ids or () if 0 <= i < len(s.palette)}) for s in seen)
    if by_id and not differ:
        if any(s.channels == 2 for s in seen):
            notes.append("labels have two channels: ids are taken from the first (label.channel: 1 takes the other)")
        elif any(s.channels > 2 for s in seen):
            reasons.append("several channels with the same ids: the first is taken")
        elif any(s.has_alpha for s in seen):
            reasons.append("ids in grey, beside alpha")
        # Equal channels need no such setting, and without it a file whose channels differ is still refused.
        if any(s.channels == 2 for s in seen) or (
            any(s.has_alpha for s in seen) and all(s.channels == 1 for s in seen)
        ):
            settings = {"channel": 0} | settings
        found = _from_ids(_tally(s.ids for s in seen), names, seen)
    elif not differ and (first := _first_channel(seen)) is not None:
        settings = {"channel": 0} | settings
        reasons.append("ids in the first channel")
        found = _from_ids(first, names, seen)
    else:
        if differ:
            _require_colours(seen, differ)
            reasons.append("palettes of the files differ, so ids are no class ids: read by colour")
            notes.append(f"labels are read by colour: {differ}")
        elif odd := next((s for s in seen if s.colours is None), None):
            several = next(s for s in seen if s.ids is None)
            raise DataError(
                f"{several.path}: has several channels, {odd.path} has one; expected labels of one form: convert them"
            )
        found = _from_colours(_tally(s.colours for s in seen), names.colours, seen)
    found.settings = settings | found.settings
    found.reasons = reasons + found.reasons
    found.notes = notes + found.notes
    return found


def _tally(counts: Any) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for counted in counts:
        total.update(dict(counted or ()))
    return total


def _alpha(
    seen: Sequence[LabelSeen], names: ClassNames
) -> tuple[dict[str, Any], list[str], list[str], Sequence[LabelSeen]]:
    """What transparent pixels mean: settings, reasons, notes, and the files with hidden pixels counted as it says."""
    if not any(s.hidden or s.smooth_alpha for s in seen):
        return {}, [], [], seen
    below = _tally(s.hidden for s in seen)
    shown = _tally(s.ids if s.ids is not None else s.colours for s in seen)
    known: Mapping[Any, str] = {**names.ids, **names.colours}
    lost = [known[c] for c in below if c in known and c not in shown and known[c].lower() not in VOID_NAMES]
    note = ""
    if any(s.smooth_alpha for s in seen):
        first = next(s.path for s in seen if s.smooth_alpha)
        note = (
            f"{first}: alpha has values between 0 and the greatest, so it is not taken for unlabelled: look at preview"
        )
    elif not shown:
        note = "all pixels of all labels are transparent, so alpha says nothing"
    elif lost:
        note = f"transparent pixels are not taken for unlabelled, as the list of classes names them: {', '.join(lost)}"
    if not note:
        share = sum(below.values()) / sum((below + shown).values())
        return {}, [f"transparent in {share:.1%} of pixels: unlabelled"], [], seen
    merged = []
    for s in seen:
        extra = Counter(dict(s.hidden))
        if s.ids is not None:
            s = replace(
                s,
                ids=tuple((Counter(dict(s.ids)) + extra).items()),
                colours=s.colours and tuple(_colours_too(s, extra).items()),
            )
        else:
            s = replace(s, colours=tuple((Counter(dict(s.colours or ())) + extra).items()))
        merged.append(replace(s, hidden=()))
    return {"alpha": "unused"}, [], [note], merged


def _colours_too(s: LabelSeen, extra: Counter[int]) -> Counter[Any]:
    """Pixels per colour of a file, those of its hidden ids included."""
    added = {(s.palette[i] if s.palette else (i, i, i)): n for i, n in extra.items()}
    return Counter(dict(s.colours or ())) + Counter(added)


def _first_channel(seen: Sequence[LabelSeen]) -> Counter[int] | None:
    """Pixels per id if the first channel has few small values and all others are constant; else None."""
    colours = _tally(s.colours for s in seen)
    if any(s.colours is None or s.palette for s in seen) or len({(g, b) for _, g, b in colours}) > 1:
        return None
    if max((r for r, _, _ in colours if r != IGNORE), default=0) >= 100:
        return None
    return Counter({r: n for (r, _, _), n in colours.items()})


def _require_colours(seen: Sequence[LabelSeen], differ: str) -> None:
    """Raise DataError unless every file says by its colours what its ids say."""
    for s in seen:
        if s.colours is None:
            raise DataError(f"{differ}; and {s.path} has no colours: write all labels again with class ids")
        if s.ids is not None and s.palette and len(dict(s.colours)) < len(s.ids):
            raise DataError(
                f"{differ}; and in {s.path} several ids have one colour, so colours cannot tell them apart: write the "
                "labels again with class ids"
            )


def _from_ids(counted: Counter[int], given: ClassNames, seen: Sequence[LabelSeen]) -> Labels:
    ids, total = sorted(counted), sum(counted.values())
    reasons = [f"ids {ranges(ids, 12)}"]
    notes: list[str] = []
    if both := _two_forms(seen):
        notes.append(both)
        counted = Counter({0: counted[0], 1: counted[1] + counted[IGNORE]})
        ids = [0, 1]
    palette = max((s.palette for s in seen), key=len, default=())
    names = _names_of_ids(counted, given, palette)
    void, kept, stretched = _void_ids(ids, names, {s.nodata for s in seen}, reasons)
    notes += refuse_smoothed(seen, counted, names, by_colour=False)
    _require_classes(ids, kept, names, seen)
    known = [*kept, *(i for i in names if i not in void)]
    first, last = min(known, default=0), max(known, default=0)
    dense = not stretched and first >= 0 and len(kept) * 2 >= last - first + 1
    classes = [i for i in range(first, last + 1) if i not in void] if dense else kept
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"{seen[0].path}: and the other labels hold {len(kept)} different ids, {ids[0]} to {ids[-1]}; expected at "
            f"most {MAX_CLASSES} classes: are they instances, or measurements?"
        )
    if dense:
        if first == 1 and 0 not in ids:
            void.append(0)
        if missing := [i for i in classes if i not in counted]:
            notes.append(f"no pixel of the ids {ranges(missing, 12)}: take these classes out if they do not exist")
    if len(kept) >= MANY and len(seen) > 2 and _in_one_file_only(kept, [s.ids for s in seen]):
        notes.append(f"most of the {len(kept)} ids are in one file only: are they instances rather than classes?")
    settings: dict[str, Any] = {}
    if not dense or len(classes) < last - first + 1:
        settings["map"] = {stored: i for i, stored in enumerate(classes)}
        reasons.append(f"{'void between them' if dense else 'far apart'}: each is mapped to a class")
    elif first:
        settings["offset"] = -first
        reasons.append(f"the lowest is {first}, which becomes class 0")
    # The usual value of void must always be named, unless it is the id of a class.
    usual = ignore_index(len(classes))
    ignore = sorted({*void, *([] if usual in classes else [usual])})
    if ignore != [usual]:
        settings["ignore"] = ignore
    if both and settings == {}:
        settings = {"map": {0: 0, 1: 1, IGNORE: 1}, "ignore": []}
    listed = [(names.get(i, f"class_{i}"), f"stored {i}, {counted[i] / max(total, 1):.1%} of pixels") for i in classes]
    colours = [palette[i] if 0 <= i < len(palette) else (0, 0, 0) for i in classes]
    own = bool(palette) and len(set(colours)) == len(colours)
    if own:
        reasons.append("colours from the files' own palette")
    if not names:
        notes.append("classes have no names yet: write them into the file (or put a classes.txt into the folder)")
    return Labels(settings, reasons, listed, colours if own else None, notes)


def _two_forms(seen: Sequence[LabelSeen]) -> str:
    """What to say of masks of which some hold 0 and 1, others 0 and 255, and none holds both; empty otherwise."""
    forms: dict[int, list[LabelSeen]] = {1: [], IGNORE: []}
    for s in seen:
        here = {i for i, _ in s.ids or ()} - {0}
        if len(here) > 1 or not here <= forms.keys():
            return ""
        for i in here:
            forms[i].append(s)
    if not all(forms.values()):
        return ""
    ones, others = forms[1], forms[IGNORE]
    return (
        f"{len(ones)} labels hold 0 and 1 (first: {ones[0].path}), {len(others)} hold 0 and {IGNORE} (first: "
        f"{others[0].path}), none holds both: 1 and {IGNORE} are taken for one class (label.map); if {IGNORE} is void, "
        "take map and ignore out"
    )


def _names_of_ids(counted: Counter[int], given: ClassNames, palette: Palette) -> Mapping[int, str]:
    """Id → name, by the colours of the palette or by the order of the list of classes."""
    ids = sorted(counted)
    names, numbered = given.ids, given.numbered
    painted = [i for i in ids if i != IGNORE and 0 <= i < len(palette)]
    if given.colours and painted and all(palette[i] in given.colours for i in painted):
        # The colours say which id has which name, whatever the order of the list. Unused entries at the end of a
        # palette repeat an earlier colour and mean nothing.
        meant = [i for i, c in enumerate(palette) if c in given.colours and (i in counted or palette.index(c) == i)]
        names, numbered = {i: given.colours[palette[i]] for i in meant}, True
    plain = [i for i in ids if i >= 0 and i not in VOID_IDS]
    if not numbered and len(plain) > 1 and len(names) == plain[-1] and not _far_apart(plain):
        # K names and ids up to K: the names are those of the ids 1 to K.
        names = {i + 1: name for i, name in names.items()}
    return names


def _void_ids(
    ids: Sequence[int], names: Mapping[int, str], nodata: Set[float | None], reasons: list[str]
) -> tuple[list[int], list[int], bool]:
    """Ids that are void, ids that are classes, and whether those (255 and the like included) are far apart; a reason is
    added for each choice that the list of classes does not make."""
    void = [i for i in {*ids, *names} if names.get(i, "").lower() in VOID_NAMES]
    tagged = [i for i in ids if i in nodata and i not in names]
    if tagged:
        void += tagged
        reasons.append(f"{ranges(tagged)} is void by the files' own tag (GDAL_NODATA)")
    negative = [i for i in ids if i < 0 and i not in names and i not in void]
    if negative and ids != [-1, 1]:  # some programs write -1 and 1 for two classes
        void += negative
        reasons.append(f"{ranges(negative, 12)} is void: no class has a negative id")
    kept = [i for i in ids if i not in void]
    stretched = _far_apart(kept)
    if not stretched:
        for i in VOID_IDS:
            others = [k for k in kept if k != i]
            inside = bool(others) and min(others) < i < max(others)
            # It is void if it is greater than all other ids, or has no neighbours among them.
            if i in kept and others and i not in names and not (inside and {i - 1, i + 1} & set(kept)):
                kept.remove(i)
                void.append(i)
                reasons.append(f"{i} is void")
    if 0 in kept and names and 0 not in names and max(names) == max(kept):
        kept.remove(0)
        void.append(0)
        reasons.append("0 has no name in the list of classes: void")
    return void, kept, stretched


def _require_classes(
    ids: Sequence[int], kept: Sequence[int], names: Mapping[int, str], seen: Sequence[LabelSeen]
) -> None:
    """Raise DataError if no id is a class, or if ids seem to be instances."""
    where = seen[0].path
    if not kept:
        raise DataError(f"{where}: and the other labels hold no class, only {ranges(ids, 12) or 'transparent pixels'}")
    unnamed = [i for i in kept if i not in names]
    if len(kept) > IGNORE and len(unnamed) > IGNORE and _in_one_file_only(unnamed, [s.ids for s in seen]):
        raise DataError(
            f"{where}: and the other labels hold {len(kept)} different ids, most of them in one file only; expected "
            "ids of classes: are they instances, or measurements? Write class ids, or name the classes in a classes.txt"
        )


def _far_apart(ids: Sequence[int]) -> bool:
    return len(ids) > 1 and int(np.diff(ids).min()) >= 10


def _from_colours(counted: Counter[Colour], names: Mapping[Colour, str], seen: Sequence[LabelSeen]) -> Labels:
    total = max(sum(counted.values()), 1)
    unnamed = [c for c in counted if c not in names]
    if len(unnamed) > MAX_COLOURS:
        files = Counter(c for s in seen for c, _ in s.colours or ())
        specks = sum(counted[c] < SPECK * files[c] for c in unnamed)
        if 2 * specks > len(unnamed) or _in_one_file_only(unnamed, [s.colours for s in seen]):
            raise DataError(
                f"{seen[0].path}: and the other labels have {len(counted)} colours, most of them of few pixels or in "
                "one file only; expected one colour per class: were they resized or saved as JPEG, or are they "
                "instances? Write them again with class ids, or name the colours in a classes.txt (name r g b)"
            )
    close = _close(unnamed)
    if 2 * len(close) > len(unnamed):
        raise DataError(
            f"{seen[0].path}: and the other labels have {len(counted)} colours, {len(close)} of which differ from "
            f"another by {CLOSE} or less in each channel, as {close[0]} does; expected one colour per class: were they "
            "saved as JPEG once, or is one channel an id? Write them again with class ids, or name the colours in a "
            "classes.txt (name r g b)"
        )
    notes = refuse_smoothed(seen, counted, names, by_colour=True)
    void = [c for c in names if names[c].lower() in VOID_NAMES]
    classes = [c for c in names if names[c].lower() not in VOID_NAMES]
    classes += sorted(c for c in unnamed)
    if not 0 < len(classes) <= MAX_CLASSES:
        raise DataError(
            f"{seen[0].path}: and the other labels have {len(classes)} colours of classes; expected 1 to "
            f"{MAX_CLASSES}: write them again with class ids"
        )
    settings: dict[str, Any] = {"colours": True}
    if void:
        settings["ignore"] = [list(c) for c in void]
    listed = [
        (names.get(c, f"class_{i}"), f"colour {c}, {counted[c] / total:.1%} of pixels") for i, c in enumerate(classes)
    ]
    if unnamed:
        notes.append(
            f"{len(unnamed)} colours have no name yet: write them into the file; if one means void, move it from "
            "palette and classes to label.ignore"
        )
    return Labels(settings, [f"{len(counted)} colours"], listed, classes, notes)


def _close(colours: Sequence[Colour]) -> list[Colour]:
    """Those that nobody could tell from another one, as no palette has them and JPEG makes them."""
    values = np.array(colours, np.int64).reshape(-1, 3)
    apart = np.abs(values[:, None] - values[None]).max(axis=2)
    np.fill_diagonal(apart, CLOSE + 1)
    return [colour for colour, nearest in zip(colours, apart.min(axis=1, initial=256), strict=True) if nearest <= CLOSE]


def _in_one_file_only(found: Sequence[Any], counts: Sequence[Counts | None]) -> bool:
    """Whether most of these ids or colours occur in one of several files only, as instances do."""
    wanted = set(found)
    files = Counter(c for counted in counts for c, _ in counted or () if c in wanted)
    return len(counts) > 1 and 2 * sum(n == 1 for n in files.values()) > len(found)
