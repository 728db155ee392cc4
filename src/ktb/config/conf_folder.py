"""Where the folder `conf/` lies. Apart from `compose`, as reading a file in it needs no Hydra."""

from __future__ import annotations

import os
from pathlib import Path

from ktb.errors import ConfigError


def conf_dir() -> Path:
    """The folder with train.yaml: inside the package of an installed wheel, else at the top of the checkout."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "conf", package.parents[1] / "conf")
    for place in places:
        if (place / "train.yaml").is_file():
            return place
    raise ConfigError(f"no train.yaml in {places[0]} nor in {places[1]}: this installation of ktb is incomplete")


def refuse_unreadable(folder: Path) -> None:
    """Refuse a folder of the user's own of which a part may not be read: Hydra would pass over it without a word.

    Raises:
        ConfigError: naming the folder or file.
    """
    groups = [group.name for group in conf_dir().iterdir() if group.is_dir()]
    for place in (folder, *(folder / group for group in groups)):
        if not place.is_dir():
            continue
        if not os.access(place, os.R_OK | os.X_OK):
            raise ConfigError(f"{place}: this folder may not be read; change its permissions")
        for file in place.glob("*.yaml"):
            if not os.access(file, os.R_OK):
                raise ConfigError(f"{file}: cannot be read; change its permissions, or the link that it is")


def refuse_namesakes(folder: Path) -> None:
    """Refuse a folder of the user's own with a file that ktb has by the same name, with other content: ktb's would be
    read in its place, without a word.

    Raises:
        ConfigError: naming the file.
    """
    ours = conf_dir()
    for file in sorted(ours.rglob("*.yaml")):
        name = file.relative_to(ours)
        theirs = folder / name
        if theirs.is_file() and _content(theirs) != _content(file):
            free = name.with_name(f"my_{name.name}")
            choose = f" and choose it with {name.parent}={free.stem}" if len(name.parts) > 1 else ""
            raise ConfigError(
                f"{theirs}: ktb has a {name} of its own, which would be read in its place: call yours {free}{choose}"
            )


def _content(file: Path) -> bytes:
    return file.read_bytes().replace(b"\r\n", b"\n").strip()
