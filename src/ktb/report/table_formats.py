"""A table once, written as text, Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import rich.table
from rich.console import Group
from rich.text import Text

FORMATS = ("text", "markdown", "latex", "csv")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n − 1) of `count` values; `std` is None for a single one."""

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean, None, 1)
        return cls(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)), len(values))


@dataclass(frozen=True)
class Amount:
    """A number that is no share: shown as it is, with so many decimals."""

    value: float
    decimals: int = 1


Value = str | int | float | Spread | Amount | None
"""A float is a fraction and shown as percent with two decimals (CSV: as it is); None is a dash (CSV: empty)."""


@dataclass(frozen=True)
class Table:
    """A table before it is written in any form.

    Args:
        title: what its numbers are of.
        heads: one per column.
        rows: as many values each as there are heads.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Value]]

    def numeric(self, column: int) -> bool:
        """Whether the column holds numbers, and belongs to the right."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and not any(isinstance(v, str) for v in values)

    @property
    def numbers(self) -> list[bool]:
        """Which columns hold numbers."""
        return [self.numeric(column) for column in range(len(self.heads))]


def factored(table: Table) -> Table:
    """The table without the columns of text, but the first, that are the same in every row: those go into the title."""
    same = {
        i: shown(table.rows[0][i])
        for i in range(1, len(table.heads))
        if not table.numeric(i) and len({row[i] for row in table.rows}) == 1
    }
    title = "; ".join([table.title, *(f"{table.heads[i]}: {text}" for i, text in same.items() if text != "-")])
    kept = [i for i in range(len(table.heads)) if i not in same]
    return Table(title, [table.heads[i] for i in kept], [[row[i] for i in kept] for row in table.rows])


def shown(value: Value) -> str:
    """The value for the eye."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, Amount):
        return f"{value.value:,.{value.decimals}f}"
    if isinstance(value, Spread):
        return f"{100 * value.mean:.2f}" + ("" if value.std is None else f" ± {100 * value.std:.2f}")
    return f"{100 * value:.2f}" if isinstance(value, float) else str(value)


def as_rich(table: Table) -> Group:
    """For a terminal: the title, then the table, which may be narrower."""
    drawn = rich.table.Table()
    for i, head in enumerate(table.heads):
        if table.numeric(i):
            drawn.add_column(Text(head), justify="right", min_width=6, overflow="fold")
        else:
            drawn.add_column(Text(head), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(shown(value)) for value in row))
    return Group(Text(table.title, style="italic"), drawn)


def markdown(table: Table) -> str:
    """The title and a pipe table; scores in percent."""
    heads = [_markdown_cell(head) for head in table.heads]
    rows = [[_markdown_cell(shown(value)) for value in row] for row in table.rows]
    return f"{_markdown_cell(table.title)}\n\n{_tabulated(table, heads, rows, 'pipe')}\n"


def _markdown_cell(text: str) -> str:
    """Text that Markdown takes literally; tabulate leaves that to its caller."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(text.split()))


def latex(table: Table) -> str:
    """The title as a comment and a booktabs tabular; scores in percent."""
    heads = [" ".join(head.split()) for head in table.heads]
    rows = [[" ".join(shown(value).split()) for value in row] for row in table.rows]
    rows = rows or [[""] * len(heads)]  # without one, tabulate declares no columns
    text = _tabulated(table, heads, rows, "latex_booktabs")
    for sign, command in (("±", r"$\pm$"), ("·", r"$\cdot$")):  # not in every encoding and font of LaTeX
        text = text.replace(sign, command)
    return f"% {' '.join(table.title.split())}\n{text}\n"


def _tabulated(table: Table, heads: Sequence[str], rows: Sequence[Sequence[str]], form: str) -> str:
    from tabulate import tabulate

    sides = ["right" if number else "left" for number in table.numbers]
    return str(tabulate(rows, heads, tablefmt=form, disable_numparse=True, colalign=sides))


def comma_separated(table: Table) -> str:
    """CSV for programs: scores as fractions in full precision, mean and standard deviation in columns of their own."""
    spread = [any(isinstance(row[i], Spread) for row in table.rows) for i in range(len(table.heads))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([c for head, two in zip(table.heads, spread, strict=True) for c in _pair(head, two)])
    for row in table.rows:
        cells: list[Value] = []
        for value, two in zip(row, spread, strict=True):
            if isinstance(value, Spread):
                cells += [value.mean, value.std]
            else:
                plain = value.value if isinstance(value, Amount) else value
                cells += [plain, None] if two else [plain]
        writer.writerow(cells)
    return out.getvalue()


def _pair(head: str, two: bool) -> tuple[str, ...]:
    return (f"{head} mean", f"{head} std") if two else (head,)
