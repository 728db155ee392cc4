"""What the page's sections show of all runs side by side: head, notices, jobs, comparison, curves, classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ktb.report.notices import notices
from ktb.report.plots import colour, line_plot
from ktb.report.runs import (
    Run,
    difference,
    differing_settings,
    mapping,
    number,
    protocol,
    run_table,
    without,
)
from ktb.report.sweep_summary import SweepSummary
from ktb.report.table_formats import Spread, Table, factored, shown

_CURVES = (  # title, logged names, unit
    ("Loss", ("train/loss",), ""),
    ("Validation", ("val/miou",), "%"),
    ("Learning rate", ("train/lr",), ""),
    ("Speed (samples per second)", ("train/samples_per_s",), ""),
)
_MOST_SETTINGS = 60

Content = dict[str, Any]
"""What a template shows; each function's template is named as it is."""


def head(runs: Sequence[Run], sweep: SweepSummary | None) -> Content:
    """Title, the line below it, and a tile for each score of a single run."""
    if sweep is not None:
        return _head(f"Sweep {sweep.folder.absolute().name}", f"{sweep.counts()} · {sweep.created}")
    if len(runs) > 1:
        names = dict.fromkeys(run.dataset for run in runs)
        return _head(f"{len(runs)} runs: {', '.join(names)}", ", ".join(run.name for run in runs))
    run = runs[0]
    unlabelled = run.result.get("predictions")
    if not run.scores or unlabelled:
        state = (
            f"no scores: the {run.result.get('split', '')} split has no labels; predictions in stored ids: "
            f"{run.folder.absolute() / str(unlabelled)}"
            if unlabelled
            else "no scores yet: the run has not finished, or was made with test=false"
        )
        if run.failure:
            state = f"failed: {run.failure}"
        return _head(run.dataset, f"{run.name} · {state}")
    what = [f"{run.result.get('split', '')} split", protocol(run.result), " + ".join(run.modalities)]
    what += [str(run.result.get("backbone", "")), run.name]
    return _head(run.dataset, " · ".join(w for w in what if w), _tiles(run))


def _head(title: str, sub: str, tiles: Sequence[Content] = ()) -> Content:
    return {"title": title, "sub": sub, "tiles": tiles}


def _tiles(run: Run) -> list[Content]:
    tiles: list[Content] = [
        {
            "first": i == 0,
            "value": shown(value),
            "name": f"{run.title(key)}, %",
            "note": _against_published(run) if key == "miou" else None,
        }
        for i, (key, value) in enumerate(run.scores.items())
    ]
    parameters = mapping(run.result.get("parameters"))
    trained, total = number(parameters.get("trained")), number(parameters.get("total"))
    if trained and total:
        note = {"kind": "", "text": f"of {total / 1e6:.2f} M"}
        tiles.append({"first": False, "value": f"{trained / 1e6:.2f} M", "name": "parameters trained", "note": note})
    return tiles


def _against_published(run: Run) -> Content | None:
    """How a run's mIoU stands to the published one: the text, and whether it is "good" or "bad"."""
    if run.published is None:
        return None
    value, split = run.published
    delta = difference(run)
    if delta is None:
        over = " over all classes" if run.mean_without else ""
        return {"kind": "", "text": f"published {shown(value)} on {split}{over}"}
    return {"kind": "good" if delta >= 0 else "bad", "text": f"{100 * delta:+.2f} to published {shown(value)}"}


def notice_list(runs: Sequence[Run]) -> list[Content]:
    """What somebody should look at, with the run's name where there are several."""
    return [{"run": run.name if len(runs) > 1 else "", "text": text} for run in runs for text in notices(run)]


def jobs(sweep: SweepSummary) -> Content:
    """The scores of each setting over its seeds, and every job."""
    groups = [(setting, [j.scores["miou"] for j in jobs if "miou" in j.scores]) for setting, jobs in sweep.groups()]
    spreads = [(setting, Spread.of(scores), scores) for setting, scores in groups if scores]
    return {
        "top": max([s.mean + (s.std or 0) for _, s, _ in spreads] + [1e-9]),
        "settings": [
            {"name": sweep.told_apart(setting), "spread": spread, "hint": "\n".join(f"{100 * s:.2f}" for s in scores)}
            for setting, spread, scores in spreads
        ],
        "tables": [("Scores over seeds", sweep.score_table()), ("Every job", sweep.job_table())],
        "command": sweep.command,
    }


def comparison(runs: Sequence[Run]) -> Content:
    """The runs by their mIoU, all their scores, and the settings in which they differ."""
    scored = sorted((r for r in runs if r.scores.get("miou") is not None), key=lambda r: -(r.scores["miou"] or 0))
    differing = differing_settings(runs)
    rows = [[key, *values] for key, values in differing[:_MOST_SETTINGS]]
    title = f"Settings that differ ({len(differing)})"
    return {
        "top": max([r.scores["miou"] or 0 for r in scored] + [r.published[0] for r in runs if r.published] + [1e-9]),
        "scored": [
            {
                "name": run.name + without(run.mean_without),
                "miou": run.scores["miou"] or 0,
                "shade": runs.index(run),
                "mark": run.published[0] if run.published else None,
                "note": _against_published(run),
            }
            for run in scored
        ],
        "marked": any(run.published for run in scored),
        "table": factored(run_table(runs)),
        "settings": Table(title, ["setting", *(run.name for run in runs)], rows) if rows else None,
    }


def training(runs: Sequence[Run]) -> list[Content]:
    """A plot for each kind of curve."""
    charts: list[Content] = []
    for title, names, unit in _CURVES:
        series = [(run.name, i, run.curves[n]) for i, run in enumerate(runs) for n in names if run.curves.get(n)]
        if len(runs) == 1:  # room for the parts
            extra = {"Loss": "train/loss_", "Validation": "val/"}.get(title)
            parts = [n for n in runs[0].curves if extra and n.startswith(extra) and n not in names]
            series = [
                (_curve_name(n), i, runs[0].curves[n]) for i, n in enumerate((*names, *parts)) if n in runs[0].curves
            ]
        if series:
            charts.append(
                {
                    "title": f"{title}{', %' if unit == '%' else ''}",
                    "plot": line_plot(series, unit),
                    "legend": [(colour(i), name) for name, i, _ in series] if len(series) > 1 else [],
                }
            )
    return charts


def _curve_name(logged: str) -> str:
    names = {"train/loss": "total", "val/miou": "mIoU", "val/macc": "mAcc", "val/pixel_acc": "pixel accuracy"}
    return names.get(logged, logged.removeprefix("train/loss_"))


def classes(runs: Sequence[Run]) -> Content | None:
    """The IoU of every class, and for a single run its other scores."""
    names = list(dict.fromkeys(name for run in runs for name in run.per_class))
    if not names:
        return None
    colours = next((p for run in runs if (p := run.palette)), {})
    # Of the truth: the same for all runs on the same images, else nothing to show in one column.
    found = [s for run in runs if (s := run.class_shares)]
    shares = found[0] if found and all(s == found[0] for s in found) else {}
    left = {name for run in runs for name in run.mean_without}
    titles = {"acc": "accuracy", "f1": "F1", "boundary_iou": "boundary IoU"} if len(runs) == 1 else {}
    extra = {k: title for k, title in titles.items() if any(k in row for row in runs[0].per_class.values())}
    return {
        "legend": [(colour(i), run.name) for i, run in enumerate(runs)] if len(runs) > 1 else [],
        "heads": [*extra.values(), *(["share of pixels"] if shares else [])],
        "rows": [
            {
                "name": name,
                "swatch": colours.get(name),
                "left_out": name in left,
                "ious": [number(run.per_class.get(name, {}).get("iou")) for run in runs],
                "more": [
                    *(number(runs[0].per_class[name].get(key)) for key in extra),
                    *([shares.get(name)] if shares else []),
                ],
            }
            for name in names
        ],
    }
