"""What was found, as a configuration for `dataset=folder` with the reason beside every guess, and in the terminal."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ktb.data.readers.decode import MAX_PIXELS
from ktb.data.sets.folder import FolderDataModule
from ktb.data.tools.new.found import Survey, module_settings
from ktb.data.tools.new.moments import standardise
from ktb.data.tools.new.progress import Watch, plain_watch
from ktb.data.tools.new.recipe import guess_recipe
from ktb.errors import ConfigError, DataError, KTBError
from ktb.io import atomic_file

LONG = 160
"""Settings of a modality that need more characters are written one per line."""


def new_file(name: str, folder: Path) -> Path:
    """The file that a configuration will be written to: `folder`/dataset/`name`.yaml.

    Args:
        name: of the data set.
        folder: of configurations.

    Raises:
        DataError: there is such a file already.
        ConfigError: `name` cannot be a data set's.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ConfigError(
            f"{name!r} cannot name a data set; expected letters, digits and _, a letter first: --name NAME"
        )
    path = folder / "dataset" / f"{name}.yaml"
    if path.exists():
        raise DataError(f"{path}: exists already; choose another --name, or delete it")
    return path


def write_yaml(
    found: Survey, name: str, folder: Path, *, watch: Watch = plain_watch, workers: int | None = None
) -> Path:
    """Write the configuration, and lists beside it where they are needed.

    Args:
        found: what the folder holds.
        name: of the data set.
        folder: of configurations.
        watch: shows the progress of reading the training split.
        workers: processes that read it; None: one per core.

    Returns:
        The file, `folder`/dataset/`name`.yaml.

    Raises:
        DataError: there is such a file already, or it cannot be written.
        ConfigError: `name` cannot be a data set's.
    """
    path = new_file(name, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if found.lists:
            found.splits = {}
            for split, keys in found.lists.items():
                target = (path.parent / f"{name}_{split}.txt").resolve()
                with atomic_file(target) as temporary:
                    temporary.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
                found.splits[split] = str(target)
        with suppress(KTBError):  # `ktb-data check` or training will say why the data cannot be opened
            data = FolderDataModule(**module_settings(found))
            standardise(found, data, watch, workers)
            found.recipe = guess_recipe(data)
        with atomic_file(path) as temporary:
            temporary.write_text(_yaml(found, name, folder), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def show(found: Survey, console: Console) -> None:
    """Print what was guessed, and why.

    Args:
        found: what the folder holds.
        console: where to print.
    """
    table = Table(title=str(found.root), title_justify="left")
    for head in ("what", "files", "why"):
        table.add_column(head, overflow="fold")
    for guess in (*found.modalities, found.label):
        table.add_row(guess.name, escape(str(guess.settings["files"])), escape("; ".join(guess.reasons)))
    classes = ", ".join(name for name, _ in found.classes[:12]) + (", ..." if len(found.classes) > 12 else "")
    table.add_row("classes", f"{len(found.classes)}", escape(classes))
    table.add_row("splits", escape(", ".join(f"{k}: {v}" for k, v in found.splits.items())), escape(found.split_reason))
    for setting in found.recipe:
        table.add_row(setting.key, escape(_flow(setting.value)), escape(setting.reason))
    console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _yaml(found: Survey, name: str, folder: Path) -> str:
    lines = [
        f"# Written by `ktb-data new` after a look at {found.root.resolve()}. Guesses have their reasons beside them;",
        f"# correct what is wrong, then: ktb-data check --config-dir {folder} dataset={name}, and preview likewise.",
        "# All settings there are: conf/dataset/folder.yaml.",
        "defaults:",
        "  - folder",
        "  - _self_",
        "",
        f"name: {name}",
        f"root: {_flow(str(found.root.resolve()))}",
        "",
        "modalities:",
    ]
    for guess in found.modalities:
        lines += [f"  # {reason}" for reason in guess.reasons]
        if guess.settings.get("holes"):
            lines.append(
                "  # holes: mean (0 after normalisation, as what is padded in training) | zero | fill (from the pixels "
                "around) | validity (as zero, one more channel tells)"
            )
        line = f"  {guess.name}: {_flow(guess.settings)}"
        if len(line) > LONG:
            line = f"  {guess.name}:"
            line += "".join(f"\n    {key}: {_flow(value)}" for key, value in _whole(guess.settings).items())
        lines.append(line)
    lines += [
        "",
        *(f"# {reason}" for reason in found.label.reasons),
        f"label: {_flow(found.label.settings)}",
        "classes:",
    ]
    width = max(len(_flow(n)) for n, _ in found.classes)
    lines += [f"  - {_flow(n):<{width}}  # {i}: {known}" for i, (n, known) in enumerate(found.classes)]
    if found.palette:
        lines += ["palette:", *(f"  - {_flow(list(colour))}" for colour in found.palette)]
    else:
        lines.append("palette: null  # colours by the PASCAL VOC rule; or [r, g, b] per class")
    lines += ["", f"# {found.split_reason}", f"splits: {_flow(found.splits)}", ""]
    if found.resized:
        lines += ["# Files of one sample differ in size: first (the first modality) | label", "resize: first"]
    lines += [
        "# Height and width of training crops: multiples of 32 that every picture has, at most 480 x 640; pictures are",
        "# scaled by 0.5 to 2 before.",
        f"crop: {_flow(list(found.crop))}",
        f"batch_size: {found.batch_size}  # 4 as published, or all training samples where they are fewer",
    ]
    if found.max_pixels != MAX_PIXELS:
        lines.append(f"max_pixels: {found.max_pixels}")
    if found.recipe:
        lines.append("recipe:  # what is not here is as in conf/dataset/folder.yaml")
    for setting in found.recipe:
        lines += [f"  # {setting.reason}", f"  {setting.key}: {_flow(setting.value)}"]
    return "\n".join(lines) + "\n"


def _whole(settings: dict[str, Any]) -> dict[str, Any]:
    """Whole numbers without a point."""
    return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in settings.items()}


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        value = _whole(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False).removesuffix("\n...\n").strip()
