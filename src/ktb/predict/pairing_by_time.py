"""The user's frames of sensors that run at their own rates, paired by time as in training (`ktb.data.timestamps`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ktb.data.sets.folder_pairing import LISTS
from ktb.data.timestamps import Frame, as_text, list_frames, named_frames, pair
from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError
from ktb.io import existing, normal
from ktb.predict.pairing import PictureFiles, distinct, find


def plan_by_time(
    sources: Mapping[str, Sequence[str]],
    out: Path,
    *,
    max_gap: float,
    time_unit: str | None = None,
    allow_missing: bool = False,
) -> tuple[list[PictureFiles], list[Outcome], str]:
    """Pictures in the order of their names: each frame of the first modality with the nearest one of the others.

    Args:
        sources: modality → a folder or a glob pattern as for `ktb.predict.pairing.plan`, with times in the files'
            names, or a list ending in .txt or .csv with "time file" per line; several where the modality is stored in
            several files.
        out: folder of the results; what lies in it is left out.
        max_gap: seconds that a partner may be away.
        time_unit: of the times, see `ktb.data.timestamps.nanoseconds`.
        allow_missing: a frame without a partner becomes a picture without that modality; otherwise it is left out.

    Returns:
        The pictures, a failure for each file that is of an unread format, and in words how many frames were paired.

    Raises:
        DataError: nothing is found, a file has no time, or no frame has all its partners.
    """
    given = [(modality, source) for modality, several in sources.items() for source in several]
    (first, where), *others = given
    frames, names, failures = _frames(first, where, out, time_unit)
    partners = []
    for modality, source in others:
        of_modality, _, unread = _frames(modality, source, out, time_unit)
        partners.append(pair(frames, {modality: of_modality}, max_gap).partners)
        failures += unread
    pictures, alone = [], 0
    for key in [(sequence, frame) for sequence, of_sequence in frames.items() for frame in of_sequence]:
        files = {first: [Path(key[1].file)]}
        for (modality, _), paired in zip(others, partners, strict=True):
            if key in paired:
                files.setdefault(modality, []).append(Path(paired[key][modality].file))
        whole = {modality: tuple(paths) for modality, paths in files.items() if len(paths) == len(sources[modality])}
        alone += len(whole) < len(sources)
        if len(whole) == len(sources) or (whole and allow_missing):
            pictures.append(PictureFiles(names[key[1].file], whole))
    within = as_text(max_gap)
    if not pictures:
        raise DataError(
            f"--{first} {where}: none of {len(names)} frames has a frame of each of {', '.join(m for m, _ in others)} "
            f"within {within}; correct --max-gap, or use --allow-missing to go without"
        )
    note = f"{len(names) - alone} of {len(names)} frames of {first} paired by time, within {within}"
    if alone:
        note += f"; {alone} without partner " + ("go without" if allow_missing else "are left out (or --allow-missing)")
    return sorted(distinct(pictures), key=lambda picture: picture.name), failures, note


def _frames(
    modality: str, source: str, out: Path, time_unit: str | None
) -> tuple[dict[str, list[Frame]], dict[str, str], list[Outcome]]:
    """Sequence → the frames of one option, with whole paths; file → what its results are called; files not read."""
    path = existing(Path(source))
    if path.is_file() and source.endswith(LISTS):
        listed = list_frames(path.parent, {"": path.name}, time_unit)[""]
        names = {str(path.parent / frame.file): normal(Path(frame.file).with_suffix("").as_posix()) for frame in listed}
        return {"": [frame._replace(file=str(path.parent / frame.file)) for frame in listed]}, names, []
    if path.is_file():
        raise DataError(
            f"--{modality} {source}: is one file, which cannot be paired by time; expected a folder, a pattern, or a "
            "list (.txt or .csv) with a time and a file per line: use --max-gap none to pair by name"
        )
    found = find(source, out.resolve())
    try:
        frames = named_frames({key: str(file.path) for key, file in found.files.items()}, time_unit)
    except DataError as error:
        raise DataError(f"{error}; or use --max-gap none to pair by name") from None
    return frames, {str(file.path): file.name for file in found.files.values()}, found.failures
