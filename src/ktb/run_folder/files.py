"""The text and JSON files of a run folder: written whole or not at all, read without trust in what they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ktb.errors import ReportError, one_line
from ktb.io import atomic_file


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8; its folder is made where there is none.

    Raises:
        OSError: it can't be written; what was there before is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON; what JSON has no form for, such as a path, is written as text.

    Raises:
        OSError: it can't be written; what was there before is intact.
    """
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file.

    Raises:
        ReportError: unreadable, no JSON, or no object.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half characters can be written nowhere
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{file}: not readable as JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise ReportError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content
