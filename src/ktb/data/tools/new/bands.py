"""Bands of one sensor that lie in a file each: which kinds of files belong together as one modality."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ktb.data.tools.new.kinds import Kind
from ktb.data.tools.new.stats import Stats
from ktb.data.tools.new.words import band_of

_FEWEST_NAMED = 3
"""Colours and near infrared in files of their own may be sensors of their own: two of them stay apart."""


def band_groups(kinds: Sequence[Kind], stats: Mapping[int, Stats]) -> list[list[Kind]]:
    """Kinds of one channel and type each whose names differ in the number or name of a band alone.

    Args:
        kinds: those beside the labels.
        stats: id of a kind → what some of its files hold.

    Returns:
        Groups of two or more, the file of most pixels first, as the others are resized to it; else by band.
    """
    found: dict[tuple[object, ...], list[tuple[tuple[int, str], Kind]]] = defaultdict(list)
    for kind in kinds:
        s = stats[id(kind)]
        places = [i for i, word in enumerate(kind.words) if band_of(word)]
        if s.channels != {1} or len(places) != 1:
            continue
        band = band_of(kind.words[places[0]])
        assert band is not None
        rest = tuple("" if i == places[0] else word for i, word in enumerate(kind.words))
        found[rest, not band[0], frozenset(s.dtypes)].append((band, kind))
    groups = []
    for (_, named, _), members in found.items():
        if len(members) >= (_FEWEST_NAMED if named else 2):
            ordered = [kind for _, kind in sorted(members, key=lambda m: m[0])]
            finest = max(ordered, key=lambda k: max(h * w for h, w in stats[id(k)].sizes))
            groups.append([finest, *(k for k in ordered if k is not finest)])
    return groups


def together(group: Sequence[Kind], stats: Mapping[int, Stats]) -> Stats:
    """What the files of a group hold, stacked."""
    several = [stats[id(k)] for k in group]
    return replace(
        several[0],
        channels={len(group)},
        values=np.concatenate([s.values for s in several]),
        not_finite=max(s.not_finite for s in several),
        nodata=set().union(*(s.nodata for s in several)),
        grey=False,
        one_channel=False,
        most=max(s.most for s in several),
    )


def name_of(group: Sequence[Kind]) -> str:
    """What is left of the kinds' names without the band; "" if nothing."""
    words = [word for word in group[0].words if word and not band_of(word)]
    return re.sub(r"[\W_]+", "_", "_".join(words)).strip("_")
