"""The table of models that have a name, `conf/zoo.yaml`: which published row each is, and where its file is found."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from ktb.config.conf_folder import conf_dir
from ktb.errors import CheckpointError, did_you_mean

PREFIX = "zoo:"
"""Begins the name of a model of the table, where a run folder or file could stand as well."""


@dataclass(frozen=True)
class ZooModel:
    """A row of the table.

    Args:
        name: without `PREFIX`.
        row: of the published table, in words: "NYU Depth V2, RGB + HHA, Swin-B".
        experiment: member of the group experiment with that row's data set, modality and score.
        modalities: our names of its streams.
        file: its name in the user's folder.
        sha256: of that file, in hexadecimal; None: not known.
        hub: OWNER/NAME on the Hugging Face hub; None: not known to be there.
    """

    name: str
    row: str
    experiment: str
    modalities: tuple[str, str]
    file: str
    sha256: str | None
    hub: str | None


def zoo_models() -> dict[str, ZooModel]:
    """Name → row, of the whole table."""
    table = yaml.safe_load((conf_dir() / "zoo.yaml").read_text(encoding="utf-8"))
    return {
        name: ZooModel(name, **{**facts, "modalities": tuple(facts["modalities"])}) for name, facts in table.items()
    }


def is_of_zoo(source: object) -> bool:
    """Whether a model is asked for by its name in the table, "zoo:nyu_swin_b"."""
    return isinstance(source, str) and source.startswith(PREFIX)


def zoo_model(source: str) -> ZooModel:
    """The row of a name.

    Args:
        source: with `PREFIX`.

    Raises:
        CheckpointError: there is no such name.
    """
    name, known = source.removeprefix(PREFIX), zoo_models()
    if name not in known:
        near = did_you_mean(name.casefold().replace("-", "_"), known) or f"; there are {', '.join(known)}"
        raise CheckpointError(f"{source}: the zoo has no model of this name{near}")
    return known[name]
