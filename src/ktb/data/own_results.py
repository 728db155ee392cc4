"""What ktb itself has written among the user's files, masks of `ktb-predict` and runs: none of it is data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MANIFEST = "predict.json"
"""In a folder of results: what they are of, and which kinds of them were written, each into a folder of its name."""
STAMP = "ktb-predict"
"""The key of the stamp in every result, and the mark of `MANIFEST`."""
RUN = ("config.yaml", "checkpoints", "result.json")
"""By these a run folder is known: the first, and one of the others (`ktb.run_folder.names`)."""


def read_manifest(file: Path) -> dict[str, Any] | None:
    """What a `predict.json` holds; None: it is not of ktb-predict."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and STAMP in content else None


def part_results(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The user's own files, and those that lie in folders of results.

    Args:
        files: all files of a folder and its subfolders.
    """
    found = list(files)
    ours = set[Path]()
    for file in found:
        if file.name == MANIFEST and (content := read_manifest(file)) is not None:
            written = content.get("written")
            ours |= {file.parent / str(name) for name in (written if isinstance(written, list) else ())}
        elif file.name == RUN[0] and any((file.parent / name).exists() for name in RUN[1:]):
            ours.add(file.parent)
    own, results = list[Path](), list[Path]()
    for file in found:
        (own if ours.isdisjoint(file.parents) else results).append(file)
    return own, results
