"""What a person sees at the end of a job: tables and a plot of plain results, as result.json and robustness.json hold
them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from ktb.report.runs import own_scores

Result = Mapping[str, Any]

MISSING_WAYS = {"zeros": "as zeros", "black": "as a black picture", "masked": "left out"}
"""How a modality is taken away (the settings of `robustness.emm`), in words that follow "missing"."""


def heading(result: Result) -> str:
    """What every table of scores has to say of itself: data set, split, modalities, protocol, checkpoint."""
    what = f"{result['dataset']} {result['split']} split, {' + '.join(result['modalities'])}"
    return f"{what}: {result['protocol']['description']}\ncheckpoint: {result['checkpoint']}"


def percent(value: float | None) -> str:
    """A fraction in percent with two decimals; a dash for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def score_tables(result: Result) -> list[Table]:
    """Per class, and per value of each condition."""
    columns = {"IoU": "iou", "accuracy": "acc", "F1": "f1", "boundary IoU": "boundary_iou"}
    table = _table("class", columns)
    for name, row in result["per_class"].items():
        _row(table, name, *(percent(row[k]) for k in columns.values()))
    table.add_section()
    mean = f"mean{_without(result)}"
    _row(table, mean, *(percent(result["metrics"][f"m{k}"]) for k in columns.values()), style="bold")
    tables = [table]
    columns = {f"mIoU{_without(result)}": "miou", "pixel accuracy": "pixel_acc", "boundary IoU": "mboundary_iou"}
    for condition, values in result["per_condition"].items():
        table = _table(condition, ["samples", *columns])
        for name, row in values.items():
            _row(table, name, str(row["samples"]), *(percent(row["metrics"][k]) for k in columns.values()))
        tables.append(table)
    return tables


def _without(result: Result) -> str:
    """What stands behind the name of a mean: the classes it leaves out."""
    names = result.get("protocol", {}).get("mean_without")
    return f" without {', '.join(names)}" if names else ""


def score_line(result: Result) -> str:
    """mIoU, pixel accuracy and metrics of the user's own in one line."""
    metrics = result["metrics"]
    line = f"mIoU{_without(result)} {percent(metrics['miou'])}, pixel accuracy {percent(metrics['pixel_acc'])}"
    if metrics["miou"] not in (None, metrics["miou_all"]):
        line += f" (mIoU with absent classes counted as 0: {percent(metrics['miou_all'])})"
    own = own_scores(result)
    return f"{line}; {own}" if own else line


def robustness_tables(result: Result) -> list[Table]:
    """mIoU of every run of robustness.json, and what follows from them."""
    tables = []
    if "emm" in result:
        parts = [(way, group, "summary", "fused") for way, group in result["emm"].items()]
        parts += [(way, g, "summary_side", "side head") for way, g, _, _ in parts if "summary_side" in g]
        parts.sort(key=lambda part: list(result["emm"]).index(part[0]))
        table = _table("missing (EMM, mIoU)", [f"{MISSING_WAYS[way]},\n{head}" for way, _, _, head in parts])
        cells = [[_cell(run, key == "summary_side") for run in _runs(result, group)] for _, group, key, _ in parts]
        _fill(table, result, parts[0][1], cells, [group[key] for _, group, key, _ in parts])
        tables.append(table)
    if "rmm" in result:
        groups = list(result["rmm"].values())
        table = _table("partly missing (RMM, mIoU)", [f"rate {rate}" for rate in result["rmm"]])
        cells = [[_cell(run, side=False) for run in _runs(result, group)] for group in groups]
        _fill(table, result, groups[0], cells, [group["summary"] for group in groups])
        tables.append(table)
    if "nm" in result:
        table = _table("noise (NM)", ["mIoU", "drop"])
        _row(table, "none", percent(result["full"]["metrics"]["miou"]), "")
        for level, group in result["nm"].items():
            _row(table, level, percent(group["runs"][0]["metrics"]["miou"]), percent(group["drop"]))
        tables.append(table)
    return tables


def _runs(result: Result, group: Result) -> list[Result]:
    return [result["full"], *group["runs"]]


def _cell(run: Result, side: bool) -> str:
    if not side or not run["affected"]:
        return percent(run["metrics"]["miou"])
    name, value = next(iter(run["side"].items()))
    return f"{name} {percent(value)}"


def _fill(table: Table, result: Result, group: Result, cells: list[list[str]], summaries: Sequence[Result]) -> None:
    names = [" + ".join(run["affected"]) or "nothing" for run in _runs(result, group)]
    for name, *row in zip(names, *cells, strict=True):
        _row(table, name, *row)
    table.add_section()
    _row(table, "Avg", *(percent(s["avg"]) for s in summaries), style="bold")
    for p in summaries[0]["expected"]:
        _row(table, f"E({p})", *(percent(s["expected"][p]) for s in summaries))
    _row(table, "worst", *(percent(s["worst"]) for s in summaries))
    _row(table, "drop (nothing - worst)", *(percent(s["drop"]) for s in summaries))


def _table(first: str, columns: Sequence[str] | Mapping[str, str]) -> Table:
    table = Table()
    table.add_column(Text(first))  # names are anybody's: "[night]" is no markup
    for name in columns:
        table.add_column(Text(name), justify="right")
    return table


def _row(table: Table, *cells: str, style: str | None = None) -> None:
    table.add_row(*map(Text, cells), style=style)


def robustness_figure(result: Result) -> Any:
    """One panel per protocol of robustness.json; a matplotlib figure."""
    from matplotlib.figure import Figure

    draw = {"emm": _draw_emm, "rmm": _draw_rmm, "nm": _draw_nm}
    shown = [name for name in draw if name in result]
    bars = sum(len(values) + 1 for _, values in _bars(result)) if "emm" in result else 0
    widths = [1.5 if name == "emm" else 1.0 for name in shown]
    figure = Figure(figsize=(4.2 * sum(widths), max(4.0, 1.6 + 0.2 * bars)), layout="constrained")
    across = int(15 * figure.get_figwidth())  # letters of this size
    lines = [part for line in heading(result).splitlines() for part in textwrap.wrap(line, across)]
    figure.suptitle("\n".join(lines), fontsize=9, x=0.01, ha="left")
    axes = figure.subplots(1, len(shown), squeeze=False, width_ratios=widths)[0]
    for axis, name in zip(axes, shown, strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
        if name != "emm":  # whose height goes with the number of its bars
            axis.set_box_aspect(0.8)
            axis.set_anchor("N")
        draw[name](axis, result)
    if "emm" in result:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    return figure


_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
_COLOURS = {"zeros": "#4878a8", "masked": "#d9822b", "black": "#6b6b6b"}


def _bars(result: Result) -> list[tuple[str, list[tuple[str, float, str, bool]]]]:
    """Per row of the EMM panel its name and bars: (legend, mIoU in %, way, side head?)."""
    rows = []
    for i, first in enumerate(next(iter(result["emm"].values()))["runs"]):
        bars = []
        for way, group in result["emm"].items():
            run = group["runs"][i]
            bars.append((f"{MISSING_WAYS[way]}: fused head", _points(run["metrics"]["miou"]), way, False))
            if "side" in run:
                bars.append((f"{MISSING_WAYS[way]}: side head", _points(next(iter(run["side"].values()))), way, True))
        rows.append((" + ".join(first["affected"]), bars))
    return rows


def _points(value: float | None) -> float:
    return float("nan") if value is None else 100 * value


def _draw_emm(axis: Any, result: Result) -> None:
    full = _points(result["full"]["metrics"]["miou"])
    axis.axvline(full, color="black", linestyle="--", linewidth=1, zorder=0, label=f"nothing missing: {full:.1f}")
    place, ticks, named = 0.0, [], set()
    rows = _bars(result)
    # A sensor less can be better than all; and a model that has learned nothing has bars of no length.
    reach = max(1.0, *(v for v in (full, *(bar[1] for _, bars in rows for bar in bars)) if not math.isnan(v)))
    for name, bars in rows:
        ticks.append((place + (len(bars) - 1) / 2, name))
        for label, value, way, side in bars:
            face = {"color": "white", "edgecolor": _COLOURS[way], "hatch": "////"} if side else {"color": _COLOURS[way]}
            axis.barh(place, value, height=0.86, linewidth=1, label=None if label in named else label, **face)
            axis.text(value + 0.008 * reach, place, f"{value:.1f}", va="center", fontsize=8, bbox=_WHITE)
            named.add(label)
            place += 1
        place += 0.8
    axis.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    axis.set(xlabel="mIoU, %", ylabel="missing", xlim=(0, 1.15 * reach), ylim=(place - 1, -0.8))
    axis.set_title("Missing modalities (EMM)")


def _draw_rmm(axis: Any, result: Result) -> None:
    full = result["full"]["metrics"]["miou"]
    rates = [0.0, *map(float, result["rmm"])]
    groups = list(result["rmm"].values())
    lines: dict[str, list[list[float]]] = {}
    for i, run in enumerate(groups[0]["runs"]):
        affected = run["affected"]
        few = len(groups[0]["runs"]) <= 6
        name = " + ".join(affected) if few else f"{len(affected)} of {len(result['modalities'])} (mean)"
        lines.setdefault(name, []).append([_points(g["runs"][i]["metrics"]["miou"]) for g in groups])
    for name, values in lines.items():
        means = [sum(column) / len(column) for column in zip(*values, strict=True)]
        axis.plot(rates, [100 * full, *means], marker="o", label=name)
    averages = [full, *(group["summary"]["avg"] for group in groups)]
    axis.plot(rates, [_points(v) for v in averages], color="black", linestyle="--", marker="s", label="Avg")
    axis.set(xlabel="share of elements zeroed", ylabel="mIoU, %", ylim=(0, 110 * full), title="Partly missing (RMM)")
    axis.set_xticks(rates)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, frameon=False, title="affected", title_fontsize=8, loc="lower left")


def _draw_nm(axis: Any, result: Result) -> None:
    values = [result["full"]["metrics"]["miou"], *(g["runs"][0]["metrics"]["miou"] for g in result["nm"].values())]
    names = ["none", *result["nm"]]
    axis.bar(names, [_points(v) for v in values], color=["black", *["#4878a8"] * len(result["nm"])], width=0.7)
    for i, value in enumerate(values):
        axis.text(i, _points(value), f"{_points(value):.1f}", ha="center", va="bottom", fontsize=8)
    axis.set(xlabel="noise on all modalities", ylabel="mIoU, %", ylim=(0, 1.1 * _points(values[0])), title="Noise (NM)")
