"""`ktb-model push`: a bundle to the Hugging Face hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from ktb.cli.arguments import Subparsers, named_path
from ktb.errors import CheckpointError
from ktb.io import absent


def add_push(commands: Subparsers) -> None:
    """Add `push` to the command's parser."""
    sub = commands.add_parser(
        "push",
        help="upload a bundle to the Hugging Face hub",
        description="Upload a bundle with its model card to the Hugging Face hub, as a private repository unless "
        "--public. Needs a token that may write: `hf auth login`, or HF_TOKEN. Every command then takes OWNER/NAME in "
        "the place of the folder.",
    )
    sub.add_argument("folder", type=named_path, metavar="FOLDER", help="what `ktb-model bundle` has written")
    sub.add_argument("name", metavar="OWNER/NAME", help="the repository; it is made if there is none")
    sub.add_argument("--public", action="store_true", help="everybody sees a repository that is made")
    sub.add_argument("--update", action="store_true", help="write over the files of a repository that exists")
    sub.set_defaults(run=_push)


def _push(arguments: argparse.Namespace) -> None:
    from ktb.data.files import read_text
    from ktb.weights.card import called
    from ktb.weights.hub import push

    folder, name = arguments.folder, arguments.name
    content: dict[str, Path | bytes] = dict(_files(folder))
    card = read_text(folder / "README.md")
    content["README.md"] = called(card, name).encode()
    url = push(content, name, public=arguments.public, update=arguments.update)
    print(f"{url}\nuploaded: {', '.join(content)}\nfrom now on: ktb-eval checkpoint={name}, ktb-predict {name} ...")


def _files(folder: Path) -> dict[str, Path]:
    """The files of a bundle by name, and what licence it is under, if that lies beside them.

    Raises:
        CheckpointError: it is no bundle.
    """
    from ktb.weights.files import is_ours, read_file
    from ktb.weights.hub import BUNDLE_FILES, BUNDLE_WEIGHTS

    if not folder.is_dir():
        raise CheckpointError(f"{folder}: {absent(folder, 'no such folder')}; expected a bundle")
    there = {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}
    missing = [name for name in (BUNDLE_WEIGHTS, "config.json", "README.md") if name not in there]
    if missing or not is_ours(read_file(there[BUNDLE_WEIGHTS])):
        what = f"there is no {' and no '.join(missing)} in it" if missing else f"its {BUNDLE_WEIGHTS} is none of ktb's"
        raise CheckpointError(f"{folder}: no bundle, as {what}; ktb-model bundle {folder} OUT_DIR makes one of a run")
    return {name: file for name, file in there.items() if name in BUNDLE_FILES or name.startswith("LICENSE")}
