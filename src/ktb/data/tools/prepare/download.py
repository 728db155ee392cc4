"""From what is downloaded to what the loaders expect, for the data sets where the two differ."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from ktb.data.files import similar
from ktb.data.tools.prepare.conversion import Download, claim
from ktb.data.tools.prepare.mfnet import plan_mfnet
from ktb.data.tools.prepare.nyu import plan_nyu
from ktb.data.tools.prepare.sunrgbd import plan_sunrgbd
from ktb.errors import ConfigError, DataError


def plan_download(name: str, source: Path, target: Path) -> Download:
    """Look at a download; make or continue the folder of the results.

    Args:
        name: one of `SOURCES`.
        source: folder of the downloaded files.
        target: folder of the results.

    Raises:
        DataError: files of the download are missing or not what they should be; `target` holds something else.
        ConfigError: there is nothing to prepare for `name`, or h5py is not installed.
    """
    if name not in SOURCES:
        raise ConfigError(f"nothing to prepare for {name!r}; there is {', '.join(SOURCES)}")
    if not source.is_dir():
        raise DataError(f"{source}: no such folder{similar(source)}; expected the one with the downloaded files")
    if target.resolve() == source.resolve():
        raise DataError(f"{target}: is the source itself; expected another folder for the results")
    planned = SOURCES[name](source, target)
    claim(target, planned.origin)
    return planned


SOURCES: dict[str, Callable[[Path, Path], Download]] = {"nyu": plan_nyu, "sunrgbd": plan_sunrgbd, "mfnet": plan_mfnet}
"""Data sets whose download differs from what the loaders read."""


def next_steps(name: str, target: Path) -> list[str]:
    """Commands that come between `finish` and training.

    Args:
        name: of the data set.
        target: folder of the results.
    """
    folder = shlex.quote(str(target))
    hha = f"ktb-data hha {folder}/Depth {folder}/HHA --raw {folder}/RawDepth --unit m"
    return [*([hha] if name == "nyu" else []), f"ktb-data check dataset={name} dataset.root={folder}"]
