"""Models by name instead of by path: of the zoo (`zoo:nyu_swin_b`), or of the Hugging Face hub (OWNER/NAME).

Needs no PyTorch, as ktb-eval asks before its settings are known to be right.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ktb.config.zoo import PREFIX, ZooModel, is_of_zoo, zoo_model
from ktb.errors import CheckpointError
from ktb.io import expanded
from ktb.weights.hub import BUNDLE_WEIGHTS, fetch, is_hub_name

PLACE = "KTB_ZOO"
"""The variable of the environment that says where models of the zoo are: a folder, or an organisation of the hub."""

_SUFFIXES = (".ckpt", ".pth", ".pt", ".safetensors")


def name_of(source: str) -> str | None:
    """The name of a model that is asked for by name.

    Args:
        source: what the user wrote where a run folder or file could stand as well.

    Returns:
        the name in the zoo, or OWNER/NAME; None: it is a path. What lies here, or would lie in a folder that is here,
        such as a misspelt run, is a path.
    """
    if is_of_zoo(source):
        return source.removeprefix(PREFIX)
    path = Path(source)
    if is_hub_name(source) and path.suffix not in _SUFFIXES and not path.parent.exists() and not path.is_symlink():
        return source
    return None


def fetched(source: str) -> Path | None:
    """The file of weights of a model that is asked for by name; None: it is a path.

    Raises:
        CheckpointError: no such name, its file is not where it is expected, or is another file.
    """
    if is_of_zoo(source):
        return _of_zoo(zoo_model(source))
    return fetch(source) if name_of(source) else None


def in_folder(model: ZooModel) -> Path | None:
    """The file of a model of the zoo in the folder that `PLACE` names; None: there is none."""
    folder = expanded(os.environ.get(PLACE) or os.devnull)
    files = (folder / model.name / BUNDLE_WEIGHTS, folder / model.file)
    return next((file for file in files if file.is_file()), None)


def _of_zoo(model: ZooModel) -> Path:
    place, what = os.environ.get(PLACE, ""), f"{PREFIX}{model.name}"
    if not place:
        if model.hub is None:
            raise CheckpointError(
                f"{what}: its file is not known to be on the hub; get that of {model.row} from its authors, save it as "
                f"FOLDER/{model.file} and set {PLACE}=FOLDER"
            )
        return _checked(fetch(model.hub, (BUNDLE_WEIGHTS, model.file)), model)
    if (file := in_folder(model)) is not None:
        return _checked(file, model)
    if expanded(place).is_dir():
        raise CheckpointError(
            f"{what}: no {model.file} in {PLACE}={place}; save the published file of {model.row} there under that "
            f"name, or a bundle as the folder {model.name}"
        )
    if not re.fullmatch(r"[\w.-]+", place):
        raise CheckpointError(f"{what}: {PLACE}={place}: no such folder")
    try:
        file = fetch(f"{place}/{model.name}", (BUNDLE_WEIGHTS, model.file))
    except CheckpointError as error:
        raise CheckpointError(f"{what}: {PLACE}={place} is no folder, so an organisation of the hub: {error}") from None
    return _checked(file, model)


def _checked(file: Path, model: ZooModel) -> Path:
    """The file, if it is the published one of the table; bundles say in their header what they are."""
    if file.name != model.file or model.sha256 is None:
        return file
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != model.sha256:
        raise CheckpointError(
            f"{file}: expected the published file of {model.row} with SHA-256 {model.sha256[:16]}..., found "
            f"{found[:16]}...; get it again"
        )
    return file
