"""One HTML page of one or more runs that needs nothing else: pictures, style and script are inside.

The markup is in `templates/`, where everything that comes out of a run folder is escaped; pictures are taken from the
run's own panels folder only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from ktb.report.fusion_points import fusion, fusion_maps
from ktb.report.overview import classes, comparison, head, jobs, notice_list, training
from ktb.report.plots import colour
from ktb.report.run_sections import about, conditions, confusion, pictures, robustness
from ktb.report.runs import Run
from ktb.report.sweep_summary import SweepSummary
from ktb.report.table_formats import Amount, Spread, Value, shown


class Section(NamedTuple):
    """A part of the page.

    Args:
        key: its id, to which the links at the top lead.
        title: its heading.
        template: the file in `templates/`.
        content: what the template shows; empty: the section is left out.
    """

    key: str
    title: str
    template: str
    content: Any


def page(runs: Sequence[Run], sweep: SweepSummary | None = None) -> str:
    """The page: comparison first, then what belongs to each run (not for a sweep, whose page stays small).

    Args:
        runs: at least one, unless it is the page of a sweep.
        sweep: the sweep that the runs belong to; None: they belong to none.

    Returns:
        HTML in one text.
    """
    sections = [
        Section("notices", "Worth a look", "notices.html", None if sweep else notice_list(runs)),
        Section("jobs", "Jobs", "jobs.html", jobs(sweep) if sweep else None),
        Section("runs", "Comparison", "comparison.html", comparison(runs) if len(runs) > 1 else None),
        Section("training", "Training", "training.html", training(runs)),
        Section("classes", "Classes", "classes.html", classes(runs)),
    ]
    if sweep is None:
        sections += [
            _each_run(runs, "confusion", "Confusion", "confusion.html", confusion),
            _each_run(runs, "conditions", "Conditions", "conditions.html", conditions),
            _each_run(runs, "panels", "Pictures", "pictures.html", pictures),
            _each_run(runs, "fusion", "Fusion", "fusion.html", fusion),
            _each_run(runs, "fusion_maps", "Fusion maps", "fusion_maps.html", fusion_maps),
            _each_run(runs, "robustness", "Robustness", "robustness.html", robustness),
            _each_run(runs, "about", "About", "about.html", about),
        ]
    style, script = (files(__package__).joinpath("templates", n).read_text("utf-8") for n in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html")
        .render(
            head=head(runs, sweep),
            sections=[section for section in sections if section.content],
            # The browser itself then fetches nothing, and runs no script but ours whatever a run folder contains.
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
            style=style,
            script=script,
        )
    )


def _each_run(runs: Sequence[Run], key: str, title: str, template: str, of: Callable[[Run, str], Any]) -> Section:
    """A section that shows one run at a time.

    Args:
        of: a run and its own key → the content that `template` shows; empty: the run is left out.
    """
    parts = [{"run": run.name, "content": content} for i, run in enumerate(runs) if (content := of(run, f"{key}{i}"))]
    content = {"group": key, "template": template, "only_one": len(runs) == 1, "parts": parts}
    return Section(key, title, "each_run.html", content if parts else None)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {
        "shown": shown,
        "colour": colour,
        "share_of": _share,
        "sorted_by": _sort_key,
        "tenths": _tenths,
    }
    return environment


def _share(value: float, top: float = 1.0) -> str:
    """Percent of `top`, for a style."""
    return f"{100 * value / top:.2f}"


def _tenths(value: float) -> str:
    """A place in a drawing, to a tenth of a pixel."""
    return f"{value:.1f}"


def _sort_key(value: Value) -> str:
    """The number that a column is sorted by, in full; empty for any other value."""
    number = value.mean if isinstance(value, Spread) else value.value if isinstance(value, Amount) else value
    return str(number) if isinstance(number, int | float) else ""
