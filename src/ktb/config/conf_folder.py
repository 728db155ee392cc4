"""Where the folder `conf/` lies. Apart from `compose`, as reading a file in it needs no Hydra."""

from __future__ import annotations

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
