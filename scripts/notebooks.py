"""Runs the notebooks of docs/ and stores what they print and draw in them, which the documentation site shows.

python scripts/notebooks.py            # all
python scripts/notebooks.py docs/own_sensors.ipynb
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


def execute(notebook: Path, folder: Path, seconds: int = 600) -> nbformat.NotebookNode:
    """A notebook with its outputs, run in a folder from its first cell to its last.

    Args:
        notebook: the file, which is not changed.
        folder: its working directory.
        seconds: the most that a cell may take.

    Raises:
        CellExecutionError: a cell, or a command in it, failed.
    """
    node = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        node,
        timeout=seconds,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        iopub_timeout=seconds,  # on a busy machine output arrives long after the cell has ended
        raise_on_iopub_timeout=True,
    )
    # The commands of this Python, whichever others there are.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    client.execute(env={**os.environ, "PATH": path})
    return node


def main(arguments: list[str]) -> int:
    for notebook in map(Path, arguments or sorted(map(str, ROOT.glob("docs/*.ipynb")))):
        with tempfile.TemporaryDirectory() as folder:
            node = execute(notebook, Path(folder))
        for cell in node.cells:
            # tqdm asks for a package that only draws its bars.
            cell.outputs = [out for out in cell.get("outputs", ()) if "TqdmWarning" not in out.get("text", "")]
            if cell.cell_type != "code":
                del cell["outputs"]
        notebook.write_text(nbformat.writes(node).replace(folder, "/home/me") + "\n", encoding="utf-8")
        print(notebook)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
