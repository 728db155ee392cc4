"""Samples to convert and files to write; every file appears under its name only when it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ktb.data.arrays import Array
from ktb.data.files import similar
from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError
from ktb.io import atomic_file, is_empty

MANIFEST = "prepared.json"
"""In the target folder: what it was made from."""


@dataclass(frozen=True)
class Conversion:
    """One sample to convert.

    Args:
        target: folder of the results.
        writes: the files that it makes, below `target`.
        make: `make(**given)` returns file below `target` → array, or file to copy.
        given: its arguments.
    """

    target: Path
    writes: tuple[str, ...]
    make: Callable[..., Mapping[str, Array | Path]]
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Download:
    """What a download holds.

    Args:
        jobs: all samples.
        lists: split → lines of its list.
        origin: what the manifest says.
        notes: oddities of the download.
    """

    jobs: list[Conversion]
    lists: Mapping[str, Sequence[str]]
    origin: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)


def convert(job: Conversion, *, overwrite: bool = False) -> Outcome:
    """Write the files of one sample that are not there yet.

    Args:
        job: the sample.
        overwrite: write them even if they are there.

    Returns:
        What became of it; it never raises for what a file holds.
    """
    first = job.target / job.writes[0]
    try:
        if not overwrite and all((job.target / file).is_file() for file in job.writes):
            return Outcome(first, "kept")
        for file, content in job.make(**job.given).items():
            path = job.target / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as temporary:
                if isinstance(content, Path):
                    shutil.copyfile(content, temporary)
                elif path.suffix == ".npy":
                    with temporary.open("wb") as stream:
                        np.save(stream, content)
                else:
                    Image.fromarray(content).save(temporary, "PNG", compress_level=3)
    except DataError as error:
        return Outcome(first, "failed", str(error))
    except FileNotFoundError as error:
        path = Path(error.filename)
        return Outcome(first, "failed", f"{path}: no such file{similar(path)}; download or unpack it again")
    except OSError as error:
        return Outcome(first, "failed", f"{error.filename or first}: {error.strerror or error}")
    return Outcome(first, "written")


def finish(planned: Download, target: Path) -> None:
    """Write the split lists; to be called when every sample is there.

    Args:
        planned: what `plan_download` gave.
        target: folder of the results.
    """
    for split, lines in planned.lists.items():
        with atomic_file(target / f"{split}.txt") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def claim(target: Path, origin: Mapping[str, Any], record: str = MANIFEST) -> None:
    """Make the folder of the results, or find that it was begun from the same files with the same settings.

    Args:
        target: the folder.
        origin: what it is made from, as plain values; see `origin_of`.
        record: name of the file in it that says so.

    Raises:
        DataError: it was made from something else, holds other files, or cannot be made.
    """
    manifest = target / record
    text = json.dumps(origin, indent=2, sort_keys=True) + "\n"
    if manifest.is_file():
        if manifest.read_text(encoding="utf-8") != text:
            raise DataError(
                f"{manifest}: says that the folder was made from other files or with other settings than those given; "
                "choose another folder, or delete this one"
            )
        return
    if target.exists() and (not target.is_dir() or not is_empty(target)):
        raise DataError(f"{target}: exists and was not begun by this command; expected a new or empty folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with atomic_file(manifest) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{target}: cannot be made a folder for the results ({error.strerror})") from None


def origin_of(name: str, files: Sequence[Path]) -> dict[str, Any]:
    """What the manifest says of a download.

    Args:
        name: of the data set.
        files: the files that identify the download, by path and size.
    """
    return {"dataset": name, "made_from": {str(f.resolve()): f.stat().st_size for f in files}}


def required(path: Path, what: str) -> Path:
    """`path`, if it is a file.

    Args:
        path: the file.
        what: what is expected there, for the message.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file{similar(path)}; expected {what}")
    return path
