"""One HTML page of one or more runs that needs nothing else: pictures, style and script are inside.

Everything that comes out of a run folder is escaped; pictures are taken from the run's own panels folder only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from ktb.report.notices import notices
from ktb.report.plots import colour, confusion_plot, line_plot
from ktb.report.runs import (
    SCORES,
    Run,
    difference,
    differing_settings,
    listed,
    mapping,
    number,
    protocol,
    run_table,
    scored_how,
    without,
)
from ktb.report.sweep_summary import Sweep
from ktb.report.tables import Spread, Table, Value, factored, shown

_PICTURES = {".png": ("image/png", b"\x89PNG\r\n\x1a\n"), ".jpg": ("image/jpeg", b"\xff\xd8\xff")}
_CURVES = (  # title, logged names, unit
    ("Loss", ("train/loss",), ""),
    ("Validation", ("val/miou",), "%"),
    ("Learning rate", ("train/lr",), ""),
    ("Speed (samples per second)", ("train/samples_per_s",), ""),
)
_MISSING = {"zeros": "missing, as zeros", "black": "missing, as a black picture", "masked": "missing, left out"}


def page(runs: Sequence[Run], sweep: Sweep | None = None) -> str:
    """The page: comparison first, then what belongs to each run (not for a sweep, whose page stays small)."""
    sections = [
        ("notices", "Worth a look", "" if sweep else _notices(runs)),
        ("jobs", "Jobs", _sweep(sweep) if sweep else ""),
        ("runs", "Comparison", _comparison(runs) if len(runs) > 1 else ""),
        ("training", "Training", _curves(runs)),
        ("classes", "Classes", _classes(runs)),
    ]
    if sweep is None:
        sections += [
            ("confusion", "Confusion", _per_run(runs, "confusion", _confusion)),
            ("conditions", "Conditions", _per_run(runs, "conditions", _conditions)),
            ("panels", "Pictures", _per_run(runs, "panels", _panels)),
            ("fusion", "Fusion", _per_run(runs, "fusion", _fusion)),
            ("robustness", "Robustness", _per_run(runs, "robustness", _robustness)),
            ("about", "About", _per_run(runs, "about", _about)),
        ]
    sections = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    title, sub, tiles = _head(runs, sweep)
    style, script = (files(__package__).joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The browser itself then fetches nothing, and runs no script but ours whatever a run folder contains.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{text}</section>' for key, title, text in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,">'
        f"<style>{style}</style></head>"
        f'<body><header><h1>{escape(title)}</h1><p class="sub">{sub}</p>{tiles}</header>'
        f'<nav><div>{links}<button id="theme">light / dark</button></div></nav><main>{body}</main>'
        "<footer>Written by ktb-report. Scores are in percent; IoU of a class that occurs in neither truth nor "
        "prediction is shown as a dash and takes no part in a mean.</footer>"
        '<div id="tip"></div><div id="box"><img alt=""><p></p></div>'
        f"<script>{script}</script></body></html>\n"
    )


# ---------------------------------------------------------------------------------------------------------------- head


def _head(runs: Sequence[Run], sweep: Sweep | None) -> tuple[str, str, str]:
    if sweep is not None:
        return f"Sweep {sweep.folder.absolute().name}", f"{escape(sweep.counts())} · {escape(sweep.created)}", ""
    if len(runs) > 1:
        names = dict.fromkeys(_dataset(run) for run in runs)
        return f"{len(runs)} runs: {', '.join(names)}", escape(", ".join(run.name for run in runs)), ""
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
        return _dataset(run), escape(f"{run.name} · {state}"), ""
    tiles = []
    for i, (key, value) in enumerate(run.scores.items()):
        note = _against_published(run) if key == "miou" else ""
        first = " first" if i == 0 else ""
        tiles.append(
            f'<div class="tile{first}"><b>{shown(value)}</b><span>{escape(run.title(key))}, %</span>{note}</div>'
        )
    parameters = mapping(run.result.get("parameters"))
    trained, total = number(parameters.get("trained")), number(parameters.get("total"))
    if trained and total:
        tiles.append(
            f'<div class="tile"><b>{trained / 1e6:.2f} M</b><span>parameters trained</span>'
            f"<em>of {total / 1e6:.2f} M</em></div>"
        )
    what = [f"{run.result.get('split', '')} split", protocol(run.result), " + ".join(run.modalities)]
    what += [str(run.result.get("backbone", "")), run.name]
    return _dataset(run), escape(" · ".join(w for w in what if w)), f'<div class="tiles">{"".join(tiles)}</div>'


def _against_published(run: Run) -> str:
    if run.published is None:
        return ""
    value, split = run.published
    delta = difference(run)
    if delta is None:
        over = " over all classes" if run.mean_without else ""
        return f"<em>published {shown(value)} on {escape(split)}{over}</em>"
    kind = "good" if delta >= 0 else "bad"
    return f'<em class="{kind}">{100 * delta:+.2f} to published {shown(value)}</em>'


def _dataset(run: Run) -> str:
    return str(run.result.get("dataset") or run.setting("dataset", "name") or run.name)


def _notices(runs: Sequence[Run]) -> str:
    items = "".join(
        f"<li>{f'<b>{escape(run.name)}</b> ' if len(runs) > 1 else ''}{escape(text)}</li>"
        for run in runs
        for text in notices(run)
    )
    return f'<ul class="notices">{items}</ul>' if items else ""


# ---------------------------------------------------------------------------------------------------------- comparison


def _comparison(runs: Sequence[Run]) -> str:
    scored = sorted((r for r in runs if r.scores.get("miou") is not None), key=lambda r: -(r.scores["miou"] or 0))
    top = max([r.scores["miou"] or 0 for r in scored] + [r.published[0] for r in runs if r.published] + [1e-9])
    bars = []
    for run in scored:
        miou = run.scores["miou"] or 0
        mark = run.published[0] if run.published else None
        bars.append(
            f'<tr><td class="wrap"><i class="swatch" style="background:{colour(runs.index(run))}"></i>'
            f"{escape(run.name + without(run.mean_without))}</td>"
            f'<td class="bars">{_bar(miou, runs.index(run), mark, top)}</td>'
            f"<td>{_against_published(run)}</td></tr>"
        )
    text = f"<h3>mIoU</h3><table><tbody>{''.join(bars)}</tbody></table>" if bars else ""
    if any(run.published for run in scored):
        text += '<p class="soft">The upright line marks the published mIoU of the row that a run reproduces.</p>'
    table = factored(run_table(runs))
    text += f'<h3>All scores</h3><p class="soft">{escape(table.title)}</p>{_table(table, sort=True)}'
    differing = differing_settings(runs)
    if differing:
        rows = [[key, *values] for key, values in differing[:60]]
        title = f"Settings that differ ({len(differing)})"
        settings = _table(Table(title, ["setting", *(run.name for run in runs)], rows))
        text += f"<details><summary>{title}</summary>{settings}</details>"
    return text


def _sweep(sweep: Sweep) -> str:
    rows = []
    groups = [(setting, [j.scores["miou"] for j in jobs if "miou" in j.scores]) for setting, jobs in sweep.groups()]
    spreads = [(setting, Spread.of(scores), scores) for setting, scores in groups if scores]
    top = max([s.mean + (s.std or 0) for _, s, _ in spreads] + [1e-9])
    for setting, spread, scores in spreads:
        std = spread.std or 0
        whisker = (
            f'<s style="left:{100 * (spread.mean - std) / top:.2f}%;width:{200 * std / top:.2f}%"></s>' if std else ""
        )
        hint = escape("\n".join(f"{100 * s:.2f}" for s in scores))
        rows.append(
            f'<tr><td class="wrap">{escape(sweep.told_apart(setting))}</td><td class="bars">'
            f'<div class="bar" data-tip="{hint}"><div class="track">'
            f'<i style="width:{100 * spread.mean / top:.2f}%;background:{colour(0)}"></i>{whisker}</div></div></td>'
            f'<td class="n">{shown(spread)}</td></tr>'
        )
    text = f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    for title, table in (("Scores over seeds", sweep.score_table()), ("Every job", sweep.job_table())):
        text += f'<h3>{title}</h3><p class="soft">{escape(table.title)}</p>{_table(table, sort=True)}'
    return text + (f"<p><code>{escape(sweep.command)}</code></p>" if sweep.command else "")


def _bar(value: float | None, shade: int, mark: float | None = None, top: float = 1.0) -> str:
    """A score as a bar of colour number `shade` and a number; `mark` is where an upright line stands."""
    line = f'<u style="left:{100 * mark / top:.2f}%"></u>' if mark is not None else ""
    return (
        f'<div class="bar"><div class="track"><i style="width:{100 * (value or 0) / top:.2f}%;'
        f'background:{colour(shade)}"></i>{line}</div><span>{shown(value)}</span></div>'
    )


def _table(table: Table, *, sort: bool = False) -> str:
    numeric = [table.numeric(i) for i in range(len(table.heads))]
    heads = "".join(f"<th{' class=n' if n else ''}>{escape(h)}</th>" for h, n in zip(table.heads, numeric, strict=True))
    rows = []
    for row in table.rows:
        cells = []
        for value, n in zip(row, numeric, strict=True):
            sorts = value.mean if isinstance(value, Spread) else value
            known = f' data-v="{sorts if isinstance(sorts, int | float) else ""}"' if n else ""
            cells.append(f'<td class="{"n" if n else "wrap"}"{known}>{escape(shown(value))}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    kind = ' class="sort"' if sort else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


# -------------------------------------------------------------------------------------------------------------- curves


def _curves(runs: Sequence[Run]) -> str:
    charts = []
    for title, names, unit in _CURVES:
        series = [(run.name, i, run.curves[n]) for i, run in enumerate(runs) for n in names if run.curves.get(n)]
        if len(runs) == 1:  # room for the parts
            extra = {"Loss": "train/loss_", "Validation": "val/"}.get(title)
            parts = [n for n in runs[0].curves if extra and n.startswith(extra) and n not in names]
            series = [
                (_curve_name(n), i, runs[0].curves[n]) for i, n in enumerate((*names, *parts)) if n in runs[0].curves
            ]
        if series:
            legend = "".join(_key(colour(i), name) for name, i, _ in series) if len(series) > 1 else ""
            charts.append(
                f'<div class="chart"><h3>{escape(title)}{", %" if unit == "%" else ""}</h3>{line_plot(series, unit)}'
                f'<div class="legend">{legend}</div></div>'
            )
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _curve_name(logged: str) -> str:
    names = {"train/loss": "total", "val/miou": "mIoU", "val/macc": "mAcc", "val/pixel_acc": "pixel accuracy"}
    return names.get(logged, logged.removeprefix("train/loss_"))


def _key(shade: str, name: str) -> str:
    return f'<span><i class="swatch" style="background:{shade}"></i>{escape(name)}</span>'


# ------------------------------------------------------------------------------------------------------------- classes


def _classes(runs: Sequence[Run]) -> str:
    classes = list(dict.fromkeys(name for run in runs for name in run.per_class))
    if not classes:
        return ""
    palette = next((p for run in runs if (p := _palette(run))), {})
    # Of the truth: the same for all runs on the same images, else nothing to show in one column.
    found = [s for run in runs if (s := run.class_shares)]
    shares = found[0] if found and all(s == found[0] for s in found) else {}
    left = {name for run in runs for name in run.mean_without}
    titles = {"acc": "accuracy", "f1": "F1", "boundary_iou": "boundary IoU"} if len(runs) == 1 else {}
    extra = {k: title for k, title in titles.items() if any(k in row for row in runs[0].per_class.values())}
    rows = []
    for name in classes:
        values = [number(run.per_class.get(name, {}).get("iou")) for run in runs]
        bars = "".join(_bar(v, i) for i, v in enumerate(values))
        swatch = f'<i class="swatch" style="background:{palette[name]}"></i>' if name in palette else ""
        note = ' <span class="soft">not in the mean</span>' if name in left else ""
        cells = f'<td>{swatch}{escape(name)}{note}</td><td class="bars" data-v="{_plain(values[0])}">{bars}</td>'
        for key in extra:
            value = number(runs[0].per_class[name].get(key))
            cells += f'<td class="n" data-v="{_plain(value)}">{shown(value)}</td>'
        if shares:
            share = shares.get(name)
            cells += f'<td class="n" data-v="{_plain(share)}">{shown(share)}</td>'
        rows.append(f"<tr>{cells}</tr>")
    heads = list(extra.values())
    heads += ["share of pixels"] if shares else []
    legend = "".join(_key(colour(i), run.name) for i, run in enumerate(runs)) if len(runs) > 1 else ""
    numeric = "".join(f'<th class="n">{head}</th>' for head in heads)
    return (
        f'<div class="legend">{legend}</div><div class="scroll"><table class="sort"><thead><tr>'
        f"<th>class</th><th>IoU</th>{numeric}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _plain(value: float | None) -> str:
    return "" if value is None else repr(value)


def _palette(run: Run) -> dict[str, str]:
    """Class → CSS colour, as the pictures are painted."""
    classes, palette = run.panels.get("classes"), run.panels.get("palette")
    if not isinstance(classes, list) or not isinstance(palette, list):
        return {}
    found = {}
    for name, rgb in zip(classes, palette, strict=False):
        if isinstance(rgb, list) and len(rgb) == 3 and all(isinstance(c, int) for c in rgb):
            found[str(name)] = f"rgb({rgb[0]} {rgb[1]} {rgb[2]})"
    return found


# ------------------------------------------------------------------------------------------------------------- per run


def _per_run(runs: Sequence[Run], group: str, draw: Any) -> str:
    """What `draw` makes of each run, one at a time when there are several."""
    parts = [(run, text) for i, run in enumerate(runs) if (text := draw(run, f"{group}{i}"))]
    if len(runs) == 1:
        return parts[0][1] if parts else ""
    if not parts:
        return ""
    buttons = "".join(
        f'<button data-choose="{group}" data-value="{i}" aria-pressed="{"false" if i else "true"}">'
        f"{escape(run.name)}</button>"
        for i, (run, _) in enumerate(parts)
    )
    bodies = "".join(
        f'<div data-of="{group}" data-value="{i}"{" hidden" if i else ""}>{t}</div>' for i, (_, t) in enumerate(parts)
    )
    return f'<div class="choices"><span>run</span>{buttons}</div>{bodies}'


_DRAWN_CLASSES = 128
"""With more, a confusion matrix has no cell that can be seen."""


def _confusion(run: Run, key: str) -> str:
    matrix = run.confusion
    if not matrix:
        return ""
    classes = list(run.per_class)
    mistakes = sorted(
        ((pixels, i, j) for i, row in enumerate(matrix) for j, pixels in enumerate(row) if i != j and pixels),
        reverse=True,
    )
    total = sum(map(sum, matrix))
    rows: list[list[Value]] = [
        [classes[i], classes[j], pixels / sum(matrix[i]), pixels / total] for pixels, i, j in mistakes[:8]
    ]
    heads = ["true class", "predicted", "of the class, %", "of all pixels, %"]
    table = f"<h3>Most frequent mistakes</h3>{_table(Table('', heads, rows), sort=True)}" if rows else ""
    if len(classes) > _DRAWN_CLASSES:
        return f'<p class="soft">{len(classes)} classes: too many for a drawing.</p>{table}'
    note = '<p class="soft">Rows are true classes, in percent of their pixels; hover for numbers.</p>'
    return f'{note}<div class="confusion">{confusion_plot(matrix, classes)}</div>{table}'


def _conditions(run: Run, key: str) -> str:
    text = ""
    for condition, values in mapping(run.result.get("per_condition")).items():
        rows: list[list[Any]] = []
        for value, entry in mapping(values).items():
            metrics, samples = mapping(mapping(entry).get("metrics")), mapping(entry).get("samples")
            row = [number(metrics.get(name)) for name in SCORES if name in run.scores]
            rows.append([value, samples if isinstance(samples, int) else None, *row])
        heads = [condition, "samples", *(run.title(name) for name in SCORES if name in run.scores)]
        text += f"<h3>{escape(condition)}</h3>{_table(Table('', heads, rows), sort=True)}" if rows else ""
    return text


def _panels(run: Run, key: str) -> str:
    legend = "".join(_key(shade, name) for name, shade in _palette(run).items())
    cards = []
    for i, sample in enumerate(_samples(run)):
        group = str(sample.get("group", ""))
        kind = group if group in ("best", "worst") else ""
        scores = ", ".join(
            f"{SCORES[k]} {shown(number(sample[k]))}"
            for k in ("miou", "pixel_acc")
            if number(sample.get(k)) is not None
        )
        conditions = ", ".join(f"{k} {v}" for k, v in mapping(sample.get("condition")).items())
        about = " · ".join(text for text in (scores, conditions) if text)
        figures = []
        for j, picture in enumerate(sample["pictures"]):
            alt = escape(f"{sample.get('id', '')}: {picture['title']}")
            figures.append(
                f'<figure><img id="{_picture_id(key, i, j)}" src="{picture["uri"]}" alt="{alt}">'
                f"<figcaption>{escape(picture['title'])}</figcaption></figure>"
            )
        cards.append(
            f'<div class="sample"><p><span class="badge {kind}">{escape(group)}</span>'
            f'<code>{escape(str(sample.get("id", "")))}</code> <span class="soft">{escape(about)}</span></p>'
            f'<div class="strip">{"".join(figures)}</div></div>'
        )
    if not cards:
        return ""
    note = (
        '<p class="soft">The best and the worst samples by their own mIoU, and some chosen by a hash of their name, so '
        "that they are the same in every run. Click to zoom; arrow keys compare pictures at the same place.</p>"
    )
    return f'{note}<div class="legend">{legend}</div>{"".join(cards)}'


def _samples(run: Run) -> list[dict[str, Any]]:
    """The entries of panels.json that are as they should be, with their pictures as text."""
    found = []
    for sample in listed(run.panels.get("samples")):
        pictures = mapping(sample).get("pictures")
        if isinstance(pictures, list):
            shown = [(str(mapping(p).get("title", "")), _data_uri(run, mapping(p).get("file"))) for p in pictures]
            found.append({**sample, "pictures": [{"title": title, "uri": uri} for title, uri in shown if uri]})
    return found


def _picture_id(key: str, sample: int, picture: int) -> str:
    return f"{key}-{sample}-{picture}"


def _data_uri(run: Run, name: Any) -> str:
    """A picture of the run's panels folder as text; empty if it is none."""
    if not isinstance(name, str) or PurePath(name).name != name or "\\" in name:
        return ""
    kind, magic = _PICTURES.get(PurePath(name).suffix, ("", b"\0"))
    try:
        content = (run.folder / "panels" / name).read_bytes()
    except (OSError, ValueError):
        return ""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content.startswith(magic) else ""


# -------------------------------------------------------------------------------------------------------------- fusion


def _fusion(run: Run, key: str) -> str:
    """Sampling points over the pictures, drawn by the script, and mean modality weights per stage."""
    modalities = {str(k): str(v) for k, v in mapping(run.fusion.get("modalities")).items()}
    panels = _samples(run)
    samples: list[dict[str, Any]] = []
    for entry in listed(run.fusion.get("samples")):
        index, stages = mapping(entry).get("panel"), mapping(entry).get("stages")
        if not isinstance(index, int) or not 0 <= index < len(panels) or not _drawable(stages, list(modalities)):
            continue
        titles = [picture.get("title") for picture in panels[index]["pictures"]]
        if all(title in titles for title in modalities.values()):
            panel_key = key.replace("fusion", "panels")
            ids = {m: _picture_id(panel_key, index, titles.index(title)) for m, title in modalities.items()}
            samples.append({"id": str(panels[index].get("id", "")), "pictures": ids, "stages": stages})
    if not samples or not modalities:
        return ""
    names = [str(sample["id"]) for sample in samples]
    stages = [str(i + 1) for i in range(min(len(sample["stages"]) for sample in samples))]
    choices = ""
    for what, labels in (("sample", names), ("stage", stages)):
        buttons = "".join(
            f'<button data-key="{what}" data-index="{i}">{escape(label)}</button>' for i, label in enumerate(labels)
        )
        choices += f'<div class="choices"><span>{what}</span>{buttons}</div>'
    figures = "".join(
        f'<figure><canvas data-modality="{escape(m)}"></canvas><figcaption>points proposed by {escape(title)}, over '
        "its picture</figcaption></figure>"
        for m, title in modalities.items()
    )
    titles = list(modalities.values())
    keys = "".join(_key(_modality_colour(i), title) for i, title in enumerate(titles))
    ramp = (
        f'<p>colour of a point: <span class="soft">all {escape(titles[0])}</span><span class="ramp"></span>'
        f'<span class="soft">all {escape(titles[1])}</span></p>'
        if len(titles) == 2
        else f'<div class="legend">{keys}</div>'
    )
    # Names in the data end up in no markup but this script element, which "<" alone could end.
    data = json.dumps({"modalities": modalities, "samples": samples}, separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<p class="soft">In every stage each modality proposes points from its own features; the fusion reads all '
        "modalities there and mixes them with a weight per point (DSCF). A point has the colour of the modality that "
        "counts more at it, and is pale where all count alike.</p>"
        f'<div data-fusion><script type="application/json">{data}</script>{choices}{ramp}'
        f'<div class="strip">{figures}</div><p class="soft note"></p></div>'
        f"<h3>Mean weight of each modality, these samples</h3>{_weights(samples, modalities)}"
    )


def _drawable(stages: Any, modalities: Sequence[str]) -> bool:
    """Whether the script can draw these stages."""
    if not isinstance(stages, list) or not stages:
        return False
    for stage in stages:
        points = mapping(mapping(stage).get("points"))
        gain, mean, size = (mapping(stage).get(k) for k in ("gain", "mean", "map"))
        if not isinstance(size, list) or len(size) != 2 or not isinstance(mapping(stage).get("groups"), int):
            return False
        if any(number(mapping(gain).get(k)) is None for k in ("attention", "features")):
            return False
        for m in modalities:
            x, y, weights = (mapping(points.get(m)).get(k) for k in ("x", "y", "weights"))
            columns: list[Any] = [x, y, *(mapping(weights).get(other) for other in modalities)]
            if number(mapping(mean).get(m)) is None or not all(isinstance(c, list) and c for c in columns):
                return False
            if any(number(v) is None for column in columns for v in column):
                return False
    return True


def _weights(samples: Sequence[Mapping[str, Any]], modalities: Mapping[str, str]) -> str:
    rows = []
    for i in range(min(len(sample["stages"]) for sample in samples)):
        means = {m: sum(s["stages"][i]["mean"][m] for s in samples) / len(samples) for m in modalities}
        stack = "".join(
            f'<i style="width:{100 * means[m]:.2f}%;background:{_modality_colour(j)}">'
            + (f"{escape(title)} {100 * means[m]:.0f} %" if means[m] > 0.12 else "")
            + "</i>"
            for j, (m, title) in enumerate(modalities.items())
        )
        gain = sum(s["stages"][i]["gain"]["attention"] for s in samples) / len(samples)
        rows.append(
            f'<span>stage {i + 1}</span><div class="stack">{stack}</div>'
            f'<span class="soft">attention gain {gain:.2g}</span>'
        )
    return (
        f'<div class="weights">{"".join(rows)}</div><p class="soft">The attention gain says how much of what is read '
        "at the points enters a stage's output: the mean magnitude of the learned factor, which starts at 0.001 in "
        "stages 1 to 3 and at 1 in stage 4.</p>"
    )


def _modality_colour(index: int) -> str:
    shades = ((242, 120, 30), (40, 120, 220), (40, 160, 90), (170, 70, 190), (220, 50, 80), (120, 120, 120))
    return "rgb({} {} {})".format(*shades[index % len(shades)])


# ---------------------------------------------------------------------------------------------------------- robustness


def _robustness(run: Run, key: str) -> str:
    """Bars of the mIoU of every disturbance, and what follows from them."""
    full = number(mapping(mapping(run.robustness.get("full")).get("metrics")).get("miou"))
    if full is None:
        return ""
    how = f"{scored_how(run.robustness)}; checkpoint {run.robustness.get('checkpoint', '-')}"
    text = f'<p class="soft">{escape(how)}</p>'
    text += _robustness_bars("Undisturbed", [("nothing missing", full)], full)
    sums: list[list[Any]] = []
    expected: list[str] = []
    for title, name, phrase in (
        ("Missing modalities (EMM)", "emm", "missing"),
        ("Partly missing (RMM)", "rmm", "zeroed at rate"),
        ("Noise (NM)", "nm", "noise:"),
    ):
        bars = []
        for setting, group in mapping(run.robustness.get(name)).items():
            words = _MISSING.get(setting, f"{phrase} {setting}")
            for entry in listed(mapping(group).get("runs")):
                affected = " + ".join(map(str, listed(mapping(entry).get("affected"))))
                label = words if name == "nm" else f"{affected} {words}"
                bars.append((label, number(mapping(mapping(entry).get("metrics")).get("miou"))))
                for head, value in mapping(mapping(entry).get("side")).items():
                    bars.append((f"{label}: side head of {head}", number(value)))
            for which, head in (("summary", "fused head"), ("summary_side", "side head")):
                summary = mapping(mapping(group).get(which))
                if summary:
                    means = mapping(summary.get("expected"))
                    expected = expected or list(means)
                    row = [number(summary.get(k)) for k in ("avg", "worst", "drop")]
                    sums.append([words, head, *row, *(number(means.get(p)) for p in expected)])
        text += _robustness_bars(title, bars, full) if bars else ""
    if sums:
        heads = ["case", "answer of", "Avg", "worst", "drop", *(f"E({p})" for p in expected)]
        text += f"<h3>Summary</h3>{_table(Table('', heads, sums))}"
        text += '<p class="soft">E(p): mIoU to expect when each modality fails with probability p, but not all.</p>'
    return text


def _robustness_bars(title: str, bars: Sequence[tuple[str, float | None]], full: float) -> str:
    rows = "".join(
        f'<tr><td class="wrap">{escape(label)}</td><td class="bars">{_bar(value, "side head" in label, full)}</td></tr>'
        for label, value in bars
    )
    return f"<h3>{escape(title)}, mIoU</h3><table><tbody>{rows}</tbody></table>"


# --------------------------------------------------------------------------------------------------------------- about


def _about(run: Run, key: str) -> str:
    r = run.result
    versions = ", ".join(f"{k} {v}" for k, v in mapping(r.get("versions")).items())
    git = mapping(r.get("git"))
    command = r.get("command")
    parameters = mapping(r.get("parameters"))
    seconds = number(r.get("wall_time_s"))
    facts = {
        "run folder": str(run.folder.absolute()),
        "data set": _dataset(run),
        "split": r.get("split"),
        "protocol": protocol(r) if r else None,
        "modalities": ", ".join(run.modalities),
        "backbone": r.get("backbone") or run.setting("backbone", "name"),
        "loss": run.setting("loss", "name"),
        "checkpoint": r.get("checkpoint"),
        "chosen on": r.get("selection_split"),
        "parameters": ", ".join(f"{k} {v:,}" for k, v in parameters.items() if isinstance(v, int)),
        "seed": r.get("seed", run.setting("seed")),
        "epochs": r.get("epochs"),
        "steps": r.get("steps"),
        "wall time": None if seconds is None else _duration(seconds),
        "peak memory": f"{r['peak_memory_mb']} MiB" if r.get("peak_memory_mb") else None,
        "peak GPU memory": f"{r['peak_gpu_memory_mb']} MiB" if r.get("peak_gpu_memory_mb") else None,
        "published": mapping(run.config.get("published")).get("source"),
        "versions": versions,
        "commit": f"{git['commit']}{' (with changes)' if git.get('changed') else ''}" if git.get("commit") else None,
    }
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items() if v not in (None, ""))
    if isinstance(command, list):
        rows += f"<dt>command</dt><dd><code>{escape(shlex.join(map(str, command)))}</code></dd>"
    return f'<dl class="facts">{rows}</dl>'


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
