"""metrics.csv: one row per logged step, readable at any moment and continued by a resumed run."""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from ktb.errors import WriteError
from ktb.io import atomic_file
from ktb.run_folder.names import METRICS


class MetricsFile(Logger):
    """Logger that writes `metrics.csv` into a folder.

    Lightning's own CSVLogger deletes an existing file, and rewrites it in place whenever a column is added: a kill at
    that moment loses every row.

    Args:
        save_dir: the run folder.
    """

    FLUSH_EVERY = 50
    """Rows kept in memory at most; `save` writes them."""

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(save_dir) / METRICS
        self.rows = 0
        """Rows of the run so far, in the file or still to be written."""
        self._columns: list[str] = []
        self._pending: list[dict[str, Any]] = []
        self._started = False

    @property
    def name(self) -> str:
        """Empty: Lightning makes folders of it."""
        return ""

    @property
    def version(self) -> str:
        """Empty: Lightning makes folders of it."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def continue_from(self, rows: int) -> None:
        """Keep the first `rows` rows of the existing file; later ones come from steps that will be taken again."""
        kept = self._read()[:rows]
        self._columns = sorted({column for row in kept for column in row})
        self._rewrite(kept)
        self.rows = len(kept)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row: values by name, and the optimiser step."""
        self._pending.append({**metrics, "step": step})
        self.rows += 1
        if len(self._pending) >= self.FLUSH_EVERY:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write what is pending.

        Raises:
            WriteError: no space, no permission.
        """
        if not self._pending:
            return
        columns = sorted({*self._columns, *(column for row in self._pending for column in row)})
        if columns != self._columns or not self._started or not self.path.is_file():
            before = self._read() if self._started else []
            self._columns = columns
            self._rewrite([*before, *self._pending])
        else:
            size = self.path.stat().st_size
            try:
                with self.path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self._columns).writerows(self._pending)
            except OSError as error:
                with suppress(OSError):
                    os.truncate(self.path, size)  # half a row would be read as one
                raise WriteError(self.path, error) from error
        self._pending = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is pending at the end of a training or test."""
        self.save()

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [{k: v for k, v in row.items() if k and v} for row in csv.DictReader(file)]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(rows)
        except OSError as error:
            raise WriteError(self.path, error) from error
        self._started = True
